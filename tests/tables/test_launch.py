"""Commands of jobs, some at a time on this machine or through submitit."""

import logging
import os
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import PYTHONPATH
from todm.tables import launch
from todm.tables.launch import Job, run_commands, run_local, run_submitit, slots
from utils.errors import UserError


def shell(tmp_path: Path, name: str, *scripts: str) -> Job:
    return Job(
        name, tuple(("sh", "-c", script) for script in scripts), tmp_path / "logs" / f"{name}.log"
    )


def spans(tmp_path: Path, names: str) -> list[list[str]]:
    """What the jobs of ``timed`` wrote, by the time of their beginning: begin, end, GPU."""
    return sorted((tmp_path / name).read_text().split() for name in names)


def timed(tmp_path: Path, name: str) -> Job:
    return shell(
        tmp_path,
        name,
        f"(date +%s.%N; sleep 0.3; date +%s.%N; echo $CUDA_VISIBLE_DEVICES) > {tmp_path / name}",
    )


def at_once(found: list[list[str]]) -> int:
    """The most spans that hold any one moment."""
    return max(sum(begin <= moment < end for begin, end, *_ in found) for moment, *_ in found)


def test_commands_run_in_order_into_the_log(tmp_path):
    job = shell(tmp_path, "a", "echo first $MINE", "echo to-stderr >&2")
    assert run_commands(job, {"MINE": "environment"}) == 0
    lines = [line for line in job.log.read_text().splitlines() if line]
    assert lines == [
        "$ sh -c 'echo first $MINE'",
        "first environment",
        "$ sh -c 'echo to-stderr >&2'",
        "to-stderr",
    ]


def test_first_command_that_fails_is_the_last(tmp_path):
    job = shell(tmp_path, "a", "echo one", "echo two; exit 3", "echo three")
    assert run_commands(job, {}) == 3
    assert "two" in job.log.read_text() and "three" not in job.log.read_text()


def test_log_of_an_earlier_attempt_stays(tmp_path):
    for word in ("earlier", "later"):
        run_commands(shell(tmp_path, "a", f"echo {word} attempt"), {})
    log = (tmp_path / "logs" / "a.log").read_text()
    assert 0 <= log.index("\nearlier attempt") < log.index("\nlater attempt")


@pytest.mark.parametrize(
    "workers, processes, threads", [(1, 1, "8"), (2, 1, "4"), (2, 2, "2"), (3, 1, "2"), (8, 4, "1")]
)
def test_workers_without_gpus_share_the_cores(monkeypatch, workers, processes, threads):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert slots(workers, processes) == [{"OMP_NUM_THREADS": threads}] * workers
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert slots(workers, processes) == [{"OMP_NUM_THREADS": "7"}] * workers


def test_every_worker_has_gpus_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots(2, 2) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert slots(1, 2) == [{"CUDA_VISIBLE_DEVICES": "0,1"}]
    with pytest.raises(UserError, match="want 6 GPUs; there are 4 to use"):
        slots(3, 2)


def test_workers_keep_to_the_gpus_that_the_user_allows(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert slots(2, 1) == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "5"}]


@pytest.mark.parametrize("workers", [1, 2])
def test_so_many_jobs_run_at_a_time_each_on_a_gpu_of_its_own(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: workers)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert run_local([timed(tmp_path, name) for name in "abcde"], workers, 1) == []
    found = spans(tmp_path, "abcde")
    assert at_once(found) == workers
    for gpu in range(workers):
        assert at_once([span for span in found if span[2] == str(gpu)]) == 1


def test_others_go_on_when_a_job_fails(tmp_path, caplog):
    jobs = [shell(tmp_path, name, f"touch {tmp_path / name}") for name in "acd"]
    jobs.insert(1, shell(tmp_path, "b", "echo the reason; exit 1", f"touch {tmp_path / 'b'}"))
    with caplog.at_level(logging.INFO):
        assert run_local(jobs, 1, 1) == ["b"]
    assert [(tmp_path / name).is_file() for name in "abcd"] == [True, False, True, True]
    assert any("b failed" in r.message and "the reason" in r.message for r in caplog.records)


def test_interrupt_stops_running_jobs_gently_and_starts_no_more(tmp_path, monkeypatch):
    """The first job ends at once; the second, running, hears SIGINT and writes; the third never
    begins."""
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    waiting = (
        "import pathlib, signal, sys, time\n"
        f"def save(*_): pathlib.Path({str(saved)!r}).touch(); sys.exit(1)\n"
        f"signal.signal(signal.SIGINT, save); pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )

    class Interrupted:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(launch, "progress", Interrupted)
    quick = shell(tmp_path, "quick", f"while [ ! -e {ready} ]; do sleep 0.05; done")
    second = Job(
        "second",
        ((sys.executable, "-c", waiting), ("touch", str(tmp_path / "decoded"))),
        tmp_path / "second.log",
    )
    third = shell(tmp_path, "third", "sleep 60")
    begin, threads = time.monotonic(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run_local([quick, second, shell(tmp_path, "after quick", "sleep 5; exit 1"), third], 2, 1)
    assert time.monotonic() - begin < 20 and threading.active_count() == threads
    assert saved.is_file() and not (tmp_path / "decoded").exists() and not third.log.exists()


def test_submitit_runs_jobs_and_names_those_that_fail(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", f"{PYTHONPATH}:{os.environ.get('PYTHONPATH', '')}")
    jobs = [
        shell(tmp_path, "good", "echo done"),
        shell(tmp_path, "bad", "echo why; exit 2", "echo never"),
        Job("broken", ((str(tmp_path / "no-such-program"),),), tmp_path / "broken.log"),
    ]
    parameters = {"timeout_min": "1", "slurm_partition": "gpu"}
    assert run_submitit(jobs, 1, "local", tmp_path / "submitit", parameters) == ["bad", "broken"]
    assert "\ndone\n" in jobs[0].log.read_text()
    assert "\nwhy\n" in jobs[1].log.read_text() and "never" not in jobs[1].log.read_text()


def test_submitit_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="pip install submitit"):
        run_submitit([shell(tmp_path, "a", "true")], 1, "slurm", tmp_path, {})


def test_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="srun"):
        run_submitit([shell(tmp_path, "a", "true")], 1, "slurm", tmp_path, {})


@pytest.mark.parametrize(
    "name, value",
    [("slurm_partitoin", "gpu"), ("gpus", "2"), ("timeout_min", "ten"), ("nodes", "2")],
)
def test_mistake_in_the_parameters_is_the_users(tmp_path, name, value):
    """Unknown names, wrong types and what the cluster can not do are told by the key of the conf;
    no job runs."""
    pytest.importorskip("submitit")
    with pytest.raises(UserError, match="tables.slurm"):
        run_submitit(
            [shell(tmp_path, "a", f"touch {tmp_path / 'ran'}")],
            1,
            "local",
            tmp_path / "submitit",
            {name: value},
        )
    assert not (tmp_path / "ran").exists()
