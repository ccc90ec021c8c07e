"""The parts that both latency engines share: whole nets to check a table on, jobs timed in turns,
the clock's noise removed."""

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from todm.subnet import Subnet
from todm.supernet.latency_table import LatencyTable
from todm.supernet.search_space import SearchSpace
from utils.progress import progress

SECONDS = 10.0  # of audio in the batch of one that is timed
REPEATS = 25
TOLERANCE = 0.15  # by which the table may miss a whole model before a warning


def log_check(check: list[dict[str, Any]]) -> None:
    """Logs how far the table is from whole nets, and warns where it is off.

    Args:
      check: of every whole net its name, and ms per second of audio by the table and measured.
    """
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


def compare(
    table: LatencyTable, nets: dict[str, Subnet], times: dict[Any, float]
) -> list[dict[str, Any]]:
    """The check of a table on whole nets, as :func:`log_check` takes it.

    Args:
      times: measured ms per second of audio, by the name of the net.
    """
    return [
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


def interleaved(
    jobs: dict,
    seconds: float = SECONDS,
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict:
    """The median ms per second of audio of every job, repeated in turns so that a drift of the
    machine meets all. The first two rounds warm up and do not count.

    Args:
      seconds: of audio that every job works on.
    """
    taken: dict = {key: [] for key in jobs}
    for _ in progress(range(repeats), desc="latency", unit="round"):
        for key, job in jobs.items():
            begin = clock()
            job()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[key].append((clock() - begin) * 1000 / seconds)
    # the first two warm up
    return {key: statistics.median(values[2:]) for key, values in taken.items()}
