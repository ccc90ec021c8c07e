"""Speech from files, raw streams and microphones, as mono float32 pieces at 16 kHz, in bounded
memory."""

import contextlib
import io
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from utils.errors import UserError

SAMPLE_RATE = 16000
PIECE_SECONDS = 0.5  # the length of what is read at a time
PIECE_VALUES = 1 << 20  # and how many values of all channels it may have
RATES = (1000, 1_000_000)  # Hz that are read: a header may say anything
# the peak of a file of floats: somewhat above 1 is a loud recording, thousands are another scale
LARGEST_SAMPLE = 64
OPEN_LENGTH = 0x7FFFF000  # bytes: what a WAV that is written to a pipe promises, or more
CONTAINERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"FORM": "AIFF", b".snd": "AU", b"caff": "CAF"}
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


class AudioError(UserError, ValueError):
    """Audio that can not be read; the message names the file."""


def read_pieces(path: Path) -> Iterator[np.ndarray]:
    """Yields the samples of a file, or of what comes through a named pipe, in pieces of half a
    second: float32 (N,), 16 kHz, mono, in [-1, 1].

    Raises:
      AudioError: missing, not readable, empty, not audio, damaged, or with samples that are no
      numbers.
    """
    try:
        if path.is_file():
            with open(path, "rb"):  # libsndfile does not say why it can not
                if path.stat().st_size == 0:
                    raise AudioError(f"{path} is empty")
            # bytes: soundfile would encode a name, and can not encode any
            yield from _decoded(os.fsencode(path), str(path))
        elif path.is_dir():
            raise AudioError(f"{path}: no such file, but a folder")
        else:
            with open(path, "rb") as opened:
                head, stream = peeked(opened)
                if not head:
                    raise AudioError(f"{path} is empty")
                yield from container_pieces(stream, str(path), head)
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file") from error
    except OSError as error:
        raise AudioError(f"{path} can not be read: {error.strerror or error}") from error


def _decoded(file: bytes | int | BinaryIO, name: str) -> Iterator[np.ndarray]:
    """Yields what libsndfile decodes of a file, of the reading end of a pipe (which is closed then)
    or of an open file."""
    try:
        with soundfile.SoundFile(file) as audio:
            rate, missing = audio.samplerate, audio.frames
            if problem := rate_problem(rate):
                raise AudioError(f"{name}: {problem}")
            frames = piece_frames(rate, audio.channels)
            # soundfile seeks after every read, which fails where the header has no length
            audio.seekable = lambda: False
            promised = re.search(
                r"^data : (\d+)(?: \(should be (\d+)\))?$", audio.extra_info, re.MULTILINE
            )
            if promised and int(promised[1]) >= OPEN_LENGTH:
                missing = 0
            elif promised and promised[2]:
                raise AudioError(
                    f"{name} is truncated: {int(promised[1]) - int(promised[2])} bytes of what "
                    "its header promises are missing"
                )

            def counted() -> Iterator[np.ndarray]:
                nonlocal missing
                while len(piece := audio.read(frames, dtype="float32", always_2d=True)):
                    missing -= len(piece)
                    yield checked(piece, name).mean(axis=1)

            yield from resampled(counted(), rate)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{name} is not audio that can be read, or is damaged: {error.error_string}"
        ) from error
    if 0 < missing < 2**62:  # of a stream without a length libsndfile says a huge one
        raise AudioError(
            f"{name} is truncated: {missing / rate:.2f} s of what its header promises are missing"
        )


def rate_problem(rate: int) -> str | None:
    """Says that no sound has such a sampling rate; None: it may. At 16 kHz what says 1 Hz would be
    16000 times as long."""
    low, high = RATES
    if low <= rate <= high:
        return None
    return f"its header says {rate} Hz, and sampling rates from {low} to {high} Hz are read"


def piece_frames(rate: int, channels: int) -> int:
    """The number of frames that are read at a time: half a second, or less where there are very
    many channels."""
    return max(1, min(round(rate * PIECE_SECONDS), PIECE_VALUES // max(channels, 1)))


def checked(samples: np.ndarray, name: str) -> np.ndarray:
    """Checks samples, since a file of floats may hold anything, and returns them.

    Raises:
      AudioError: some are NaN or infinite, or so large that they can not be meant to lie in [-1,
      1].
    """
    peak = float(np.abs(samples).max(initial=0))
    if not np.isfinite(peak):
        raise AudioError(
            f"{name} holds samples that are no numbers (NaN or infinity); the program that wrote "
            "it has a fault"
        )
    if peak > LARGEST_SAMPLE:
        raise AudioError(
            f"{name} holds samples as large as {peak:.0f}; in a file of floats they must lie "
            "between -1 and 1"
        )
    return samples


def container(head: bytes) -> str | None:
    """The kind of audio file that begins with these bytes (4 suffice, but 12 are better); None:
    none that is known, so it may be raw PCM."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] in (b"WAVE", b""):
        return "WAV"
    mpeg = (
        head[:1] == b"\xff"
        and head[1:2] in (b"\xfb", b"\xfa", b"\xf3", b"\xf2")
        and head[2:3]
        and head[2] >> 4 not in (0, 15)
        and head[2] >> 2 & 3 != 3
    )
    return CONTAINERS.get(head[:4]) or ("MP3" if head[:3] == b"ID3" or mpeg else None)


def peeked(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """The first bytes of a stream, at most 12, and a stream that begins with them."""
    # a thread that waits for a buffered standard input would hold its lock when Python ends
    stream = getattr(stream, "raw", stream)
    read, head = getattr(stream, "read1", stream.read), b""
    while len(head) < 12 and (got := read(12 - len(head))):
        head += got
    return head, io.BufferedReader(_Rejoined(head, read), buffer_size=1 << 16)


class _Rejoined(io.RawIOBase):
    """A stream with what was already read of it put back."""

    def __init__(self, head: bytes, read: Callable[[int], bytes]):
        self.head, self.read_on = head, read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        got = self.head[: len(view)] or self.read_on(len(view))
        self.head = self.head[len(got) :]
        view[: len(got)] = got
        return len(got)


def container_pieces(stream: BinaryIO, name: str, head: bytes) -> Iterator[np.ndarray]:
    """Yields the samples of an audio file that arrives through a pipe, as it arrives.

    FLAC is written to a temporary file first: libsndfile must seek in it.

    Args:
      head: its first bytes, which are still in the stream.
    Raises:
      AudioError: as :func:`read_pieces`.
    """
    if container(head) == "FLAC":
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            copy.seek(0)
            yield from _decoded(copy, name)
        return
    reading, writing = os.pipe()
    threading.Thread(target=_pump, args=(stream, writing), daemon=True).start()
    yield from _decoded(reading, name)


def _pump(stream: BinaryIO, descriptor: int) -> None:
    """Copy a stream into a pipe until one of them ends."""
    with contextlib.suppress(OSError), open(descriptor, "wb", buffering=0) as pipe:
        while got := _available(stream, 1 << 16):
            rest = memoryview(got)
            while rest:
                rest = rest[pipe.write(rest) :]


def _available(stream: BinaryIO, size: int) -> bytes:
    """At most ``size`` bytes, without waiting for more of them where the stream knows how."""
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    return read(size)


def pcm_pieces(stream: BinaryIO, rate: int) -> Iterator[np.ndarray]:
    """Yields the samples of raw 16-bit little-endian mono PCM at ``rate`` Hz, as it arrives, at 16
    kHz."""
    size = 2 * round(rate * PIECE_SECONDS / 5)

    def arriving() -> Iterator[np.ndarray]:
        rest = b""
        while got := _available(stream, size):
            got = rest + got
            whole = len(got) // 2 * 2
            rest = got[whole:]
            yield np.frombuffer(got[:whole], "<i2").astype(np.float32) / 32768

    return resampled(arriving(), rate)


def resampled(pieces: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Yields mono float32 pieces of ``rate`` Hz at 16 kHz, without seams."""
    if rate == SAMPLE_RATE:
        yield from pieces
        return
    import soxr  # heavy, and a device that records at 16 kHz does without

    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for piece in pieces:
        yield resampler.resample_chunk(np.ascontiguousarray(piece, np.float32))
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
