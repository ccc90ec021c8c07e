"""Real-time factor, latency and memory of an exported subnet in sherpa-onnx, on one thread.

Every measurement is a process of its own, so that memory is that of one model.  Stage 10 starts
such processes (see :mod:`~todm.deploy.benchmark_rounds`).  By hand, on a device that has Python
with numpy, onnxruntime, soundfile and sherpa-onnx:
``python -m todm.deploy.benchmark_client FOLDER AUDIO...``.
"""

import argparse
import contextlib
import json
import resource
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from todm.data.frames import SHIFT
from todm.deploy.client import Client, decode_chunk_length
from todm.results.export_files import ENCODERS, graph
from todm.results.export_rows import Figures
from utils.audio import SAMPLE_RATE, read_pieces
from utils.errors import UserError

LONG_SECONDS = 30.0  # of the utterance that memory is measured on


def memory_mib() -> float:
    """The most memory in MiB that this process has had resident."""
    with contextlib.suppress(OSError):  # getrusage counts the process that started this one, too
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(
    folder: Path, precision: str, streaming: bool, utterances: list[np.ndarray], chunk_samples: int
) -> Figures:
    """Measures one variant of an exported subnet in this process.

    Args:
      utterances: float samples at 16 kHz in [-1, 1].
      chunk_samples: what a stream advances at a time.
    Raises:
      UserError: a file is missing, or the encoder has another chunk length.
    """
    # The chunk length is given: to read it from the graph would count as memory of the model.
    chunk_frames = chunk_samples // SHIFT
    before = memory_mib()
    begin = time.perf_counter()
    client = Client(folder, precision, streaming=streaming, chunk_frames=chunk_frames)
    load = time.perf_counter() - begin
    loaded = memory_mib()
    client.decode(utterances[:1])  # warms up
    if streaming:
        factor, first_token, latency = stream_times(client, utterances, chunk_samples)
    else:
        factor, first_token, latency = decode_times(client, utterances)
    client.decode([np.resize(np.concatenate(utterances), round(LONG_SECONDS * SAMPLE_RATE))])
    peak = memory_mib()
    if streaming:
        require_chunk(folder, precision, chunk_frames)
    return Figures(factor, first_token, latency, load, loaded - before, peak - before)


def require_chunk(folder: Path, precision: str, chunk_frames: int) -> None:
    """Refuses a chunk length that is not the streaming encoder's.

    Raises:
      UserError: it is another.
    """
    path = folder / graph(ENCODERS["streaming"], precision)
    exported = decode_chunk_length(path)
    if exported != chunk_frames:
        raise UserError(
            f"{path} advances {exported} frames at a time: give --chunk-samples {SHIFT * exported}"
        )


def decode_times(client: Client, utterances: list[np.ndarray]) -> tuple[float, None, float]:
    """Decodes utterance by utterance, as a device would: the real-time factor, None, and the median
    latency in ms."""
    latencies = []
    for samples in utterances:
        begin = time.perf_counter()
        client.decode([samples])
        latencies.append(time.perf_counter() - begin)
    audio = sum(map(len, utterances)) / SAMPLE_RATE
    return sum(latencies) / audio, None, 1000 * statistics.median(latencies)


def stream_times(
    client: Client, utterances: list[np.ndarray], chunk_samples: int
) -> tuple[float, float | None, float]:
    """Streams every utterance in pieces of 10 ms: the real-time factor, the median latency of first
    tokens and the computing for a chunk, both in ms.

    The latency of a first token is the time from its time stamp until it is shown.
    """
    piece, computing, audio, first = SAMPLE_RATE // 100, 0.0, 0.0, []
    for samples in utterances:
        shown = None
        begin = last = time.perf_counter()
        for heard, text in client.partial(samples, piece):
            now = time.perf_counter()
            if text.strip() and shown is None:
                shown = heard / SAMPLE_RATE + now - last
            last = now
        computing += last - begin
        audio += heard / SAMPLE_RATE
        if shown is not None and client.first_seen is not None:
            first.append(1000 * (shown - client.first_seen))
    latency = 1000 * computing / audio * chunk_samples / SAMPLE_RATE
    return computing / audio, statistics.median(first) if first else None, latency


def as_printed(figures: Figures, streaming: bool) -> dict[str, Any]:
    """The figures by name; ``first_token_ms`` for streams alone."""
    values = asdict(figures)
    return values if streaming else {k: v for k, v in values.items() if k != "first_token_ms"}


def read_audio(paths: list[Path]) -> list[np.ndarray]:
    """The utterances of audio files, and of .npz files with samples at 16 kHz."""
    utterances = []
    for path in paths:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                utterances += [stored[name] for name in stored.files]
        else:
            utterances.append(np.concatenate(list(read_pieces(path))))
    return utterances


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="an exported folder")
    parser.add_argument("audio", nargs="+", type=Path, help="speech to measure on")
    parser.add_argument("--mode", choices=("offline", "streaming"), default="offline")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--chunk-samples", type=int, default=5120)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser.parse_args()


def main() -> None:
    """Measures one variant and prints its figures."""
    arguments = parse_arguments()
    streaming = arguments.mode == "streaming"
    try:
        utterances = read_audio(arguments.audio)
        figures = measure(
            arguments.folder, arguments.precision, streaming, utterances, arguments.chunk_samples
        )
    except UserError as error:
        sys.exit(f"ERROR: {error}")
    values = as_printed(figures, streaming)
    if arguments.json:
        print(json.dumps(values))
    else:
        print("\n".join(f"{k:18s} {v:10.4f}" for k, v in values.items() if v is not None))


if __name__ == "__main__":
    main()
