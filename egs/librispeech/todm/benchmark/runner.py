"""Carries out the workloads of the confs, each side in turns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from todm.benchmark.processes import WorkerDied, WorkerProcess
from todm.benchmark.report import Gap, Report, Taken, make_rows
from todm.benchmark.revisions import Revision
from todm.benchmark.rounds import in_turns
from todm.benchmark.settings import Settings
from todm.benchmark.workloads import FRESH, Workload


@dataclass(frozen=True)
class Limits:
    """The limits of rounds and time.

    Attributes:
      rounds: the most that a workload has, also where it asks for more at least.
      seconds: that the rounds of a workload may take with one conf and one side, if it has the
        least number of rounds that it asks for.
      timeout: seconds after which a worker that does not answer is given up.
    """

    rounds: int
    seconds: float
    timeout: float


class ConfRun:
    """The workloads of one conf. As a context it ends its processes with the block.

    Args:
      sides: the revisions by side.
      settings: of every side.
      folder: for what workers print.
    """

    def __init__(
        self,
        name: str,
        sides: Mapping[str, Revision],
        settings: Mapping[str, Settings],
        limits: Limits,
        folder: Path,
        report: Report,
    ):
        self.name, self.sides, self.settings = name, sides, settings
        self.limits, self.folder, self.report = limits, folder, report
        self.resident: dict[tuple[str, str], WorkerProcess] = {}

    def __enter__(self) -> "ConfRun":
        return self

    def __exit__(self, *error: object) -> None:
        self.end_residents()

    def end_residents(self, kind: str | None = None) -> None:
        """Ends the processes that stay, those of one kind or all."""
        for key in [key for key in self.resident if kind in (None, key[1])]:
            self.resident.pop(key).close()

    def measure(self, workload: Workload) -> None:
        """Measures a workload and adds its rows to the report."""
        # A process that stays is in the way of others' memory and caches.
        for _, kind in list(self.resident):
            if kind != workload.process:
                self.end_residents(kind)
        able = [side for side in self.sides if self._prepared(workload, side)]
        rounds = in_turns(
            able,
            lambda side: self._once(workload, side),
            min(workload.least, self.limits.rounds),
            self.limits.rounds,
            self.limits.seconds * len(able),
        )
        if rounds:
            self.report.rows += make_rows(self.name, workload, list(self.sides), rounds)

    def _prepared(self, workload: Workload, side: str) -> bool:
        """Warms a workload up in the process that stays; returns whether it can be measured."""
        if workload.process == FRESH:
            return True
        return (
            self._asked(
                workload, side, lambda: self._resident(workload, side).ask("warm_up", workload)
            )
            is not None
        )

    def _once(self, workload: Workload, side: str) -> Taken | None:
        """The figures of a round; None: there are none, and the report says why."""
        if workload.process != FRESH:
            answer = self._asked(
                workload, side, lambda: self._resident(workload, side).ask("run", workload)
            )
        else:
            answer = self._asked(workload, side, lambda: self._in_fresh(workload, side))
        return None if answer is None else answer["figures"]

    def _in_fresh(self, workload: Workload, side: str) -> dict[str, Any]:
        with self._start(workload, side) as worker:
            return worker.ask("run", workload)

    def _resident(self, workload: Workload, side: str) -> WorkerProcess:
        """The process of a side that stays for workloads of this kind."""
        key = side, workload.process
        if key not in self.resident or not self.resident[key].alive:
            self.resident[key] = self._start(workload, side)
        return self.resident[key]

    def _start(self, workload: Workload, side: str) -> WorkerProcess:
        return WorkerProcess(
            self.sides[side],
            self.settings[side],
            self.folder / f"{side}.log",
            workload.plain_memory,
            self.limits.timeout,
        )

    def _asked(
        self, workload: Workload, side: str, ask: Callable[[], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """An answer with figures; None: there are none, and the report says why."""
        try:
            answer = ask()
        except WorkerDied as error:
            answer = {"failed": str(error)}
        if "figures" in answer:
            return answer
        failed = "failed" in answer
        reason = answer["failed" if failed else "missing"]
        self.report.gaps.append(Gap(self.name, workload.name, side, reason, failed))
        return None
