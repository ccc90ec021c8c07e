"""Programs that are interrupted while they are being imported."""

import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SLOW = """
import sys, time
print("importing", flush=True)
time.sleep(60)
"""
QUICK = """
import signal, sys
print(__name__, sys.argv[1:], signal.getsignal(signal.SIGINT) is signal.SIG_DFL)
"""


def start(tmp_path, code: str, *prefix: str) -> subprocess.Popen:
    """Starts a module with this code through utils.entry, in its folder."""
    (tmp_path / "slow_module.py").write_text(code)
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "utils.entry", "slow_module", "a", "--b"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_an_interrupt_during_the_imports_ends_without_a_traceback(tmp_path):
    program = start(tmp_path, SLOW)
    assert program.stdout.readline() == "importing\n"
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=300)[0] == "" and program.returncode == -signal.SIGINT


@pytest.mark.parametrize("ignored", [False, True])
def test_the_module_is_the_main_program_and_an_ignored_interrupt_stays_so(tmp_path, ignored):
    prefix = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh"] if ignored else []
    expected = f"__main__ ['a', '--b'] {not ignored}\n"
    assert start(tmp_path, QUICK, *prefix).communicate(timeout=300)[0] == expected
