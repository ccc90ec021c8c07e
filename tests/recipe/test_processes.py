"""The question how many processes train."""

import os
import subprocess
import sys

from tests.conftest import PYTHONPATH, ROOT


def test_an_answer_that_nobody_waits_for_any_more_is_no_traceback():
    """run.sh has been killed in the meantime."""
    reader, writer = os.pipe()
    os.close(reader)
    asked = subprocess.run(
        [sys.executable, "-m", "todm.recipe.processes", "--conf", "conf/debug.yaml"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert asked.returncode == 1 and asked.stderr == ""
