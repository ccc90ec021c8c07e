"""The short forms of the torture's sections machines and soak, and what they are judged by."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.torture import machines, soak
from tests.torture.trials import Setting
from tests.torture.watching import (
    Sample,
    descendants,
    growth,
    memory_slope,
    more,
    sample,
    speed_change,
)


@pytest.mark.slow
@pytest.mark.parametrize("section", [machines, soak])
def test_short_form_survives(section, tmp_path):
    trials = list(section.trials(Setting(tmp_path, short=True)))
    assert len(trials) >= 2
    assert not [trial for trial in trials if not trial.survived]


def samples(memory: list[float], **counts: list[int]) -> list[Sample]:
    """A sample a minute, of half a second of processor time each."""
    return [
        Sample(60.0 * i, m, cpu=0.5 * i, processes=1, **{k: v[i] for k, v in counts.items()})
        for i, m in enumerate(memory)
    ]


def counted(memory: list[float]) -> list[Sample]:
    return samples(memory, descriptors=[5] * len(memory), threads=[2] * len(memory))


def test_a_leak_is_told_from_noise():
    noise = np.random.default_rng(1).normal(0, 1, 200)
    leak = counted(list(500 + noise + 0.1 * np.arange(200)))
    slope = memory_slope(leak)
    assert slope.low < 6 < slope.high and slope.high - slope.low < 1  # 0.1 MiB a minute
    assert 0.03 < growth(leak, slope) < 0.05  # 20 of 510 MiB
    explained = 0.1 * np.arange(200)
    assert memory_slope(leak, explained).low < 0 < memory_slope(leak, explained).high
    steady = counted(list(500 + noise))
    assert growth(steady, memory_slope(steady)) == 0
    assert memory_slope(counted([500.0] * 20)).high == 0


def test_counts_that_rise_are_seen():
    rising = samples([1.0] * 20, descriptors=[5] * 10 + [7] * 10, threads=[2] * 20)
    assert more(rising, "descriptors") == 2 and more(rising, "threads") == 0


@pytest.mark.parametrize("second, change", [(1.0, 0.0), (0.5, -0.5)])
def test_the_speed_of_both_halves_is_compared(second, change):
    rates = np.r_[np.full(100, 1.0), np.full(100, second)] * (1 + 0.1 * (np.arange(200) % 2))
    watched = counted([500.0] * 201)
    done = np.r_[0, np.cumsum(rates)]
    speed = speed_change(watched, [(s.time, d) for s, d in zip(watched, done)])
    assert speed.low < change < speed.high and speed.high - speed.low < 0.1


def test_a_sample_counts_what_all_processes_below_hold(tmp_path):
    script = (
        "import subprocess, sys, time; kept = [open(sys.argv[1], 'w') for _ in range(7)]\n"
        "if len(sys.argv) == 2: subprocess.Popen([sys.executable, *sys.orig_argv[1:], 'last'], "
        "start_new_session=True)\nprint('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-S", "-c", script, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline(), process.stdout.readline()]
        seen = sample(process.pid, time.time())
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGTERM)
    assert lines == ["ready\n", "ready\n"]
    assert seen.processes == 2 and seen.threads == 2 and 2 * (7 + 3) <= seen.descriptors < 30
    assert 5 < seen.memory < 100 and seen.cpu > 0


def test_programs_without_compilers_and_git(tmp_path, monkeypatch):
    folder = tmp_path / "programs"
    folder.mkdir()
    gone = "gcc g++ c++ cc clang++-14 x86_64-linux-gnu-gcc-12 git git-upload-pack".split()
    for name in [*gone, "bash", "ccache", "digit"]:
        (folder / name).touch()
    monkeypatch.setenv("PATH", str(folder))
    pattern = f"{machines.COMPILERS}|{machines.GIT}"
    kept = machines.programs_without(pattern, tmp_path / "bin")
    assert {path.name for path in kept.iterdir()} == {"bash", "ccache", "digit"}


def test_every_package_has_a_lowest_version():
    lowest = machines.lowest_versions(ROOT / "requirements.txt")
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if re.match(r"[a-zA-Z]", line)]
    assert len(lowest) == len(packages) > 20 and "torch==2.6" in lowest


@pytest.mark.parametrize("script", ["transcribe.sh", "demo.sh"])
def test_no_module_of_the_callers_folder_is_taken_for_pythons(script, tmp_path):
    """Python 3.10 looks for runpy on its path; later ones do so without frozen modules."""
    (tmp_path / "runpy.py").write_text("raise SystemExit('this is not Python')")
    program = re.search(r"exec \S+ -c '(.*?)' \"\$@\"", (ROOT / script).read_text(), re.DOTALL)[1]
    program = re.sub(r'run_module\("[^"]*"', 'run_module("this"', program)
    done = subprocess.run(
        [sys.executable, "-X", "frozen_modules=off", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "Zen of Python" in done.stdout, done.stderr
