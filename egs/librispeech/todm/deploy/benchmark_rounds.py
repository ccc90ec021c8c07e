"""The benchmark of stage 10: every exported variant in turns, a process for each measurement.

Variants take turns, so that a drift of the machine meets all of them.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from todm.config.keys import Config
from todm.data.frames import LOOK_AHEAD, SHIFT
from todm.deploy.split_audio import speech
from todm.results.export_files import TOKENS, graph, holds_ctc, parts
from todm.results.export_rows import BenchmarkRow, Figures, Variant
from utils.audio import SAMPLE_RATE
from utils.errors import UserError
from utils.progress import progress

CLIENT = "todm.deploy.benchmark_client"
WINDOW_MS = 25


def algorithmic_latency_ms(chunk_frames: int) -> float:
    """The time from a frame of the input to its output, at most, without computing: the chunk, the
    frontend's look-ahead and half a window."""
    return 10.0 * (chunk_frames + LOOK_AHEAD) + WINDOW_MS / 2


def size_bytes(folder: Path, mode: str, precision: str) -> int:
    """The size of the files that have to be copied to a device."""
    names = [graph(part, precision) for part in parts(mode, holds_ctc(folder))]
    return sum((folder / name).stat().st_size for name in [*names, TOKENS])


def benchmark(config: Config, root: Path, variants: list[Variant]) -> tuple[BenchmarkRow, ...]:
    """Measures every variant ``export.benchmark_rounds`` times on speech of dev.

    Args:
      root: where the exported folders lie.
    """
    export = config.export
    utterances = speech(config, export.benchmark_seconds)
    taken: dict[Variant, list[Figures]] = {variant: [] for variant in variants}
    turns = [variant for _ in range(export.benchmark_rounds) for variant in variants]
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "speech.npz"
        np.savez(audio, *utterances)
        for variant in progress(turns, desc="benchmark", unit="process"):
            taken[variant].append(in_a_process(root, variant, audio, SHIFT * export.chunk_frames))
    seconds = sum(map(len, utterances)) / SAMPLE_RATE
    return tuple(
        benchmark_row(variant, root / variant.name, figures, export.chunk_frames, seconds)
        for variant, figures in taken.items()
    )


def benchmark_row(
    variant: Variant, folder: Path, figures: list[Figures], chunk_frames: int, seconds: float
) -> BenchmarkRow:
    """The medians of a variant's figures.

    Args:
      seconds: of audio that each process decoded.
    """
    name, mode, precision = variant
    factors = [each.real_time_factor for each in figures]
    return BenchmarkRow(
        name,
        mode,
        precision,
        bytes=size_bytes(folder, mode, precision),
        real_time_factor=median(factors),
        first_token_ms=median_or_none([each.first_token_ms for each in figures]),
        latency_ms=median([each.latency_ms for each in figures]),
        load_seconds=median([each.load_seconds for each in figures]),
        model_mib=median([each.model_mib for each in figures]),
        peak_mib=median([each.peak_mib for each in figures]),
        spread=(round(min(factors), 5), round(max(factors), 5)),
        rounds=len(figures),
        audio_seconds=round(seconds, 1),
        algorithmic_ms=algorithmic_latency_ms(chunk_frames) if mode == "streaming" else None,
    )


def median(values: list[float]) -> float:
    """The median, with five decimals."""
    return round(statistics.median(values), 5)


def median_or_none(values: list[float | None]) -> float | None:
    """The median of the values that were measured; None where none was (the first token of a model
    that recognises nothing)."""
    measured = [value for value in values if value is not None]
    return median(measured) if measured else None


def in_a_process(root: Path, variant: Variant, audio: Path, chunk_samples: int) -> Figures:
    """One measurement of a variant.

    Args:
      audio: an .npz file of utterances. chunk_samples: what a stream advances at a time.
    Raises:
      UserError: the process failed.
    """
    folder = root / variant.name
    options = ["--mode", variant.mode, "--precision", variant.precision]
    command = [sys.executable, "-m", CLIENT, str(folder), str(audio), *options, "--json"]
    # path.sh's settings of malloc, which are for training, keep memory
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [*command, "--chunk-samples", str(chunk_samples)],
        capture_output=True,
        text=True,
        env=plain | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise UserError(
            f"the benchmark of {folder} failed: {done.stderr.strip().splitlines()[-1:]}"
        )
    return Figures.from_dict(json.loads(done.stdout.splitlines()[-1]))
