"""The table of a torture, from trials made up by hand."""

import json
import subprocess
import sys

from tests.torture.report import lost_list, table
from tests.torture.trials import ROOT, last_line
from utils.files import read_json

RESULT = {
    "sections": {
        "kills": {
            "short": False,
            "seconds": 90.0,
            "commit": "abc1234",
            "trials": [
                {"what": "SIGKILL at 3 s", "survived": True, "found": "equal"},
                {"what": "SIGINT at 4 s", "survived": False, "found": "a process was left"},
            ],
        }
    }
}


def test_table_counts():
    assert table(RESULT).splitlines()[-1] == "| kills | 2 | 1 | 1 | 1.5 | abc1234 |"
    assert lost_list(RESULT["sections"]["kills"]) == ["- SIGINT at 4 s: a process was left"]


def test_show_prints_the_table_of_a_file(tmp_path):
    (tmp_path / "torture.json").write_text(json.dumps(RESULT))
    shown = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--show", tmp_path / "torture.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| kills | 2 | 1 | 1 |" in shown.stdout


def test_the_page_has_the_table_of_the_results():
    """As ``python -m tests.torture --show results/torture.json`` prints it."""
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    assert f"\n\n{table(read_json(ROOT / 'results/torture.json'))}\n\n" in page


def test_last_line():
    assert last_line("a\nb: c\n\n  \n") == "b: c" and last_line("") == ""
