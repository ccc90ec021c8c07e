"""Measured latency as a cost: a table of per-block times, made once per machine, and its check on
whole models."""

import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.frontend import NUM_MEL_BINS
from egs.librispeech.todm.beam_search import greedy_search
from egs.librispeech.todm.search_space import SearchSpace
from egs.librispeech.todm.subnet import BlockChoice, Subnet
from egs.librispeech.todm.transducer import Transducer
from utils.files import read_json, write_json_atomic
from utils.progress import progress
from utils.provenance import machine
from utils.stages import StageError

SECONDS = 10.0  # of audio in the batch of one that is timed
REPEATS = 25
TOLERANCE = 0.15  # by which the table may miss a whole model before a warning


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per second of audio, one utterance at a time on one thread.

    Attributes:
      engine: what ran it: sherpa-onnx or torch.
      fixed: frontend, final norm, greedy search. blocks: of a block by (head groups, FFN chunks).
    """

    machine: str
    engine: str
    fixed: float
    blocks: dict[tuple[int, int], float]

    def milliseconds(self, subnet: Subnet) -> float:
        """The sum over the subnet's blocks. A size that was not measured is an error of the caller
        (KeyError)."""
        return self.fixed + sum(self.blocks[size] for size in subnet.sizes if size != (0, 0))

    def as_dict(self) -> dict:
        return {
            "machine": self.machine,
            "engine": self.engine,
            "unit": "ms per second of audio, one thread",
            "fixed": self.fixed,
            "blocks": {f"{h},{c}": ms for (h, c), ms in self.blocks.items()},
        }

    @classmethod
    def from_dict(cls, values: dict) -> "LatencyTable":
        return cls(
            values["machine"],
            values.get("engine", "torch"),
            values["fixed"],
            {tuple(map(int, k.split(","))): ms for k, ms in values["blocks"].items()},
        )


def latency_table(
    path: Path,
    given: str | None,
    engine: str,
    model: Transducer,
    config: Config,
    space: SearchSpace,
) -> LatencyTable:
    """The table at ``path`` if this machine made it with this engine, else a new one; ``given``
    (search.latency_table) is used as it is.

    Raises:
      StageError: the given table is missing, or lacks a size of this search space.
    """
    source = Path(given) if given else path
    if given and not source.is_file():
        raise StageError(f"search.latency_table: no such file: {source}")
    sizes = [(h, w) for h in space.heads for w in space.widths]
    if source.is_file():
        table = LatencyTable.from_dict(read_json(source))
        missing = [size for size in sizes if size not in table.blocks]
        if not missing and (given or (table.machine, table.engine) == (machine(), engine)):
            return table
        if given:
            raise StageError(
                f"search.latency_table: {source} lacks blocks of (head groups, FFN chunks) "
                f"{missing[:5]}"
            )
    if engine == "torch":
        table, check = measure(model, config, space, sizes)
    else:
        from egs.librispeech.todm import client_latency

        table, check = client_latency.measure(model, config, space, sizes)
    write_json_atomic(path, table.as_dict() | {"check": check})
    log_check(check)
    return table


def log_check(check: list[dict]) -> None:
    """Say how far the table is from whole nets; warn where it is off."""
    for row in check:
        wrong = row["table_ms"] / row["measured_ms"] - 1
        log = logging.warning if abs(wrong) > TOLERANCE else logging.info
        log(
            "latency of %s: %.3f ms per second of audio by the table, %.3f measured (%+.0f %%)",
            row["net"],
            row["table_ms"],
            row["measured_ms"],
            100 * wrong,
        )


@torch.no_grad()
def measure(
    model: Transducer, config: Config, space: SearchSpace, sizes: list[tuple[int, int]]
) -> tuple[LatencyTable, list[dict]]:
    """Time every block size, the fixed part, and three whole models to check the sum against; all
    interleaved.

    Returns:
      The table, and per whole model ``net``, ``table_ms`` and ``measured_ms``.
    """
    model.eval()
    device = next(model.parameters()).device
    features = torch.randn(1, round(SECONDS * 100), NUM_MEL_BINS, device=device)
    encoder = model.encoder
    frames = torch.tensor([features.shape[1]], device=device)
    lengths = encoder.frontend.length(frames)
    operators = encoder.operators()  # of the weights alone: made once when a model is loaded
    x = encoder.frontend(features, frames)
    mask = torch.ones(1, x.shape[1], dtype=torch.bool, device=device)

    def block(size: tuple[int, int]) -> Callable[[], object]:
        choice = BlockChoice(tuple(range(size[0])), tuple(range(size[1])))
        return lambda: encoder.blocks[0](x, mask, choice, operators[0])

    def whole(subnet: Subnet) -> Callable[[], object]:
        return lambda: greedy_search(model, *encoder(features, frames, subnet, operators))

    encoded = encoder.encode(
        x, lengths, space.largest, operators
    )  # how many symbols there are decides what their search takes

    def fixed() -> None:
        encoder.norm(encoder.frontend(features, frames))
        greedy_search(model, encoded, lengths)

    nets = checked_nets(space)
    jobs = (
        {("fixed",): fixed}
        | {size: block(size) for size in sizes}
        | {name: whole(net) for name, net in nets.items()}
    )
    with _one_thread():
        times = interleaved(jobs)
    table = LatencyTable(
        machine(),
        "torch",
        times[("fixed",)],
        never_less_for_more({size: times[size] for size in sizes}),
    )
    return table, [
        {
            "net": name,
            "table_ms": round(table.milliseconds(net), 4),
            "measured_ms": round(times[name], 4),
        }
        for name, net in nets.items()
    ]


def checked_nets(space: SearchSpace) -> dict[str, Subnet]:
    """The whole nets that a table is checked on."""
    return dict(zip(("the largest net", "a middle net", "the smallest net"), space.three()))


def never_less_for_more(times: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """What keeps more never costs less, also where the clock's noise says so: the search relies on
    it."""
    return {(h, w): max(times[a, b] for a, b in times if a <= h and b <= w) for h, w in times}


def interleaved(jobs: dict) -> dict:
    """Median ms per second of audio of every job, repeated in turns so that a drift of the machine
    meets all."""
    taken: dict = {key: [] for key in jobs}
    for _ in progress(range(REPEATS), desc="latency", unit="round"):
        for key, job in jobs.items():
            begin = time.perf_counter()
            job()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[key].append((time.perf_counter() - begin) * 1000 / SECONDS)
    return {
        key: statistics.median(values[2:]) for key, values in taken.items()
    }  # the first two warm up


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
