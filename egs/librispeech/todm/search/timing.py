"""What both latency engines share: whole nets to check a table on, jobs timed in turns, the clock's
noise removed."""

import logging
import statistics
import time

import torch

from todm.subnet import Subnet
from todm.supernet.search_space import SearchSpace
from utils.progress import progress

SECONDS = 10.0  # of audio in the batch of one that is timed
REPEATS = 25
TOLERANCE = 0.15  # by which the table may miss a whole model before a warning


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
