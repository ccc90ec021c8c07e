"""Search and tables through run.sh, on the tiny experiment's data: stages 4 to 9."""

import csv
import json
import math
import re
from pathlib import Path

import pytest

from tests.conftest import run_sh, tiny_arguments

SEARCH = [
    "select.method=evolution",
    "search.budgets=[0.6,1.0]",
    "search.population=6",
    "search.generations=2",
    "search.proxy_seconds=10",
    "search.finalists=2",
]


def table_arguments(folder: Path, data: Path) -> list[str]:
    return [
        *tiny_arguments(folder),
        f"data.dir={data}",
        "train.cpu_processes=1",
        "decode.methods=[greedy]",
        "train.updates=8",
        *SEARCH,
        f"tables.records={folder / 'results'}",
        "tables.budgets=[0.6]",
        'tables.individual_grid=["train.lr=0.02"]',
        "tables.ablations=[{name: KL divergence, overrides: [method.distill=kl]}]",
        "tables.workers=2",
    ]


@pytest.fixture(scope="module")
def table_run(tiny_run, tmp_path_factory) -> tuple[list[str], Path, str]:
    """Arguments, folder and output of a whole tiny experiment with tables."""
    folder = tmp_path_factory.mktemp("tables")
    arguments = table_arguments(folder, (tiny_run[0] / "data").resolve())
    return arguments, folder, run_sh("--stage", "4", *arguments).stdout


def test_every_run_of_the_list_leaves_a_record(table_run):
    _, folder, _ = table_run
    records = {
        path.stem: json.loads(path.read_text())
        for path in (folder / "results/records").glob("*.json")
    }
    tuned = {name for name in records if re.fullmatch(r"individual-0.6-lr-0.02-seed2", name)}
    assert set(records) - tuned == {
        "supernet-seed1",
        "supernet-seed2",
        "individual-0.6-seed1",
        "individual-0.6-lr-0.02-seed1",
        "individual-0.6-seed2",
        "KL-divergence-seed1",
        "KL-divergence-seed2",
    }
    for name, record in records.items():
        assert (
            record["run"] == name
            and record["updates"] == 8
            and record["seed"] == record["conf"]["train.seed"]
        )
        assert "todm.training.train" in record["command"] and record["commit"] and record["machine"]
        for row in record["results"]:
            assert (
                sum(map(int, row["utterance_errors"].split()))
                == row["substitutions"] + row["insertions"] + row["deletions"]
            )
    alone = records["individual-0.6-seed1"]
    found = next(
        e
        for e in json.loads((folder / "exp/subnets.json").read_text())["subnets"]
        if e["budget"] == "0.6"
    )
    assert (
        alone["largest"] == found["architecture"] and alone["conf"]["method.subnets_per_step"] == 0
    )


def test_the_tables_and_pictures_are_there(table_run):
    _, folder, output = table_run
    text = (folder / "results/tables.md").read_text()
    assert text in output
    assert (
        all(title in text for title in ("## (a)", "## (b)", "## (c)", "## Search"))
        and "not run" not in text
    )
    for name in (
        "results/wer-against-size.png",
        "results/curves.png",
        "results/front.png",
        "exp/search/front.png",
    ):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(open(folder / "results/runs.csv")))
    assert {row["run"] for row in rows} == {
        path.stem for path in (folder / "results/records").glob("*.json")
    }


def test_a_record_leaves_the_files_of_stage_6_alone(table_run):
    """The supernet's own run is decoded with more nets; what stage 6 wrote would be damaged."""
    exp = table_run[1] / "exp"
    finished = (exp / "results.json").stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns <= finished for path in (exp / "decode").iterdir())
    assert list((exp / "recorded").glob("recogs-*"))


def test_a_second_call_searches_and_trains_nothing(table_run):
    arguments, folder, _ = table_run
    before = {path: path.stat().st_mtime_ns for path in (folder / "results/records").glob("*.json")}
    again = run_sh("--stage", "5", "--stop-stage", "8", *arguments).stdout
    for stage in ("5 (select subnets)", "6 (decode and score)"):
        assert f"stage {stage}: finished already, skipped" in again
    assert "runs to do" not in again and "damaged" not in again
    forced = run_sh("--stage", "5", "--stop-stage", "5", "--force", *arguments).stdout
    assert re.search(r"(\d+) decoded \(0 of them now\)", forced)  # every score came from the cache
    assert {
        path: path.stat().st_mtime_ns for path in (folder / "results/records").glob("*.json")
    } == before


def test_the_chosen_subnets_keep_to_their_budgets(table_run):
    _, folder, _ = table_run
    found = json.loads((folder / "exp/search/search.json").read_text())
    assert set(found["chosen"]) == {"evolution", "random", "uniform"}
    for entries in found["chosen"].values():
        for entry in entries:
            assert (
                entry["cost"]
                <= entry["limit"]
                == pytest.approx(found["limits"][entry["budget"]], abs=1e-3)
            )
    names = [
        e["name"]
        for e in json.loads((folder / "exp/results.json").read_text())["results"]
        if e["split"] == "test"
    ]
    assert len(names) == len(set(names)) == 6  # evolution, random and uniform at two budgets


@pytest.mark.parametrize("stage", ["4", "5"])
def test_an_infeasible_budget_is_refused_with_the_feasible_range(table_run, stage):
    arguments, folder, _ = table_run
    result = run_sh(
        "--stage",
        stage,
        "--stop-stage",
        stage,
        *arguments,
        "search.budgets=[0.01,0.6]",
        *(["--force"] if stage == "5" else []),
        *([f"exp={folder / 'other'}"] if stage == "4" else []),
        check=False,
    )
    assert (
        result.returncode == 2
        and "no subnet fits 0.01" in result.stdout
        and "feasible" in result.stdout
    )
    assert "Traceback" not in result.stdout


def test_stage_7_names_the_stage_that_finds_its_subnets(table_run):
    arguments, folder, _ = table_run
    result = run_sh(
        "--stage",
        "7",
        "--stop-stage",
        "7",
        *arguments,
        f"exp={folder / 'none'}",
        f"tables.records={folder / 'none'}",
        check=False,
    )
    assert result.returncode == 2 and "stage 5 makes it" in result.stdout


def test_records_alone_are_enough_for_the_tables_and_for_going_on(table_run):
    """Another machine has the records and no experiment: nothing is trained again, and stage 9
    gives the same tables."""
    arguments, folder, _ = table_run
    output = run_sh(
        "--stage", "7", "--stop-stage", "9", *arguments, f"exp={folder / 'elsewhere'}"
    ).stdout
    assert "runs to do" not in output and (folder / "results/tables.md").read_text() in output


def test_latency_as_the_cost_of_the_search(table_run):
    arguments, folder, _ = table_run
    output = run_sh(
        "--stage",
        "5",
        "--stop-stage",
        "5",
        *arguments,
        "search.cost=latency",
        "search.budgets=[1.0]",
        "tables.budgets=[]",
        "search.baselines=false",
        "search.generations=0",
    ).stdout
    assert "latency of the largest net" in output
    table = json.loads((folder / "exp/search/latency.json").read_text())
    assert table["fixed"] >= 0 and len(table["check"]) == 3
    # A block of the tiny net takes less time than clocks vary beside other programs, so that a
    # difference of two may be negative.
    assert table["blocks"] and all(math.isfinite(ms) for ms in table["blocks"].values())


@pytest.mark.slow
def test_a_dry_run_needs_no_data_and_lists_every_run(tmp_path):
    selected = "tables.selections=[{name: Top, overrides: [select.method=simple-topk]}]"
    output = run_sh("--dry-run", *table_arguments(tmp_path, tmp_path / "none"), selected).stdout
    assert all(
        name in output
        for name in (
            "supernet-seed2",
            "individual-0.6-lr-0.02-seed1",
            "KL-divergence-seed2",
            "Top-seed2",
            "GPU hours",
            "memory",
        )
    )
    assert not (tmp_path / "none").exists() and not (tmp_path / "results").exists()
