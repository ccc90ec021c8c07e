"""Speech from files, raw streams and microphones, as mono float32 pieces at 16 kHz, in bounded memory."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16000
PIECE_SECONDS = 0.5   # of what is read at a time
PAUSE_SECONDS = 0.1   # length of the quietest stretch that a long recording is cut in
OPEN_LENGTH = 0x7FFFF000  # bytes: what a WAV that is written to a pipe promises, or more
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


class AudioError(ValueError):
    """Audio that can not be read; the message names the file."""


def read_pieces(path: Path) -> Iterator[np.ndarray]:
    """The samples of a file in pieces of half a second: 16 kHz, mono, in [-1, 1].

    Raises:
      AudioError: missing, empty, not audio, or damaged.
    """
    try:
        found, size = path.is_file(), path.stat().st_size
    except OSError:
        found = False
    if not found:
        raise AudioError(f"{path}: no such file")
    if size == 0:
        raise AudioError(f"{path} is empty")
    try:
        with soundfile.SoundFile(path) as audio:
            rate, missing = audio.samplerate, audio.frames
            audio.seekable = lambda: False  # soundfile seeks after every read, which fails where the header has no length
            promised = re.search(r"^data : (\d+) \(should be (\d+)\)", audio.extra_info, re.MULTILINE)
            if promised and int(promised[1]) < OPEN_LENGTH:
                raise AudioError(f"{path} is truncated: {int(promised[1]) - int(promised[2])} bytes of what its header promises are missing")

            def counted() -> Iterator[np.ndarray]:
                nonlocal missing
                while len(piece := audio.read(round(rate * PIECE_SECONDS), dtype="float32", always_2d=True)):
                    missing -= len(piece)
                    yield piece.mean(axis=1)

            yield from resampled(counted(), rate)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} is not audio that can be read, or is damaged: {error.error_string}") from error
    if 0 < missing < 2**62:  # of a stream without a length libsndfile says a huge one
        raise AudioError(f"{path} is truncated: {missing / rate:.2f} s of what its header promises are missing")


def pcm_pieces(stream: BinaryIO, rate: int) -> Iterator[np.ndarray]:
    """Raw 16-bit little-endian mono PCM, as it arrives."""
    size = 2 * round(rate * PIECE_SECONDS / 5)

    def arriving() -> Iterator[np.ndarray]:
        rest = b""
        while got := (stream.read1(size) if hasattr(stream, "read1") else stream.read(size)):
            got = rest + got
            whole = len(got) // 2 * 2
            rest = got[whole:]
            yield np.frombuffer(got[:whole], "<i2").astype(np.float32) / 32768

    return resampled(arriving(), rate)


def resampled(pieces: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Mono float32 pieces at any rate -> the same at 16 kHz, without seams."""
    if rate == SAMPLE_RATE:
        yield from pieces
        return
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for piece in pieces:
        yield resampler.resample_chunk(np.ascontiguousarray(piece, np.float32))
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def split_at_pauses(pieces: Iterable[np.ndarray], longest: float) -> Iterator[tuple[int, np.ndarray]]:
    """``(first sample, samples)`` of stretches of at most ``longest`` seconds, cut where it is quietest.

    What follows in the last half of a stretch decides where it ends, so that words are seldom cut in two.
    """
    most = max(round(longest * SAMPLE_RATE), 2)
    start, held = 0, np.zeros(0, np.float32)
    for piece in pieces:
        held = np.concatenate([held, piece])
        while len(held) > most:
            cut = quietest(held[most // 2 : most]) + most // 2
            yield start, held[:cut]
            start, held = start + cut, held[cut:]
    if len(held):
        yield start, held


def quietest(samples: np.ndarray) -> int:
    """The middle of the stretch of 0.1 s with the least energy."""
    width = min(round(PAUSE_SECONDS * SAMPLE_RATE), len(samples))
    energy = np.cumsum(np.concatenate([[0.0], np.square(samples, dtype=np.float64)]))
    return int(np.argmin(energy[width:] - energy[:-width])) + width // 2
