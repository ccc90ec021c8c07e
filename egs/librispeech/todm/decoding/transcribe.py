"""Speech to text: files, folders, standard input or a microphone, with an experiment or an exported
subnet.

Text, a line per file:
  ./transcribe.sh exp/mini speech.wav other.flac folder/
JSON with tokens, words and their times, by the best subnet within a budget:
  ./transcribe.sh exp/mini --budget 600k --json speech.wav
Subtitles, of one file on standard output, of more into a folder:
  ./transcribe.sh exp/mini --subtitles srt --output subtitles/ talks/
Beam search that prefers the words of a file, and its three best texts:
  ./transcribe.sh exp/mini --beam 4 --hotwords names.txt --json --nbest 3 speech.wav
Decoded chunk by chunk as audio arrives, partial texts on stderr; - is raw 16-bit PCM, or a file:
  ./transcribe.sh exp/mini-streaming --streaming speech.wav
  arecord -f S16_LE -r 16000 | ./transcribe.sh exp/mini-streaming --streaming -
The microphone, for which the package sounddevice is needed:
  ./transcribe.sh exp/mini-streaming --microphone
"""

import argparse
import io
import os
import sys

from utils.errors import UserError

RATE = 16000  # of raw audio, unless --rate says otherwise


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line of transcribe.sh, checked as far as it can be without a model."""
    parser = argparse.ArgumentParser(
        prog="transcribe.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", help="an experiment (exp/NAME) or an exported subnet (exp/NAME/export/SUBNET)"
    )
    parser.add_argument(
        "audio",
        nargs="*",
        help="WAV or FLAC files at any sampling rate, folders of them, or - for standard input: "
        "raw PCM, or such a file",
    )
    parser.add_argument("--microphone", action="store_true", help="listen until interrupted")
    parser.add_argument(
        "--budget", help="the best subnet within this, e.g. 600k, 3M or 0.5 (of search.cost)"
    )
    parser.add_argument("--subnet", help="the subnet of this name, or an architecture")
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="decode chunk by chunk, as audio arrives (causal models)",
    )
    parser.add_argument(
        "--beam",
        type=int,
        default=0,
        metavar="N",
        help="modified beam search of this width; default: greedy",
    )
    parser.add_argument(
        "--rate",
        type=int,
        default=RATE,
        help="sampling rate of raw PCM from standard input (default %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of PyTorch (default %(default)s: what small models are fastest with)",
    )
    parser.add_argument(
        "--blank-penalty",
        type=float,
        metavar="X",
        help="more words where too many are left out, e.g. 1 (default: decode.blank_penalty)",
    )
    parser.add_argument(
        "--hotwords",
        metavar="FILE",
        help="words and phrases to prefer, a line each, WORDS or WORDS :boost; needs --beam",
    )
    parser.add_argument(
        "--hotwords-score",
        type=float,
        metavar="X",
        help="boost of the lines without one (default: decode.hotwords_score)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--nbest", type=int, metavar="N", help="the N best hypotheses in --json; needs --beam"
    )
    parser.add_argument(
        "--subtitles",
        choices=("srt", "vtt"),
        help="subtitles instead of text; of several files with --output",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="for subtitles: a file for each, called like the audio"
    )
    parsed = parser.parse_intermixed_args(arguments)
    if not parsed.audio and not parsed.microphone:
        parser.error("give audio files, a folder, - or --microphone")
    if parsed.budget and parsed.subnet:
        parser.error("--budget and --subnet both choose the subnet; give one")
    if parsed.beam < 0 or parsed.rate <= 0 or parsed.threads <= 0:
        parser.error("--beam must not be negative; --rate and --threads must be positive")
    if parsed.blank_penalty is not None and not 0 <= parsed.blank_penalty < 100:
        parser.error("--blank-penalty must be from 0 to 100")
    if parsed.hotwords is not None and not parsed.beam:
        parser.error("--hotwords are for beam search; give --beam 4, too")
    if parsed.hotwords_score is not None and parsed.hotwords is None:
        parser.error("--hotwords-score is for --hotwords FILE; give it, too")
    if parsed.hotwords_score is not None and not 0 < parsed.hotwords_score <= 100:
        parser.error("--hotwords-score must be above 0, and 100 at most")
    if parsed.nbest is not None and not parsed.json:
        parser.error("--nbest is for --json; give it, too")
    if parsed.nbest is not None and not 1 <= parsed.nbest <= parsed.beam:
        parser.error("--nbest must be from 1 to --beam, which keeps as many hypotheses")
    if parsed.json and parsed.subtitles:
        parser.error("--json and --subtitles are two forms of the output; give one")
    if parsed.output and not parsed.subtitles:
        parser.error("--output is the folder for subtitles; give --subtitles srt, too")
    return parsed


def main() -> None:
    """Transcribes what the command line asks for; the exit status says whether all could be."""
    arguments = parse_arguments()
    # PyTorch and the audio libraries take a second: --help and mistakes need not wait for them.
    from todm.decoding.transcribe_sources import run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # names of files may be any bytes
    try:
        sys.exit(run(arguments))
    except UserError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read the texts wants no more of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
