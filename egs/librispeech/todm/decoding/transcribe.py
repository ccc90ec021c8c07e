"""Speech to text: files, folders, standard input or a microphone, with an experiment or an exported
subnet.

Text, a line per file:
  ./transcribe.sh exp/mini speech.wav other.flac folder/
JSON with tokens, words and their times, by the best subnet within a budget:
  ./transcribe.sh exp/mini --budget 600k --json speech.wav
Decoded chunk by chunk as audio arrives, partial texts on stderr; - is raw 16-bit PCM, or a file:
  ./transcribe.sh exp/mini-streaming --streaming speech.wav
  arecord -f S16_LE -r 16000 | ./transcribe.sh exp/mini-streaming --streaming -
The microphone, for which the package sounddevice is needed:
  ./transcribe.sh exp/mini-streaming --microphone
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

# PyTorch and the audio libraries take a second: they are imported when the arguments are understood
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np

    from todm.decoding.recognizer import Recognizer
    from todm.decoding.transcript import Transcript

RATE = 16000  # of raw audio, unless --rate says otherwise


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
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
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parsed = parser.parse_intermixed_args(arguments)
    if not parsed.audio and not parsed.microphone:
        parser.error("give audio files, a folder, - or --microphone")
    if parsed.budget and parsed.subnet:
        parser.error("--budget and --subnet both choose the subnet; give one")
    if parsed.beam < 0 or parsed.rate <= 0 or parsed.threads <= 0:
        parser.error("--beam must not be negative; --rate and --threads must be positive")
    return parsed


def sources(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Files, with folders replaced by the audio in them, - and the microphone by name; and what is
    wrong with some of the folders."""
    found, wrong = [], []
    for name in arguments.audio:
        if name == "-" or not os.path.isdir(name):
            found.append(name)
            continue
        inside, unreadable = audio_below(name)
        wrong += unreadable
        found += inside
        if not inside and not unreadable:
            wrong.append(f"{name} holds no audio ({', '.join(suffixes())})")
    return found + (["microphone"] if arguments.microphone else []), wrong


def audio_below(folder: str) -> tuple[list[str], list[str]]:
    """The audio files in a folder and all below it, in order; and which of them can not be listed,
    and why."""
    wrong: list[str] = []
    inside = [
        os.path.join(path, name)
        for path, _, names in os.walk(
            folder, onerror=lambda e: wrong.append(f"{e.filename} can not be read: {e.strerror}")
        )
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes()
    ]
    return sorted(str(Path(path)) for path in inside), wrong


def suffixes() -> tuple[str, ...]:
    """Of audio files."""
    from utils.audio import SUFFIXES

    return SUFFIXES


def pieces_of(source: str, arguments: argparse.Namespace) -> Iterable[np.ndarray]:
    """The samples of one source, as they come."""
    from utils.audio import read_pieces

    if source == "-":
        return standard_input_pieces(arguments.rate)
    if source == "microphone" and arguments.microphone:
        return microphone_pieces()
    return read_pieces(Path(source))


def standard_input_pieces(rate: int) -> Iterable[np.ndarray]:
    """Raw PCM at this rate, unless it begins as an audio file does."""
    from utils.audio import container, container_pieces, pcm_pieces, peeked

    head, stream = peeked(sys.stdin.buffer)
    kind = container(head)
    if kind is None:
        return pcm_pieces(stream, rate)
    print(f"standard input is {kind}, not raw PCM, and is decoded as that", file=sys.stderr)
    return container_pieces(stream, "standard input", head)


def microphone_pieces() -> Iterator[np.ndarray]:
    """What the default microphone hears, until Ctrl-C.

    Raises:
      UserError: there is none, or the package for it is missing.
    """
    from utils.audio import SAMPLE_RATE
    from utils.errors import UserError

    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise UserError(
            f"--microphone needs the package sounddevice and the PortAudio library ({error}): "
            ".venv/bin/pip install sounddevice"
        ) from error
    heard: queue.Queue = queue.Queue()
    try:
        with sounddevice.InputStream(
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="float32",
            callback=lambda data, *_: heard.put(data[:, 0].copy()),
        ):
            print("listening; Ctrl-C ends it", file=sys.stderr)
            while True:
                yield heard.get()
    except KeyboardInterrupt:
        return
    except sounddevice.PortAudioError as error:
        raise UserError(f"no microphone can be opened: {error}") from error


def transcribe(recognizer: Recognizer, source: str, arguments: argparse.Namespace) -> Transcript:
    """One source, whole or streamed."""
    pieces = pieces_of(source, arguments)
    if not arguments.streaming:
        return recognizer.transcribe(pieces)
    stream, watched = recognizer.stream(), sys.stderr.isatty()
    try:
        for piece in pieces:
            stream.accept(piece)
            if watched:
                print(
                    f"\r{stream.transcript().text[-100:]}\033[K",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
    except KeyboardInterrupt:
        if source != "microphone":
            raise
    if watched:
        print("\r\033[K", end="", file=sys.stderr)
    return stream.finish()


def load(arguments: argparse.Namespace) -> Recognizer:
    """The recogniser, with the subnet that was asked for in use."""
    import torch

    from todm.decoding.recognizer import Recognizer

    torch.set_num_threads(arguments.threads)
    recognizer = Recognizer.load(arguments.model, arguments.beam)
    if arguments.budget:
        recognizer.use_budget(arguments.budget)
    elif arguments.subnet:
        recognizer.use(arguments.subnet)
    if arguments.streaming and not recognizer.can_stream:
        recognizer.stream()  # says what is missing
    return recognizer


def run(arguments: argparse.Namespace) -> int:
    """Transcribe every source; one that can not be read is named and the others go on. Returns the
    exit status.

    Raises:
      UserError: nothing can be transcribed, and why.
    """
    from utils.audio import AudioError
    from utils.errors import UserError
    from utils.progress import progress

    recognizer = load(arguments)
    everything, wrong = sources(arguments)
    if not everything:
        raise UserError("\nERROR: ".join(wrong))
    for message in wrong:
        print(f"ERROR: {message}", file=sys.stderr)
    several, failed = len(everything) > 1 or bool(wrong), len(wrong)
    for source in progress(
        everything,
        desc="transcribe",
        unit="file",
        disable=len(everything) < 2 or not sys.stderr.isatty(),
    ):
        begin = time.perf_counter()
        try:
            transcript = transcribe(recognizer, source, arguments)
        except (AudioError, OSError) as error:
            print(
                f"ERROR: {error if isinstance(error, AudioError) else f'{source}: {error}'}",
                file=sys.stderr,
            )
            failed += 1
            continue
        seconds = time.perf_counter() - begin
        if arguments.json:
            row = {
                "source": source,
                "subnet": str(recognizer.subnet),
                **transcript.as_dict(),
                "computing_seconds": round(seconds, 3),
            }
            print(json.dumps(row, ensure_ascii=False), flush=True)
        else:
            print(f"{source}\t{transcript.text}" if several else transcript.text, flush=True)
    return 1 if failed else 0


def main() -> None:
    arguments = parse_arguments()
    from utils.errors import UserError

    for stream in (sys.stdout, sys.stderr):
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
