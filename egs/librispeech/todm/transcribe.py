"""Speech to text: files, folders, standard input or a microphone, with an experiment or an exported subnet.

  ./transcribe.sh exp/mini speech.wav other.flac folder/       text, a line per file
  ./transcribe.sh exp/mini --budget 600k --json speech.wav     JSON with tokens, words and their times
  ./transcribe.sh exp/mini-streaming --streaming speech.wav    decoded chunk by chunk; partial texts on stderr
  arecord -f S16_LE -r 16000 | ./transcribe.sh exp/mini-streaming --streaming -      raw 16-bit PCM
  ./transcribe.sh exp/mini-streaming --microphone              needs the package sounddevice
"""

import argparse
import json
import queue
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from egs.librispeech.todm.recognizer import Recognizer, Transcript
from utils.audio import SAMPLE_RATE, SUFFIXES, AudioError, pcm_pieces, read_pieces
from utils.progress import progress
from utils.stages import StageError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="transcribe.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an experiment (exp/NAME) or an exported subnet (exp/NAME/export/SUBNET)")
    parser.add_argument("audio", nargs="*", help="WAV or FLAC files at any sampling rate, folders of them, or - for raw PCM from standard input")
    parser.add_argument("--microphone", action="store_true", help="listen until interrupted")
    parser.add_argument("--budget", help="the best subnet within this, e.g. 600k, 3M or 0.5 (of search.cost)")
    parser.add_argument("--subnet", help="the subnet of this name, or an architecture")
    parser.add_argument("--streaming", action="store_true", help="decode chunk by chunk, as audio arrives (causal models)")
    parser.add_argument("--beam", type=int, default=0, metavar="N", help="modified beam search of this width; default: greedy")
    parser.add_argument("--rate", type=int, default=SAMPLE_RATE, help="sampling rate of standard input (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default %(default)s: what small models are fastest with)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parsed = parser.parse_intermixed_args(arguments)
    if not parsed.audio and not parsed.microphone:
        parser.error("give audio files, a folder, - or --microphone")
    if parsed.budget and parsed.subnet:
        parser.error("--budget and --subnet both choose the subnet; give one")
    if parsed.beam < 0 or parsed.rate <= 0 or parsed.threads <= 0:
        parser.error("--beam must not be negative; --rate and --threads must be positive")
    return parsed


def sources(arguments: argparse.Namespace) -> list[str]:
    """Files, with folders replaced by the audio in them; - and the microphone by name."""
    found: list[str] = []
    for name in arguments.audio:
        if name != "-" and Path(name).is_dir():
            inside = sorted(str(p) for p in Path(name).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise StageError(f"{name} holds no audio ({', '.join(SUFFIXES)})")
            found += inside
        else:
            found.append(name)
    return found + (["microphone"] if arguments.microphone else [])


def pieces_of(source: str, arguments: argparse.Namespace) -> Iterable[np.ndarray]:
    """The samples of one source, as they come."""
    if source == "-":
        return pcm_pieces(sys.stdin.buffer, arguments.rate)
    if source == "microphone" and arguments.microphone:
        return microphone_pieces()
    return read_pieces(Path(source))


def microphone_pieces() -> Iterator[np.ndarray]:
    """What the default microphone hears, until Ctrl-C.

    Raises:
      StageError: there is none, or the package for it is missing.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise StageError(f"--microphone needs the package sounddevice and the PortAudio library ({error}): .venv/bin/pip install sounddevice") from error
    heard: queue.Queue = queue.Queue()
    try:
        with sounddevice.InputStream(samplerate=SAMPLE_RATE, channels=1, dtype="float32", callback=lambda data, *_: heard.put(data[:, 0].copy())):
            print("listening; Ctrl-C ends it", file=sys.stderr)
            while True:
                yield heard.get()
    except KeyboardInterrupt:
        return
    except sounddevice.PortAudioError as error:
        raise StageError(f"no microphone can be opened: {error}") from error


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
                print(f"\r{stream.transcript().text[-100:]}\033[K", end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        if source != "microphone":
            raise
    if watched:
        print("\r\033[K", end="", file=sys.stderr)
    return stream.finish()


def run(arguments: argparse.Namespace) -> int:
    """Transcribe every source; one that can not be read is named and the others go on. Returns the exit status."""
    torch.set_num_threads(arguments.threads)
    recognizer = Recognizer.load(arguments.model, arguments.beam)
    if arguments.budget:
        recognizer.use_budget(arguments.budget)
    elif arguments.subnet:
        recognizer.use(arguments.subnet)
    if arguments.streaming and not recognizer.can_stream:
        recognizer.stream()  # says what is missing
    failed = 0
    everything = sources(arguments)
    for source in progress(everything, desc="transcribe", unit="file", disable=len(everything) < 2 or not sys.stderr.isatty()):
        begin = time.perf_counter()
        try:
            transcript = transcribe(recognizer, source, arguments)
        except AudioError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            failed += 1
            continue
        seconds = time.perf_counter() - begin
        if arguments.json:
            row = {"source": source, "subnet": str(recognizer.subnet), **transcript.as_dict(), "computing_seconds": round(seconds, 3)}
            print(json.dumps(row, ensure_ascii=False), flush=True)
        else:
            print(transcript.text if len(everything) == 1 else f"{source}\t{transcript.text}", flush=True)
    return 1 if failed else 0


def main() -> None:
    arguments = parse_arguments()
    try:
        sys.exit(run(arguments))
    except StageError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
