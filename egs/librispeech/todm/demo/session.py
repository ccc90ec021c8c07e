"""The one loaded supernet behind the page, and the streams of its visitors."""

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from todm.decoding.recognizer import Recognizer
from todm.decoding.stream import Stream
from todm.decoding.transcript import Transcript
from todm.results.decode_results import DecodeRow, read_results
from todm.results.subnets import SubnetEntry
from utils.audio import SAMPLE_RATE, AudioError, checked, rate_problem, read_pieces
from utils.errors import UserError

LONGEST_MINUTES = 120  # of a recording that is uploaded


class Demo:
    """A recogniser whose subnet is chosen anew for every recording.

    Attributes:
      entries: the subnets, the smallest first. rows: what stage 6 measured of them, if it has.
    """

    def __init__(self, recognizer: Recognizer, rows: list[DecodeRow]):
        self.recognizer, self.rows = recognizer, rows
        self.entries: list[SubnetEntry] = sorted(
            recognizer.entries, key=lambda entry: (entry.encoder_params, entry.name)
        )
        # the subnet in use is the recogniser's: one recording at a time
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path) -> "Demo":
        """The demo of an experiment or of an exported subnet.

        Raises:
          UserError: it is neither.
        """
        recognizer = Recognizer.load(folder)
        try:
            rows = list(read_results(folder / "results.json").rows)
        except UserError:
            rows = []
        return cls(recognizer, rows)

    @property
    def can_stream(self) -> bool:
        """Whether there are subnets that decode audio as it arrives."""
        return bool(self.recognizer.streaming)

    def transcribe(self, path: Path, number: int) -> tuple[Transcript, float]:
        """The transcript of a file by a subnet, and the seconds that it took.

        Args:
          number: of the subnet in ``entries``.
        Raises:
          AudioError: the file can not be read, or is too long: others wait for it.
        """
        begin = time.perf_counter()
        with self._lock:
            self.recognizer.use(self.entries[number].subnet)
            transcript = self.recognizer.transcribe(not_too_long(read_pieces(path), path))
        return transcript, time.perf_counter() - begin

    def listen(self, number: int) -> "Listening":
        """A new stream by a subnet.

        Raises:
          UserError: it is bidirectional; those that can stream are named.
        """
        with self._lock:
            self.recognizer.use(self.entries[number].subnet)
            return Listening(self.recognizer.stream())


def not_too_long(pieces: Iterable[np.ndarray], path: Path) -> Iterator[np.ndarray]:
    """Yields the pieces of a recording, up to ``LONGEST_MINUTES``: a small file may hold months of
    silence.

    Raises:
      AudioError: it is longer.
    """
    heard = 0
    for piece in pieces:
        heard += len(piece)
        if heard > 60 * LONGEST_MINUTES * SAMPLE_RATE:
            raise AudioError(f"{path} is longer than {LONGEST_MINUTES} minutes")
        yield piece


class Listening:
    """A stream of what a microphone gives, at any sampling rate."""

    def __init__(self, stream: Stream):
        self.stream, self.seconds = stream, 0.0
        self._lock = threading.Lock()  # pieces may come faster than they are recognised
        self._rate = SAMPLE_RATE
        self._resampler: Any = None  # of soxr

    def accept(self, rate: int, samples: np.ndarray) -> Transcript:
        """Takes the next samples, of integers or floats, (N,) or (N, channels); returns the
        transcript so far.

        Raises:
          AudioError: they are no sound.
        """
        if problem := rate_problem(rate):
            raise AudioError(f"the microphone: {problem}")
        if np.issubdtype(samples.dtype, np.integer):
            samples = samples / np.float32(np.iinfo(samples.dtype).max + 1)
        mono = samples.astype(np.float32).reshape(len(samples), -1).mean(axis=1)
        with self._lock:
            begin = time.perf_counter()
            self.stream.accept(self._resampled(rate, checked(mono, "the microphone")))
            self.seconds += time.perf_counter() - begin
            return self.stream.transcript()

    def finish(self) -> Transcript:
        """The transcript of all that was said: nothing more comes."""
        with self._lock:
            begin = time.perf_counter()
            if self._resampler is not None:
                rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
                self.stream.accept(np.asarray(rest))
            transcript = self.stream.finish()
            self.seconds += time.perf_counter() - begin
            return transcript

    def _resampled(self, rate: int, samples: np.ndarray) -> np.ndarray:
        if rate == SAMPLE_RATE:
            return samples
        if self._resampler is None or rate != self._rate:
            import soxr

            self._rate = rate
            self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        return np.asarray(self._resampler.resample_chunk(samples))
