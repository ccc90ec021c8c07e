"""The memory of a child is its own, however large its parent is."""

import subprocess
import sys

from tests.torture.memory import measured
from tests.torture.trials import ROOT

PARENT = """
import subprocess, sys
from tests.torture.memory import measured, own_peak
held = bytearray(300 << 20)
subprocess.run([sys.executable, "-c", "from tests.torture.memory import own_peak; "
                "print(own_peak() >> 20)"], check=True)
child = [sys.executable, "-c", "held = bytearray(100 << 20); raise SystemExit(7)"]
found = subprocess.run(measured(child, sys.argv[1]))
assert found.returncode == 7 and own_peak() > 300 << 20
"""


def test_a_child_of_a_large_process_is_measured_alone(tmp_path):
    report = tmp_path / "peak"
    command = [sys.executable, "-c", PARENT, str(report)]
    found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert int(found.stdout) < 100
    assert 100 << 20 < int(report.read_text()) < 200 << 20


def test_the_end_by_a_signal_is_told_as_a_shell_does(tmp_path):
    command = measured(["sh", "-c", "kill -9 $$"], tmp_path / "peak")
    assert subprocess.run(command).returncode == 137
