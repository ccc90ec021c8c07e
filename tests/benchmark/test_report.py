"""Medians, quartiles and ratios by hand, and the tables made of them."""

import pytest

from todm.benchmark.report import Gap, Report, Spread, cell, make_rows, short
from todm.benchmark.workloads import Figure, Workload

WORKLOAD = Workload(
    "load", "Loads.", "none:None", (), (Figure("time", "ms"), Figure("peak memory", "MiB"))
)


def taken(time, memory, wall=None):
    return {"time": [time, wall], "peak memory": [memory, None]}


ROUNDS = [
    {"new": taken(1.0, 10.0, 1.5), "old": taken(2.0, 40.0, 2.5)},  # 0.5 and 0.25
    {"new": taken(3.0, 10.0, 3.5), "old": taken(2.0, 20.0, 2.5)},  # 1.5 and 0.5
    {"new": taken(2.0, 10.0, 2.5), "old": taken(8.0, 10.0, 8.5)},  # 0.25 and 1
    {"new": taken(9.0, 12.0, 9.5)},
]


def test_medians_and_quartiles():
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 9.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.25, 1.75)  # interpolated
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    assert Spread.of([]) is None


def test_ratios_are_those_of_neighbours():
    time, memory = make_rows("mini", WORKLOAD, ["new", "old"], ROUNDS)
    assert time.values == {"new": [1.0, 3.0, 2.0, 9.0], "old": [2.0, 2.0, 8.0]}
    assert time.wall == {"new": [1.5, 3.5, 2.5, 9.5], "old": [2.5, 2.5, 8.5]}
    assert time.ratios == [0.5, 1.5, 0.25]  # not the ratio of the medians, 2.5 / 2
    assert memory.ratios == [0.25, 0.5, 1.0]
    assert memory.wall == {"new": [], "old": []}


def test_a_figure_that_can_not_be_told_is_left_out():
    rounds = [{"new": taken(1.0, None), "old": taken(2.0, None)}]
    time, memory = make_rows("mini", WORKLOAD, ["new", "old"], rounds)
    assert time.ratios == [0.5] and memory.ratios == []
    assert memory.values == {"new": [], "old": []}
    assert "new" not in memory.as_dict() and memory.as_dict()["new / old"] is None


def test_a_row_in_the_file():
    time, _ = make_rows("mini", WORKLOAD, ["new", "old"], ROUNDS)
    assert time.as_dict() == {
        "conf": "mini",
        "workload": "load",
        "figure": "time",
        "unit": "ms",
        "more_is_better": False,
        "new": {
            "median": 2.5,
            "quartiles": [1.75, 4.5],
            "values": [1.0, 3.0, 2.0, 9.0],
            "wall": [1.5, 3.5, 2.5, 9.5],
        },
        "old": {
            "median": 2.0,
            "quartiles": [2.0, 5.0],
            "values": [2.0, 2.0, 8.0],
            "wall": [2.5, 2.5, 8.5],
        },
        "new / old": {"median": 0.5, "quartiles": [0.375, 1.0], "values": [0.5, 1.5, 0.25]},
    }


def in_cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_of_two_revisions():
    rows = make_rows("mini", WORKLOAD, ["new", "old"], ROUNDS)
    lines = Report({}, rows).table().splitlines()
    assert lines[0] == "mini"
    assert list(map(in_cells, [lines[2], *lines[4:]])) == [
        ["workload", "figure", "unit", "new", "old", "new / old", "rounds"],
        [
            *("load", "time", "ms"),
            *("2.50 (1.75 to 4.50)", "2.00 (2.00 to 5.00)", "0.500 (0.375 to 1.00)", "4"),
        ],
        [
            *("load", "peak memory", "MiB"),
            *("10.0 (10.0 to 10.5)", "20.0 (15.0 to 30.0)", "0.500 (0.375 to 0.750)", "4"),
        ],
    ]


def test_the_table_of_one_revision_and_what_is_missing():
    alone = [{"new": each["new"]} for each in ROUNDS]
    gaps = [
        Gap("mini", "loading", "new", "there is no data"),
        Gap("mini", "other", "new", "there is no data"),
        Gap("mini", "export", "new", "it broke", failed=True),
    ]
    text = Report({}, make_rows("mini", WORKLOAD, ["new"], alone), gaps).table()
    lines = text.splitlines()
    assert in_cells(lines[2]) == ["workload", "figure", "unit", "median (quartiles)", "rounds"]
    assert in_cells(lines[4]) == ["load", "time", "ms", "2.50 (1.75 to 4.50)", "4"]
    assert lines[-2:] == [
        "mini: loading, other: not measured: there is no data",
        "mini: export: failed: it broke",
    ]


def test_a_cell_of_one_value_or_none_has_no_quartiles():
    assert (cell([2.0]), cell([])) == ("2.00", "-")


@pytest.mark.parametrize(
    "value, text",
    [(1234.4, "1,234"), (99.96, "100"), (9.996, "10.0"), (1.234, "1.23"), (0.00123456, "0.00123")],
)
def test_numbers_have_three_digits(value, text):
    assert short(value) == text
