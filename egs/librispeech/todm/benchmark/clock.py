"""The clocks and the memory of a worker process."""

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
PROC = Path("/proc/self")


class Missing(Exception):
    """A workload that can not be measured here; the message says why."""


@dataclass(frozen=True)
class Measured:
    """A figure of one round.

    Attributes:
      value: in the unit of the figure, times of the processor; None: it can not be told here.
      wall: the same by the clock on the wall; None: it is no time.
    """

    value: float | None
    wall: float | None = None


class Stopwatch:
    """The time that a block takes: that of the processor, of all threads, and that on the wall.

    Args:
      synchronize: waits for a GPU, whose time is then that on the wall; None: the work is done by
        this process itself.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None):
        self.synchronize = synchronize
        self.processor = self.wall = 0.0

    def __enter__(self) -> "Stopwatch":
        if self.synchronize:
            self.synchronize()
        self.processor, self.wall = -time.process_time(), -time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if self.synchronize:
            self.synchronize()
        self.processor += time.process_time()
        self.wall += time.perf_counter()

    @property
    def seconds(self) -> float:
        """The time that figures are made of."""
        return self.wall if self.synchronize else self.processor

    def measured(self, factor: float = 1.0) -> Measured:
        """The time times a factor, which makes its unit."""
        return Measured(self.seconds * factor, self.wall * factor)


class MemoryPeak:
    """The highest memory of this process in a block, above what it has at its beginning, in MiB.

    None where there is no ``/proc`` as Linux has it.
    """

    def __init__(self) -> None:
        self.mib: float | None = None
        self._before: float | None = None

    def __enter__(self) -> "MemoryPeak":
        give_back_memory()
        self._before = resident_mib() if reset_peak() else None
        return self

    def __exit__(self, *error: object) -> None:
        peak = status_mib("VmHWM")
        if self._before is not None and peak is not None:
            self.mib = peak - self._before

    def measured(self) -> Measured:
        """The peak as a figure."""
        return Measured(self.mib)


def reset_peak() -> bool:
    """Sets the highest memory of this process back to what it has now; returns whether that can be
    done here."""
    try:
        (PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return status_mib("VmHWM") is not None


def resident_mib() -> float | None:
    """The memory that this process has now, in MiB."""
    return status_mib("VmRSS")


def status_mib(name: str) -> float | None:
    """A line of ``/proc/self/status`` in MiB; None where there is none."""
    try:
        lines = (PROC / "status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / MIB
    return None


def give_back_memory() -> None:
    """Frees what nothing refers to and, with glibc, hands it back to the system, so that it is not
    taken for memory in use."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
