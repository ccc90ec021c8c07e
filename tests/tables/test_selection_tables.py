"""Table (d) of made-up records, worked out by hand."""

from pathlib import Path

from tests.helpers import tiny_config
from tests.tables.made_up import made_entry, made_record, made_row
from tests.tables.test_tables import rows
from todm.results.records import Record
from todm.results.subnets import write_subnets
from todm.tables.table_report import write_tables

LARGE, SMALL, OTHER, HEADS = "h0-2f0-3 h0-2f0-3", "h0f0 -", "f0-1 f0", "h0-2 h0-2"
SIZES = {LARGE: 1_000_000, SMALL: 300_000, OTHER: 280_000, HEADS: 290_000}
PINNED = [
    ("evolutionary search", "0.3", SMALL),
    ("evolutionary search", "1.0", LARGE),
    ("random search", "0.3", OTHER),
]


def record(
    variant: str, setting: str, seed: int, nets: list[tuple[str | None, str, int, int]]
) -> Record:
    """A record of (budget, architecture, errors on dev, errors on test); the supernet's nets have
    no budget."""
    rows = [
        made_row(made_entry(net, SIZES[net], budget=budget), split, count)
        for budget, net, *errors in nets
        for split, count in zip(("dev", "test"), errors)
    ]
    return made_record(variant, setting, seed, rows, hours=seed / 36)


SUPERNETS = [
    record(
        "supernet", "", seed, [(None, SMALL, 16, n), (None, LARGE, 8, n - 8), (None, OTHER, 24, 40)]
    )
    for seed, n in ((1, 16), (2, 24))
]


def write(folder: Path, records: list[Record], *selections: str) -> str:
    for i, one in enumerate(records):
        one.write(folder / "records" / f"{i}.json")
    pinned = [made_entry(net, SIZES[net], how=how, budget=budget) for how, budget, net in PINNED]
    write_subnets(folder / "subnets.json", "evolution", pinned)
    return write_tables(
        tiny_config(
            f"tables.records={folder}",
            "tables.seeds=[1,2]",
            "search.budgets=[0.3,1.0]",
            f"tables.selections=[{', '.join(selections)}]",
        )
    ).read_text()


def test_a_learned_selection_is_scored_at_its_own_nets(tmp_path):
    """They differ by seed: 0.29M and 0.28M at the smaller budget."""
    learned = [
        record("OrthoSoftmax", "", seed, [("0.3", net, 24, n), ("1.0", LARGE, 8, n)])
        for seed, net, n in ((1, HEADS, 24), (2, OTHER, 32))
    ]
    found = rows(
        write(tmp_path, [*SUPERNETS, *learned], "{name: OrthoSoftmax}", "{name: not run}"), "(d)"
    )
    by_budget, costs = (
        found[:5],
        [row for row in found[5:] if len(row) == 4 and not row[0].startswith(("selected", "---"))],
    )
    assert [row[:3] for row in by_budget] == [
        ["0.3", "evolutionary search", "0.30M"],
        ["0.3", "random search", "0.28M"],
        ["0.3", "OrthoSoftmax", "0.28M/0.29M"],
        ["1.0", "evolutionary search", "1.00M"],
        ["1.0", "OrthoSoftmax", "1.00M"],
    ]
    assert [row[4] for row in by_budget] == [
        "20.00 [16.0, 24.0] (16.00, 24.00)",
        "40.00 [40.0, 40.0] (40.00, 40.00)",
        "28.00 [24.0, 32.0] (24.00, 32.00)",
        "12.00 [8.0, 16.0] (8.00, 16.00)",
        "28.00 [24.0, 32.0] (24.00, 32.00)",
    ]
    assert [row[5].split(",")[0].split(" [")[0] for row in by_budget] == [
        "",
        "+20.00",
        "+8.00",
        "",
        "+16.00",
    ]
    assert costs == [
        ["supernet, then evolution", "2", "150", "0"],
        ["OrthoSoftmax", "2", "150", "0"],
    ]
    assert (tmp_path / "masks-OrthoSoftmax.png").read_bytes().startswith(b"\x89PNG")
    assert (
        "![OrthoSoftmax: what every size keeps](masks-OrthoSoftmax.png)"
        in (tmp_path / "tables.md").read_text()
    )


def test_a_tuned_learned_selection_stands_in_the_table_with_its_best_setting(tmp_path):
    """By dev alone, of the first seed; nobody has trained the conf's own settings."""
    learned = [
        record("Top-k", setting, 1, [("0.3", SMALL, dev, test), ("1.0", LARGE, dev, test)])
        for setting, dev, test in (("learn.lr_scale=2", 24, 8), ("learn.lr_scale=3", 16, 32))
    ]
    found = rows(
        write(
            tmp_path,
            [*SUPERNETS, *learned],
            "{name: Top-k, grid: [learn.lr_scale=2, learn.lr_scale=3]}",
        ),
        "(d)",
    )
    assert [row[4] for row in found if row[1] == "Top-k"][:1] == ["32.00 [32.0, 32.0] (32.00)"]
    assert [row[0] for row in found if row[1] == "Top-k" and len(row) == 6] == ["0.3", "1.0"]


def test_a_learned_selection_alone_without_the_supernet(tmp_path):
    """Runs end in any order."""
    learned = [record("Top-k", "", 1, [("0.3", SMALL, 16, 16), ("1.0", LARGE, 8, 8)])]
    found = [
        row for row in rows(write(tmp_path, learned, "{name: Top-k}"), "(d)") if row[1] == "Top-k"
    ]
    assert [row[3] for row in found] == ["16.00 [16.0, 16.0] (16.00)", "8.00 [8.0, 8.0] (8.00)"]
