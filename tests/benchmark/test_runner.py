"""The order in which workers are asked, and what happens when one can not go on."""

import sys

import pytest

from tests.conftest import ROOT
from todm.benchmark import __main__ as program
from todm.benchmark.processes import WorkerDied
from todm.benchmark.report import Gap, Report
from todm.benchmark.revisions import Revision
from todm.benchmark.runner import ConfRun, Limits
from todm.benchmark.settings import Settings
from todm.benchmark.workloads import EXPORTED, FRESH, TRAINING, Figure, Workload


def workload(name: str, process: str = TRAINING) -> Workload:
    return Workload(name, "One.", f"none:{name}", (), (Figure("time", "s"),), process, least=2)


@pytest.fixture
def workers(monkeypatch):
    """What happens to workers, in order; ``answers`` has what they say to (side, action) instead
    of a figure."""

    class Workers:
        events: list[str] = []
        answers: dict[tuple[str, str], dict | Exception] = {}

    class FakeWorker:
        def __init__(self, revision, settings, log, plain_memory, timeout):
            self.side, self.alive = settings.conf, True
            Workers.events.append(f"start {self.side}")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.close()

        def close(self):
            self.alive = False
            Workers.events.append(f"end {self.side}")

        def ask(self, action, workload):
            Workers.events.append(f"{self.side}: {action} {workload.name}")
            answer = Workers.answers.get((self.side, action), {"figures": {"time": [2.0, 3.0]}})
            if isinstance(answer, Exception):
                self.alive = False
                raise answer
            return answer

    monkeypatch.setattr("todm.benchmark.runner.WorkerProcess", FakeWorker)
    Workers.events, Workers.answers = [], {}
    return Workers


def measure(tmp_path, *workloads: Workload, rounds: int = 2) -> Report:
    report = Report()
    sides = {"new": Revision(ROOT), "old": Revision(ROOT)}
    settings = {side: Settings(side, (), "cpu", 1, "graphs") for side in sides}
    limits = Limits(rounds, 1000, 1)
    with ConfRun("mini", sides, settings, limits, tmp_path, report) as conf_run:
        for each in workloads:
            conf_run.measure(each)
    return report


def test_processes_stay_and_sides_have_turns(tmp_path, workers):
    report = measure(tmp_path, workload("a"), workload("b"))
    warm = ["new: warm_up {}", "old: warm_up {}"]
    runs = ["new: run {}", "old: run {}", "old: run {}", "new: run {}"]
    a = [event.format("a") for event in [*warm, *runs]]
    a.insert(0, "start new")
    a.insert(2, "start old")
    assert workers.events[:8] == a
    assert workers.events[8:] == [*(e.format("b") for e in [*warm, *runs]), "end new", "end old"]
    assert [row.ratios for row in report.rows] == [[1.0, 1.0]] * 2 and not report.gaps


def test_a_peak_has_a_new_process_for_every_round(tmp_path, workers):
    measure(tmp_path, workload("a", FRESH), rounds=1)
    assert workers.events == [
        *("start new", "new: run a", "end new"),
        *("start old", "old: run a", "end old"),
    ]


def test_no_process_of_another_kind_is_in_the_way(tmp_path, workers):
    measure(tmp_path, workload("a"), workload("b", EXPORTED), rounds=1)
    ends = [i for i, event in enumerate(workers.events) if event.startswith("end")]
    first_of_b = workers.events.index("new: warm_up b")
    assert len(ends) == 4 and max(ends[:2]) < first_of_b < min(ends[2:])


def test_what_a_side_can_not_do_is_a_gap_and_the_other_goes_on(tmp_path, workers):
    workers.answers["old", "warm_up"] = {"missing": "there is no such net"}
    report = measure(tmp_path, workload("a"))
    (gap,), (row,) = report.gaps, report.rows
    assert (gap.conf, gap.workload, gap.side) == ("mini", "a", "old")
    assert (gap.reason, gap.failed) == ("there is no such net", False)
    assert row.values == {"new": [2.0, 2.0], "old": []}
    assert workers.events.count("old: run a") == 0


def test_a_worker_that_dies_has_failed_and_the_next_workload_has_another(tmp_path, workers):
    workers.answers["new", "run"] = WorkerDied("the process ended with signal SIGKILL")
    report = measure(tmp_path, workload("a"), workload("b"))
    assert [(gap.workload, gap.failed) for gap in report.gaps] == [("a", True), ("b", True)]
    assert workers.events.count("start new") == 2 and workers.events.count("start old") == 1
    assert [row.values["old"] for row in report.rows] == [[2.0, 2.0]] * 2


@pytest.mark.parametrize(
    "side, failed, status", [("new", True, 1), ("new", False, None), ("old", True, None)]
)
def test_the_exit_status_tells_whether_this_checkout_failed(monkeypatch, side, failed, status):
    report = Report({}, [], [Gap("mini", "update", side, "it broke", failed)])
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    monkeypatch.setattr(program, "handle_stops", lambda handler: None)
    monkeypatch.setattr(program, "run", lambda options: report)
    if status is None:
        program.main()
    else:
        with pytest.raises(SystemExit) as ended:
            program.main()
        assert ended.value.code == status
