"""Processes under watch: memory, descriptors, threads and processor time every few seconds, and
what they say about leaks.

A soak is judged by its second part alone: everything grows while it begins.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import linregress, t, ttest_ind

WARM_UP = 0.25  # of the time: caches, pools and first passes
CONFIDENCE = 0.95
MIB = 2**20
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True)
class Sample:
    """What a process and all below it held at one time.

    Attributes:
      time: seconds since the epoch.
      memory: resident MiB; pages that processes share count once for each.
      cpu: seconds of processor time so far, with those of children that have ended.
    """

    time: float
    memory: float
    descriptors: int
    threads: int
    processes: int
    cpu: float


def descendants(root: int) -> dict[int, list[str]]:
    """A process and all below it, with the fields of its ``/proc/PID/stat`` behind the name (state,
    parent, ...)."""
    all_fields = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name may hold spaces and brackets
            all_fields[int(path.parent.name)] = (
                path.read_text(errors="replace").rpartition(")")[2].split()
            )
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    found, new = {}, {root} & set(all_fields)
    while new:
        found |= {pid: all_fields[pid] for pid in new}
        new = {pid for pid, fields in all_fields.items() if int(fields[1]) in new} - set(found)
    return found


def sample(root: int, now: float) -> Sample | None:
    """A process and all below it; None: it has ended."""
    memory = cpu = 0.0
    descriptors = threads = processes = 0
    for pid, fields in descendants(root).items():
        cpu += sum(map(int, fields[11:15])) / TICKS
        if fields[0] == "Z":
            continue
        try:
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            continue
        threads += int(fields[17])
        memory += int(fields[21]) * PAGE / MIB
        processes += 1
    return Sample(now, memory, descriptors, threads, processes, cpu) if processes else None


def settled(samples: list[Sample]) -> list[Sample]:
    """The samples after the warm-up."""
    return samples[round(WARM_UP * len(samples)) :]


@dataclass(frozen=True)
class Trend:
    """A slope, or a change, with its 95 % interval."""

    value: float
    low: float
    high: float


def memory_slope(samples: list[Sample], explained: np.ndarray | float = 0.0) -> Trend:
    """MiB an hour by least squares.

    The interval is that of independent deviations; memory moves in steps, so it is rather too
    narrow.

    Args:
      explained: MiB of every sample that are no leak.
    """
    hours = np.array([s.time for s in samples]) / 3600
    memory = np.array([s.memory for s in samples]) - explained
    if np.ptp(memory) == 0:
        return Trend(0.0, 0.0, 0.0)
    fit = linregress(hours - hours[0], memory)
    half = fit.stderr * t.ppf((1 + CONFIDENCE) / 2, len(samples) - 2)
    return Trend(float(fit.slope), float(fit.slope - half), float(fit.slope + half))


def growth(samples: list[Sample], slope: Trend) -> float:
    """The part of the memory by which it grew over the samples at the upper end of the slope; 0
    where the interval does not say that it grew at all."""
    if slope.low <= 0:
        return 0.0
    hours = (samples[-1].time - samples[0].time) / 3600
    return slope.high * hours / float(np.mean([s.memory for s in samples]))


def more(samples: list[Sample], field: str) -> float:
    """The median of a count in the second half less that in the first half."""
    values = [getattr(s, field) for s in samples]
    half = len(values) // 2
    return float(np.median(values[half:]) - np.median(values[:half]))


def speed_change(samples: list[Sample], work: list[tuple[float, float]]) -> Trend:
    """The speed in the second half less that in the first half, as a part of the latter (Welch).

    Speed is work per second of processor time: other programs on the machine take no part in it,
    as far as that can be had.

    Args:
      work: seconds since the epoch, and what was done until then.
    """
    times, done = zip(*work)
    made = np.diff(np.interp([s.time for s in samples], times, done))
    rates = made / np.maximum(np.diff([s.cpu for s in samples]), 1 / TICKS)
    half = len(rates) // 2
    first, second = rates[:half], rates[half:]
    test = ttest_ind(second, first, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    base = float(first.mean())
    change = float(second.mean()) - base
    return Trend(change / base, float(interval.low) / base, float(interval.high) / base)
