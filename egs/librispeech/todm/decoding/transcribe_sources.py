"""The work of transcribe.sh: every file, stream or microphone becomes text, a line each."""

import argparse
import json
import os
import queue
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from todm.decoding.recognizer import Recognizer
from todm.decoding.transcript import Transcript
from utils.audio import (
    SAMPLE_RATE,
    SUFFIXES,
    AudioError,
    container,
    container_pieces,
    pcm_pieces,
    peeked,
    read_pieces,
)
from utils.errors import UserError
from utils.files import write_text_atomic
from utils.progress import progress
from utils.subtitles import subtitles


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
            wrong.append(f"{name} holds no audio ({', '.join(SUFFIXES)})")
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
        if os.path.splitext(name)[1].lower() in SUFFIXES
    ]
    return sorted(str(Path(path)) for path in inside), wrong


def pieces_of(source: str, arguments: argparse.Namespace) -> Iterable[np.ndarray]:
    """The samples of one source, as they come."""
    if source == "-":
        return standard_input_pieces(arguments.rate)
    if source == "microphone" and arguments.microphone:
        return microphone_pieces()
    return read_pieces(Path(source))


def standard_input_pieces(rate: int) -> Iterable[np.ndarray]:
    """Raw PCM at this rate, unless it begins as an audio file does."""
    head, stream = peeked(sys.stdin.buffer)
    kind = container(head)
    if kind is None:
        return pcm_pieces(stream, rate)
    print(f"standard input is {kind}, not raw PCM, and is decoded as that", file=sys.stderr)
    return container_pieces(stream, "standard input", head)


def microphone_pieces() -> Iterator[np.ndarray]:
    """Pieces from the default microphone, until Ctrl-C.

    Raises:
      UserError: there is none, or the package for it is missing.
    """
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
    torch.set_num_threads(arguments.threads)
    recognizer = Recognizer.load(arguments.model, arguments.beam)
    if arguments.budget:
        recognizer.use_budget(arguments.budget, arguments.streaming)
    elif arguments.subnet:
        recognizer.use(arguments.subnet)
    elif arguments.streaming and recognizer.streaming:  # of a dual supernet the largest that can
        recognizer.use(recognizer.streaming[0].subnet)
    if arguments.blank_penalty is not None:
        if recognizer.model.is_ctc:
            raise UserError("--blank-penalty is for transducers, and this is a CTC model")
        recognizer.options = replace(recognizer.options, blank_penalty=arguments.blank_penalty)
    if arguments.hotwords is not None:
        recognizer.prefer(arguments.hotwords, arguments.hotwords_score)
    if arguments.nbest:
        recognizer.options = replace(recognizer.options, nbest=arguments.nbest)
    if arguments.streaming and not recognizer.can_stream:
        recognizer.stream()  # says what is missing
    return recognizer


def run(arguments: argparse.Namespace) -> int:
    """Transcribes every source; one that can not be read is named and the others go on. Returns the
    exit status.

    Raises:
      UserError: nothing can be transcribed, and why.
    """
    recognizer = load(arguments)
    everything, wrong = sources(arguments)
    if not everything:
        raise UserError("\nERROR: ".join(wrong))
    for message in wrong:
        print(f"ERROR: {message}", file=sys.stderr)
    several, failed = len(everything) > 1 or bool(wrong), len(wrong)
    if arguments.subtitles and several and not arguments.output:
        raise UserError("subtitles of more than one file need a folder: --output FOLDER")
    targets = subtitle_files(everything, arguments)
    if arguments.output:
        try:
            Path(arguments.output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {arguments.output}: {error.strerror or error}") from error
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
        if arguments.subtitles:
            words = [(word["start"], word["word"]) for word in transcript.words()]
            text = subtitles(words, transcript.seconds, arguments.subtitles)
            if source in targets:
                try:
                    write_text_atomic(targets[source], text)
                except OSError as error:
                    raise UserError(f"{targets[source]} can not be written: {error}") from error
            else:
                print(text, end="", flush=True)
        elif arguments.json:
            print(as_json(recognizer, source, transcript, time.perf_counter() - begin), flush=True)
        else:
            print(f"{source}\t{transcript.text}" if several else transcript.text, flush=True)
    return 1 if failed else 0


def subtitle_files(everything: list[str], arguments: argparse.Namespace) -> dict[str, Path]:
    """The file that every source's subtitles are written to; none without ``--output``. Sources of
    the same name are numbered."""
    found: dict[str, Path] = {}
    if not arguments.output:
        return found
    taken: set[str] = set()
    numbers: Counter[str] = Counter()  # the last one of every name, so that none is tried twice
    for source in everything:
        stem = name = "standard-input" if source == "-" else Path(source).stem
        while name in taken:
            numbers[stem] += 1
            name = f"{stem}-{numbers[stem] + 1}"
        taken.add(name)
        found[source] = Path(arguments.output) / f"{name}.{arguments.subtitles}"
    return found


def as_json(recognizer: Recognizer, source: str, transcript: Transcript, seconds: float) -> str:
    """The line of ``--json`` for one source. ``seconds``: of computing."""
    row = {
        "source": source,
        "subnet": str(recognizer.subnet),
        **transcript.as_dict(),
        "computing_seconds": round(seconds, 3),
    }
    return json.dumps(row, ensure_ascii=False)
