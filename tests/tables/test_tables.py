"""The runs of tables in rounds, and the tables of made-up records, worked out by hand."""

import contextlib
import csv
import functools
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import tiny_config
from tests.tables.made_up import made_entry, made_record, made_results, made_row
from todm.config.load import load
from todm.results.decode_results import SplitUtterances
from todm.results.records import Record, RunJob
from todm.results.search_results import ScoredNet, SearchResults, SearchSettings
from todm.tables import run_tables
from todm.tables.evidence import Evidence, System
from todm.tables.run_tables import Table
from todm.tables.runs import ALONE, Variant, run_values
from todm.tables.table_report import header, write_tables
from utils.errors import UserError
from utils.files import write_json_atomic
from utils.statistics import wer_interval

CONF = "conf/tables/mini.yaml"
NETS = {
    "L": made_entry("h0-2f0-3 h0-2f0-3", 1_000_000, name="net L"),
    "S": made_entry("h0f0 -", 300_000, name="net S"),
}
ALL = [
    "supernet-seed1",
    "individual-0.3-seed1",
    "individual-0.3-lr-0.07-seed1",
    "individual-0.3-lr-0.09-seed1",
    "Adam-lr-0.001-seed1",
    "Adam-lr-0.002-seed1",
    "supernet-seed2",
    "individual-0.3-seed2",
]  # the first seed's first
TUNED = ["individual-0.3-lr-0.07-seed2", "Adam-lr-0.002-seed2"]
POINTS = (ScoredNet(NETS["S"].subnet, 3e5, 0.2), ScoredNet(NETS["L"].subnet, 1e6, 0.1))
WINNERS = tuple(
    replace(NETS[net], budget=budget, cost=NETS[net].encoder_params, dev_loss=0.5, dev_score=9.0)
    for budget, net in (("0.3", "S"), ("1.0", "L"))
)
SEARCH = SearchResults(
    SearchSettings("encoder_params", "parameters", {"0.3": 3e5, "1.0": 1e6}, 1, 2, 0, 10.0),
    seconds={"evolution": 1800, "random": 9999, "finalists": 1800},
    computed_now={"loss": 4, "wer": 4},
    chosen=dict.fromkeys(("evolution", "random"), WINNERS),
    front=POINTS,
    candidates=dict.fromkeys(("evolution", "random"), POINTS),
)


def record(variant: str, setting: str, seed: int, hours: float, **errors: int) -> Record:
    """A record of errors by split and net (``dev_S=8``)."""
    rows = [
        made_row(NETS[net], split, count)
        for key, count in errors.items()
        for split, net in [key.split("_")]
    ]
    return made_record(variant, setting, seed, rows, hours)


SUPERNETS = [
    record("supernet", "", seed, 1.0 * seed, dev_L=8, dev_S=16, test_L=n, test_S=8 + n)
    for seed, n in ((1, 8), (2, 16))
]
SMALL = [
    record("individual 0.3", setting, seed, 0.5, dev_S=dev, test_S=test)
    for setting, seed, dev, test in (
        ("", 1, 32, 24),
        ("train.lr=0.07", 1, 24, 40),
        ("train.lr=0.09", 1, 40, 8),  # the second wins on dev, the third on test
        ("", 2, 8, 32),
        ("train.lr=0.07", 2, 24, 40),
    )
]
LARGE = [record("individual 1.0", "", 1, 0.75, dev_L=16, test_L=16)]
ADAM = [
    record("Adam", setting, seed, 1.0, dev_L=dev, dev_S=dev, test_L=n, test_S=small)
    for setting, seed, dev, n, small in (
        ("train.lr=0.001", 1, 40, 0, 0),
        ("train.lr=0.002", 1, 32, 16, 24),
        ("train.lr=0.002", 2, 32, 8, 40),
    )
]


def write(folder: Path, records: list[Record], seeds: str = "[1,2]") -> str:
    for i, one in enumerate(records):
        one.write(folder / "records" / f"{i}.json")
    return write_tables(
        tiny_config(f"tables.records={folder}", f"tables.seeds={seeds}")
    ).read_text()


def rows(tables: str, title: str) -> list[list[str]]:
    """The cells of the table below a heading, without title and rule."""
    below = tables.split(f"\n## {title}")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in below.splitlines()
        if line.startswith("|")
    ][2:]


def test_tables_by_hand(tmp_path):
    write_json_atomic(tmp_path / "search.json", SEARCH.as_dict())
    tables = write(tmp_path, [*ADAM, *LARGE, *SMALL, *SUPERNETS])
    small, large = (
        [r for r in rows(tables, "(a)") if r[2] == "test" and r[0] == budget][0]
        for budget in ("0.3", "1.0")
    )
    assert [r[0] for r in rows(tables, "(a)")] == ["0.3", "0.3", "1.0", "1.0"]
    assert small[1:] == [
        "0.30M",
        "test",
        "20.00 [16.0, 24.0] (16.00, 24.00)",
        "28.00 [24.0, 32.0] (24.00, 32.00)",
        "40.00 [40.0, 40.0] (40.00, 40.00)",
        "train.lr=0.07",
        "-8.00 [-8.0, -8.0], -28.6 % rel., p 0.008*",
        "-20.00 [-24.0, -16.0], -50.0 % rel., p 0.008*",
    ]
    assert large[3:7] == [
        "12.00 [8.0, 16.0] (8.00, 16.00)",
        *["16.00 [16.0, 16.0] (16.00)"] * 2,
        "the same",
    ]
    assert (
        large[7] == large[8] == "-8.00 [-8.0, -8.0], -50.0 % rel., p 0.008"
    )  # of the one seed that both have: no star
    ablations = [r for r in rows(tables, "(b)") if r[0] == "test"]
    assert [r[1] for r in ablations] == ["full method"] * 2 + ["Adam (train.lr=0.002)"] * 2
    assert [r[3] for r in ablations] == [
        f"{w[0]}.00 [{w[1]}.0, {w[2]}.0] ({w[3]}.00, {w[4]}.00)"
        for w in (
            (12, 8, 16, 8, 16),
            (20, 16, 24, 16, 24),
            (12, 8, 16, 16, 8),
            (32, 24, 40, 24, 40),
        )
    ]
    assert [r[4] for r in ablations] == [
        "",
        "",
        "+0.00 [-8.0, +8.0], +0.0 % rel., p 1.000",
        "+12.00 [+8.0, +16.0], +60.0 % rel., p 0.008*",
    ]
    costs = [r[1:] for r in rows(tables, "(c)")]  # of the first seed, 2 processes each
    assert costs == [
        ["1", "100", "3.0", "1.00", "2.00", "1.00"],
        ["2", "200", "6.0", "1.25", "2.50", "1.25"],
        ["4", "400", "12.0", "2.25", "4.50", "2.25"],
        ["", "", "", "1.00", "1.00", "0.50"],
    ]
    assert "one supernet costs as much as 1.6 sizes" in tables
    found = [(*r[:2], r[5]) for r in rows(tables, "Search")]  # the supernet's WERs again
    assert found == [(r[0], how, r[3]) for r in (small, large) for how in ("evolution", "random")]
    for name in ("wer-against-size", "curves", "front"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    lines = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert (
        len(lines)
        == len({(r["run"], r["split"], r["net"]) for r in lines})
        == 2 * 4 + 5 * 2 + 2 + 3 * 4
    )
    assert [
        r["wer"]
        for r in lines
        if (r["run"], r["split"], r["net"]) == ("supernet  2", "test", "net S")
    ] == ["24.0"]


def test_what_has_not_run_is_said(tmp_path):
    with pytest.raises(UserError, match="no record"):
        write(tmp_path, [])
    for row in rows(
        write(tmp_path, [record("supernet", "", 1, 1.0, dev_L=8, test_L=8), *SMALL]), "(a)"
    ):
        assert row[3] == "not run" and row[4] != "not run" and row[7:] == ["", ""]


@pytest.mark.parametrize(
    "records",
    [
        SUPERNETS,
        SUPERNETS[1:] + LARGE,
        SMALL + LARGE,
        SUPERNETS + ADAM,
        ADAM,
        SUPERNETS[:1] + SMALL[1:3],
    ],
    ids=[
        "supernets",
        "without the first supernet",
        "models alone",
        "no model alone",
        "ablation without supernet",
        "grid alone",
    ],
)
def test_tables_of_whatever_has_finished(tmp_path, records):
    """Runs end in any order and some fail; the others' numbers are shown."""
    tables = write(tmp_path, records)
    assert (
        tables.startswith("# unnamed")
        and (tmp_path / "curves.png").is_file()
        and (tmp_path / "runs.csv").is_file()
    )


def test_setting_is_the_one_that_was_best_with_the_first_seed_of_the_conf(tmp_path):
    """Seed 2 tried all; with seed 1 the same settings are better on dev, which chooses nothing."""
    swapped = [made_record(r.variant, r.setting, 3 - r.seed, r.rows) for r in [*SUPERNETS, *SMALL]]
    assert {r[6] for r in rows(write(tmp_path, swapped, seeds="[2,1]"), "(a)")} == {"train.lr=0.07"}


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A function that runs the table with more overrides and returns the names of every round;
    ``fail``: jobs that do."""
    variants = [
        Variant("supernet", (), ("",), ("L", "S")),
        Variant("individual 0.3", ALONE, ("", "train.lr=0.07", "train.lr=0.09"), ("S",)),
        Variant(
            "Adam", ("method.optimizer=adam",), ("train.lr=0.001", "train.lr=0.002"), ("L", "S")
        ),
    ]

    def go(*overrides: str, fail: str = "") -> list[list[str]]:
        rounds = []

        def run_local(jobs, workers, processes):
            rounds.append([job.name for job in jobs])
            for job in jobs:
                told = RunJob.read(Path(job.commands[1][-1]))
                resolved = load(told.conf, list(told.overrides))
                dev = {0.07: 1, 0.002: 2}.get(resolved.train.lr, 3)
                rows = [made_row(NETS["S"], "dev", dev), made_row(NETS["S"], "test", 10 - dev)]
                if job.name != fail:
                    results = made_results(rows, resolved.train.seed)
                    Record(told.facts, results, {}).write(Path(told.record))
            return [job.name for job in jobs if job.name == fail]

        arguments = Namespace(
            conf=CONF,
            overrides=[f"tables.records={tmp_path}", f"exp={tmp_path / 'exp'}", *overrides],
        )
        config = load(CONF, arguments.overrides)
        resolved = functools.cache(
            lambda run: run_values(CONF, arguments.overrides, config, run)
        )  # it takes a while
        monkeypatch.setattr(run_tables, "run_local", run_local)
        monkeypatch.setattr(run_tables, "run_values", lambda *arguments: resolved(arguments[-1]))
        with (
            pytest.raises(UserError, match=f"1 of 8 runs failed: {fail}")
            if fail
            else contextlib.nullcontext()
        ):
            Table(config, arguments).run(variants)
        return rounds

    return go


@pytest.mark.slow
def test_tuned_settings_follow_in_a_second_round_and_nothing_is_run_twice(table):
    assert table() == [ALL, TUNED]
    assert table() == table("tables.workers=1") == []


@pytest.mark.slow
def test_failed_run_is_named_and_repeated_alone(table):
    assert table(fail="individual-0.3-lr-0.09-seed1") == [ALL]
    assert table() == [["individual-0.3-lr-0.09-seed1", TUNED[1]], TUNED[:1]]


@pytest.mark.slow
def test_record_of_another_conf_is_run_again(table, tmp_path):
    table()
    path = tmp_path / "records" / "supernet-seed2.json"
    record = Record.read(path)
    other = replace(record.plan, conf=record.plan.conf | {"train.updates": 7})
    replace(record, plan=other).write(path)
    assert table() == [["supernet-seed2"]]


def test_of_few_speakers_a_bootstrap_draws_utterances():
    """Of one speaker there is only one draw, and every interval would have no width."""
    of_four = record("supernet", "", 1, 1.0, dev_L=12, test_L=20)
    alone = SplitUtterances(("a",) * 8, (12, 13) * 4)
    of_one = replace(
        of_four, results=replace(of_four.results, utterances={"dev": alone, "test": alone})
    )
    system = System("supernet", "", str(NETS["L"].subnet))
    drawn = {}
    for name, one in (("four", of_four), ("one", of_one)):
        evidence = Evidence([one], 1)
        rate, words = evidence.rate(system, "dev"), np.array([12, 13] * 4)
        groups = list("aabbccdd") if name == "four" else list("abcdefgh")
        assert rate == wer_interval(np.array([one.rows[0].utterance_errors]), words, groups)
        assert rate.low < rate.wer < rate.high
        [drawn[name]] = re.findall("bootstrap over (.*) and seeds", header(evidence))
    assert drawn == {"four": "speakers", "one": "utterances (dev, test: too few speakers)"}
