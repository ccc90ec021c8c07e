"""Worker processes: their memory, the names they look for, how they end, and the code they run."""

import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from todm.benchmark import adapter, worker
from todm.benchmark.clock import MemoryPeak, Missing, Stopwatch, reset_peak
from todm.benchmark.processes import WorkerDied, WorkerProcess, environment
from todm.benchmark.revisions import Revision, checked_out
from todm.benchmark.settings import Settings
from todm.benchmark.workloads import WORKLOADS
from todm.config.keys import CONFS
from utils.errors import UserError

MIB = 2**20


def settings(tmp_path, conf: Path = CONFS / "debug.yaml") -> Settings:
    return Settings(str(conf), ("name=x",), "cpu", 1, str(tmp_path / "graphs"))


def start(tmp_path, timeout: float = 60) -> WorkerProcess:
    log = tmp_path / "log"
    return WorkerProcess(Revision(ROOT), settings(tmp_path), log, True, timeout)


def workload(name: str):
    return next(w for w in WORKLOADS if w.name == name)


def test_settings_travel_as_json(tmp_path):
    assert Settings.from_json(settings(tmp_path).as_json()) == settings(tmp_path)


@pytest.mark.skipif(not reset_peak(), reason="the highest memory can not be reset here")
def test_the_peak_of_memory_is_that_of_the_block():
    before = bytearray(64 * MIB)
    del before
    with MemoryPeak() as peak:
        inside = b"x" * (32 * MIB)
        del inside
    assert peak.mib == pytest.approx(32, abs=4)


def test_a_peak_that_can_not_be_told_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr("todm.benchmark.clock.PROC", tmp_path)
    with MemoryPeak() as peak:
        pass
    assert peak.measured().value is None


def test_a_stopwatch_shows_the_processor_or_with_a_gpu_the_wall():
    waited = []
    with Stopwatch() as watch:
        pass
    watch.processor, watch.wall = 2.0, 3.0
    assert (watch.measured(10).value, watch.measured(10).wall) == (20, 30)
    with Stopwatch(lambda: waited.append(1)) as watch:
        assert waited == [1]
    watch.processor, watch.wall = 2.0, 3.0
    assert waited == [1, 1] and watch.measured(10).value == 30


def test_names_are_looked_for_in_older_places():
    assert adapter.find("Subnet", "todm.nowhere.subnet", "todm.subnet").__name__ == "Subnet"
    assert adapter.find("Subnet", "todm.config.load", "todm.subnet").__name__ == "Subnet"
    with pytest.raises(Missing, match="no Subnet in todm.nowhere"):
        adapter.find("Subnet", "todm.nowhere")


def test_a_module_that_lacks_a_package_is_not_an_older_place(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        adapter.find("Subnet", "broken", "todm.subnet")
    sys.modules.pop("broken", None)


def test_values_that_a_revision_does_not_know_are_left_out():
    targets = adapter.make_targets(symbols=1, lengths=2, frames=3, heard=4, newer=5)
    assert (targets.symbols, targets.lengths, targets.frames, targets.heard) == (1, 2, 3, 4)


def test_a_worker_says_what_is_missing_and_what_failed(tmp_path):
    with start(tmp_path) as process:
        assert process.ask("warm_up", workload("load-offline-fp32")) == {"figures": {}}
        answer = process.ask("run", workload("load-offline-fp32"))
        assert answer == {"missing": "the encoder was not exported"}
        settings(tmp_path).graph("offline", "fp32").parent.mkdir()
        settings(tmp_path).graph("offline", "fp32").write_text("no graph")
        answer = process.ask("run", workload("load-offline-fp32"))
        assert list(answer) == ["failed"] and "InvalidProtobuf" in answer["failed"]
        assert process.alive
    assert not process.alive


def test_a_worker_that_was_killed_is_told_with_its_signal(tmp_path):
    with start(tmp_path) as process:
        process.process.kill()
        with pytest.raises(WorkerDied, match="signal SIGKILL"):
            process.ask("describe")


def test_a_worker_that_takes_too_long_is_ended(tmp_path):
    with start(tmp_path, timeout=0.01) as process:
        with pytest.raises(WorkerDied, match=r"ended after 0.01 s, see --timeout"):
            process.ask("describe")
        process.process.wait(10)


def test_exported_encoders_have_the_systems_own_memory(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert "MALLOC_TRIM_THRESHOLD_" not in environment(Revision(ROOT), 2, plain_memory=True)
    kept = environment(Revision(ROOT), 2, plain_memory=False)
    assert kept["MALLOC_TRIM_THRESHOLD_"] == "1" and kept["OMP_NUM_THREADS"] == "2"


def test_the_modules_and_confs_of_a_revision_are_its_own(tmp_path):
    new = Revision(tmp_path)
    assert new.python_path == f"{tmp_path}:{tmp_path}/egs/librispeech"
    (tmp_path / "egs/librispeech").mkdir(parents=True)
    (tmp_path / "egs/librispeech/__init__.py").touch()
    assert new.python_path == str(tmp_path)
    inside = CONFS / "mini.yaml"
    assert new.conf(inside) == tmp_path / inside.relative_to(ROOT)
    assert new.conf(tmp_path / "own.yaml") == tmp_path / "own.yaml"


def test_an_unknown_revision_is_a_sentence():
    with pytest.raises(UserError, match="--compare: git"):
        with checked_out("no-such-revision"):
            pass


def test_a_worker_runs_this_benchmark_beside_an_older_recipe(tmp_path, monkeypatch):
    """Also where the recipe is not called todm at all."""
    monkeypatch.setattr(sys, "path", [str(worker.FOLDER), str(tmp_path)])
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("todm")}
    try:
        worker.adopt_benchmark()
        assert str(worker.FOLDER) not in sys.path
        assert sys.modules["todm.benchmark"].__file__ == str(worker.FOLDER / "__init__.py")
        assert not hasattr(sys.modules["todm"], "__file__")
        assert Path(worker.module("clock").__file__) == worker.FOLDER / "clock.py"
    finally:
        for name in [name for name in sys.modules if name.startswith("todm")]:
            del sys.modules[name]
        sys.modules.update(kept)
