"""The workloads of exported encoders in onnxruntime, in processes without torch."""

from pathlib import Path

import numpy as np
import onnxruntime

from todm.benchmark.clock import Measured, MemoryPeak, Missing, Stopwatch
from todm.benchmark.settings import Settings

BINS = 80
FRAMES = 100  # of features in a second
AUDIO_SECONDS = (3, 10, 30)
REFERENCE_SECONDS, LONG_SECONDS = 30, 240
STREAM_SECONDS = 30


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU with onnxruntime's own settings but for the threads.

    Raises:
      Missing: the encoder was not exported.
    """
    if not path.is_file():
        raise Missing("the encoder was not exported")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def noise(frames: int) -> np.ndarray:
    """Features (1, T, 80), the same ones for every revision."""
    return np.random.default_rng(1).standard_normal((1, frames, BINS), dtype=np.float32)


def encode(session: onnxruntime.InferenceSession, seconds: int, times: int = 1) -> Stopwatch:
    """Encodes an utterance of noise a few times."""
    x = noise(seconds * FRAMES)
    inputs = {"x": x, "x_lens": np.array([x.shape[1]], np.int64)}
    with Stopwatch() as watch:
        for _ in range(times):
            session.run(None, inputs)
    return watch


class LoadedEncoder:
    """The time and the memory of loading an encoder, in a process that has onnxruntime and nothing
    else.

    Args:
      mode: ``offline`` or ``streaming``. precision: ``fp32`` or ``int8``.
    """

    def __init__(self, settings: Settings, mode: str, precision: str):
        self.path, self.threads = settings.graph(mode, precision), settings.threads

    def run(self) -> dict[str, Measured]:
        """Loads the encoder."""
        with MemoryPeak() as peak, Stopwatch() as watch:
            session = open_session(self.path, self.threads)
        del session
        return {"time": watch.measured(1000), "peak memory": peak.measured()}


class OfflineEncoder:
    """The time of an offline encoder over utterances of some lengths.

    Args:
      precision: ``fp32`` or ``int8``.
    """

    def __init__(self, settings: Settings, precision: str):
        self.session = open_session(settings.graph("offline", precision), settings.threads)

    def warm_up(self) -> None:
        """Encodes every length once: onnxruntime plans its memory by the shapes."""
        for seconds in AUDIO_SECONDS:
            encode(self.session, seconds)

    def run(self) -> dict[str, Measured]:
        """Encodes 30 s of audio in utterances of every length."""
        figures = {}
        for seconds in AUDIO_SECONDS:
            times = REFERENCE_SECONDS // seconds
            watch = encode(self.session, seconds, times)
            figures[f"{seconds} s"] = watch.measured(1 / (times * seconds))
        return figures


class LongAudio:
    """The time and the memory of an offline encoder over a very long utterance.

    Args:
      precision: ``fp32`` or ``int8``.
    """

    def __init__(self, settings: Settings, precision: str):
        self.session = open_session(settings.graph("offline", precision), settings.threads)

    def run(self) -> dict[str, Measured]:
        """Encodes 30 s, then a long utterance; the second time of each is the one that counts."""
        encode(self.session, REFERENCE_SECONDS)
        reference = encode(self.session, REFERENCE_SECONDS)
        with MemoryPeak() as peak:
            encode(self.session, LONG_SECONDS)
        long = encode(self.session, LONG_SECONDS)
        ratio = REFERENCE_SECONDS / LONG_SECONDS
        return {
            "240 s": long.measured(1 / LONG_SECONDS),
            "240 s / 30 s": Measured(
                long.processor / reference.processor * ratio, long.wall / reference.wall * ratio
            ),
            "peak memory": peak.measured(),
        }


class StreamingEncoder:
    """The time of a streaming encoder, chunk after chunk with the states between them.

    Args:
      precision: ``fp32`` or ``int8``.
    """

    def __init__(self, settings: Settings, precision: str):
        self.session = open_session(settings.graph("streaming", precision), settings.threads)
        facts = self.session.get_modelmeta().custom_metadata_map
        self.chunk, self.frames = int(facts["decode_chunk_len"]), int(facts["T"])
        shapes = {each.name: each.shape for each in self.session.get_inputs()}
        self.states = {
            name: np.zeros((1, 1, shape[2]), np.float32)
            for name, shape in shapes.items()
            if name != "x"
        }

    def warm_up(self) -> None:
        """Encodes a few chunks."""
        self._stream(5)

    def run(self) -> dict[str, Measured]:
        """Encodes a stream."""
        chunks = STREAM_SECONDS * FRAMES // self.chunk
        with Stopwatch() as watch:
            self._stream(chunks)
        return {"320 ms chunks": watch.measured(FRAMES / (chunks * self.chunk))}

    def _stream(self, chunks: int) -> None:
        states, x = dict(self.states), noise(self.frames)
        for _ in range(chunks):
            _, *after = self.session.run(None, {"x": x} | states)
            states = dict(zip(states, after))
