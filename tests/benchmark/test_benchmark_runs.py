"""The whole program on the debug conf, alone and beside the last commit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PYTHONPATH, ROOT

pytestmark = pytest.mark.slow


def benchmark(*arguments: str | Path, status: int = 0) -> str:
    """What the program prints, errors included."""
    done = subprocess.run(
        [sys.executable, "-m", "todm.benchmark", "--confs", "debug", "--rounds", "1", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def figures(path: Path, side: str) -> dict[str, dict]:
    """The rows of a file that a side has values in, by workload and figure."""
    rows = json.loads(path.read_text())["results"]
    return {f"{row['workload']}: {row['figure']}": row[side] for row in rows if side in row}


def test_every_workload_gives_its_figures(tmp_path):
    out = tmp_path / "figures.json"
    data = f"data.dir={tmp_path / 'data'}"
    text = benchmark("--out", out, "--set", data)
    report = json.loads(out.read_text())
    assert report["commit"] and report["threads"] == 1 and report["compared with"] is None
    assert report["command"].startswith("python -m todm.benchmark --confs debug")
    got = figures(out, "new")
    assert len(got) == 42 - 1  # all but those of the loader
    assert all(each["median"] > 0 and len(each["values"]) == 1 for each in got.values())
    ratio = got["update: sandwich"]["median"] / got["update: largest"]["median"]
    assert got["update: sandwich / largest"]["median"] == pytest.approx(ratio, rel=1e-4)
    # 39 thousand weights of 4 bytes
    assert 0.05 < got["export-offline: fp32 file"]["median"] < 1
    missing = [(gap["workload"], gap["failed"]) for gap in report["missing"]]
    assert missing == [("loading", False)]
    assert f"debug: loading: not measured: there is no {tmp_path}" in text
    assert str(out) in text


def test_the_loader_is_measured_where_there_are_data(tiny_run, tmp_path):
    folder, _ = tiny_run
    out = tmp_path / "figures.json"
    benchmark("--only", "loading", "--out", out, "--set", f"data.dir={folder / 'data'}")
    assert figures(out, "new")["loading: batches"]["median"] > 0


def test_another_revision_is_measured_beside_this_one(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so there is no other revision")
    out = tmp_path / "figures.json"
    only = "encoder-3s", "update", "load-streaming-int8"
    narrow = "model.dropout=0"
    text = benchmark(
        *("--compare", "HEAD", "--out", out, "--set", narrow, "--set-old", narrow, "--only", *only)
    )
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    report = json.loads(out.read_text())
    assert report["compared with"] == {"revision": "HEAD", "commit": head}
    new, old = figures(out, "new"), figures(out, "old")
    assert new.keys() == old.keys() and len(new) == 1 + 3 + 5 + 2
    for row in report["results"]:
        assert row["new / old"]["values"] == pytest.approx(
            [row["new"]["values"][0] / row["old"]["values"][0]], rel=1e-4
        )
    assert "| new / old |" in text
    assert not report["missing"]


def test_a_revision_that_lacks_a_conf_is_a_line_below_the_table(tmp_path):
    """A conf of the repository that only this checkout has."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so there is no other revision")
    conf = ROOT / "exp" / f"only-here-{os.getpid()}.yaml"
    conf.parent.mkdir(exist_ok=True)
    conf.write_text("base: debug.yaml\n")
    try:
        out = tmp_path / "figures.json"
        arguments = "--compare", "HEAD", "--only", "encoder-3s", "--out", out
        text = benchmark(*arguments, "--confs", conf)
    finally:
        conf.unlink()
    assert f"(old): encoder-3s: not measured: this revision has no conf {conf.name}" in text
    assert len(figures(out, "new")) == 1 and not figures(out, "old")


def test_mistakes_are_sentences(tmp_path):
    assert "ERROR: --only nothing" in benchmark("--only", "nothing", status=2)
    assert "ERROR" in benchmark("--confs", "no-such-conf", status=2)
    assert "model.dimm" in benchmark("--set", "model.dimm=3", status=2)
    assert "--set-old is for" in benchmark("--set-old", "model.dim=24", status=2)
    assert "is a folder" in benchmark("--out", tmp_path, status=2)
