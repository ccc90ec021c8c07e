"""Real-time factor, latency, memory and size of exported subnets in sherpa-onnx, on one thread.

Stage 10 calls it.  Every measurement is a process of its own, so that memory is that of one model;
all variants take turns, so that a drift of the machine meets all.  By hand, on a device that has
Python:
``python -m todm.deploy.benchmark_client FOLDER AUDIO...``.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from todm.data.frames import LOOK_AHEAD
from todm.deploy.client import Client
from todm.results.export_files import TOKENS, graph, holds_ctc, parts
from utils.audio import SAMPLE_RATE, read_pieces
from utils.errors import UserError

LONG_SECONDS = 30.0  # of the utterance that memory is measured on
WINDOW_MS = 25


def algorithmic_latency_ms(chunk_frames: int) -> float:
    """From a frame of the input to its output, at most, without computing: the chunk, the
    frontend's look-ahead, half a window."""
    return 10.0 * (chunk_frames + LOOK_AHEAD) + WINDOW_MS / 2


def memory_mib() -> float:
    """The most that this process has had resident."""
    with contextlib.suppress(OSError):  # getrusage counts the process that started this one, too
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform != "darwin" else 1024**2
    )


def measure(
    folder: Path, precision: str, streaming: bool, utterances: list[np.ndarray], chunk_samples: int
) -> dict:
    """One process's figures: load time (s), real-time factor, latencies (ms), memory (MiB)."""
    before = memory_mib()
    begin = time.perf_counter()
    client = Client(folder, precision, streaming=streaming)
    load = time.perf_counter() - begin
    loaded = memory_mib()
    client.decode(utterances[:1])  # warms up
    figures = (
        _stream(client, utterances, chunk_samples) if streaming else _decode(client, utterances)
    )
    client.decode([np.resize(np.concatenate(utterances), round(LONG_SECONDS * SAMPLE_RATE))])
    return figures | {
        "load_seconds": load,
        "model_mib": loaded - before,
        "peak_mib": memory_mib() - before,
    }


def _decode(client: Client, utterances: list[np.ndarray]) -> dict:
    """Utterance by utterance, as a device would."""
    latencies = []
    for samples in utterances:
        begin = time.perf_counter()
        client.decode([samples])
        latencies.append(time.perf_counter() - begin)
    audio = sum(map(len, utterances)) / SAMPLE_RATE
    return {
        "real_time_factor": sum(latencies) / audio,
        "latency_ms": 1000 * statistics.median(latencies),
    }


def _stream(client: Client, utterances: list[np.ndarray], chunk_samples: int) -> dict:
    """Streams every utterance in pieces of 10 ms; the first token's latency is from its time stamp
    to when it is shown."""
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
        if shown is not None:
            first.append(1000 * (shown - client.first_seen))
    return {
        "real_time_factor": computing / audio,
        "first_token_ms": statistics.median(first) if first else None,
        "latency_ms": 1000 * computing / audio * chunk_samples / SAMPLE_RATE,
    }


def size_bytes(folder: Path, mode: str, precision: str) -> int:
    """What has to be copied to a device."""
    names = [graph(part, precision) for part in parts(mode, holds_ctc(folder))]
    return sum((folder / name).stat().st_size for name in [*names, TOKENS])


def run(config, root: Path, variants: list[tuple[str, str, str]]) -> list[dict]:
    """Measure every (subnet, mode, precision) in turns, ``export.benchmark_rounds`` times, on
    speech of dev."""
    from todm.deploy.client_check import audio_batches
    from utils.progress import progress

    e = config.export
    utterances = [
        s
        for batch in audio_batches(config, config.data.dev[0], e.benchmark_seconds)
        for _, s, _ in batch
    ]
    taken: dict[tuple, list[dict]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "speech.npz"
        np.savez(audio, *utterances)
        for _, variant in progress(
            [(r, v) for r in range(e.benchmark_rounds) for v in variants],
            desc="benchmark",
            unit="process",
        ):
            taken[variant].append(
                _in_a_process(
                    root / variant[0], variant[1], variant[2], audio, 160 * e.chunk_frames
                )
            )
    rows = []
    for (name, mode, precision), figures in taken.items():
        medians = {key: median([f[key] for f in figures]) for key in figures[0]}
        row = {
            "name": name,
            "mode": mode,
            "precision": precision,
            "bytes": size_bytes(root / name, mode, precision),
            **medians,
            "spread": [
                round(min(f["real_time_factor"] for f in figures), 5),
                round(max(f["real_time_factor"] for f in figures), 5),
            ],
            "rounds": e.benchmark_rounds,
            "audio_seconds": round(sum(map(len, utterances)) / SAMPLE_RATE, 1),
        }
        rows.append(
            row
            | (
                {"algorithmic_ms": algorithmic_latency_ms(e.chunk_frames)}
                if mode == "streaming"
                else {}
            )
        )
    return rows


def median(values: list[float | None]) -> float | None:
    """Of what was measured; None: nothing was (a first token where nothing is recognised)."""
    measured = [value for value in values if value is not None]
    return round(statistics.median(measured), 5) if measured else None


def _in_a_process(folder: Path, mode: str, precision: str, audio: Path, chunk_samples: int) -> dict:
    command = [
        sys.executable,
        "-m",
        "todm.deploy.benchmark_client",
        str(folder),
        str(audio),
        "--mode",
        mode,
        "--precision",
        precision,
        "--chunk-samples",
        str(chunk_samples),
        "--json",
    ]
    plain = {
        k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")
    }  # path.sh's settings for training keep memory
    done = subprocess.run(
        command, capture_output=True, text=True, env=plain | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise UserError(
            f"the benchmark of {folder} failed: {done.stderr.strip().splitlines()[-1:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="an exported folder")
    parser.add_argument("audio", nargs="+", type=Path, help="speech to measure on")
    parser.add_argument("--mode", choices=("offline", "streaming"), default="offline")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--chunk-samples", type=int, default=5120)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    utterances = []
    for path in arguments.audio:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                utterances += [stored[name] for name in stored.files]
        else:
            utterances.append(np.concatenate(list(read_pieces(path))))
    figures = measure(
        arguments.folder,
        arguments.precision,
        arguments.mode == "streaming",
        utterances,
        arguments.chunk_samples,
    )
    print(
        json.dumps(figures)
        if arguments.json
        else "\n".join(
            f"{key:18s} {value:10.4f}" for key, value in figures.items() if value is not None
        )
    )


if __name__ == "__main__":
    main()
