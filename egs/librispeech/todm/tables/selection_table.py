"""Table (d): subnets that training itself selects, beside those that a search finds afterwards."""

from todm.config.keys import Config
from todm.results.search_results import SearchResults
from todm.results.subnets import read_subnets
from todm.tables.cells import difference_cell, rate_cell
from todm.tables.evidence import Evidence, System
from todm.tables.runs import SAME, SUPERNET, tables_folder
from utils.text import file_name, markdown_table


def finished_selections(config: Config, evidence: Evidence) -> list[str]:
    """The learned selections of the conf that have run."""
    return [s.name for s in config.tables.selections if s.name in evidence.variants()]


def selection_table(
    config: Config, evidence: Evidence, search: SearchResults | None, selected: list[str]
) -> str:
    """The section in Markdown: WER of every way of selecting at every budget, then the ways'
    costs."""
    pictures = "\n".join(
        f"![{name}: what every size keeps](masks-{file_name(name)}.png)" for name in selected
    )
    costs = markdown_table(
        ["selected by", "trainings", "seconds of training, mean", "seconds of selection"],
        selection_costs(evidence, search, selected),
    )
    return (
        f"{rates_of_selections(config, evidence, selected)}\n\n{costs}"
        "\n\nLearned selections train and select at once, with the same updates; evolution and "
        f"its baselines look at the first seed's supernet.\n\n{pictures}"
    )


def rates_of_selections(config: Config, evidence: Evidence, selected: list[str]) -> str:
    """The table of rates.

    Rows: budgets and ways of selecting. Columns: size, WER on every split, and on test the
    difference to evolution.
    """
    tests = [split for split, role in evidence.splits if role == "test"]
    titles = [
        "budget",
        "selected by",
        "encoder, by seed",
        *(split for split, _ in evidence.splits),
        *(f"{split}: minus evolution" for split in tests),
    ]
    searched = searched_nets(config)
    rows = []
    for budget in config.search.budgets:
        learned = {name: System(name, evidence.tuned_setting(name), budget) for name in selected}
        if not any(map(evidence.sizes, learned.values())):
            continue
        found = {
            how: evidence.supernet(nets[budget]) for how, nets in searched.items() if budget in nets
        }
        base = next(iter(found.values()), None)
        for name, system in (found | learned).items():
            if not evidence.sizes(system):
                continue
            sizes = "/".join(f"{size / 1e6:.2f}M" for size in evidence.sizes(system))
            rates = [rate_cell(evidence, system, split) for split, _ in evidence.splits]
            differences = [
                ""
                if base is None or system == base
                else difference_cell(evidence.difference(system, base, split))
                for split in tests
            ]
            rows.append([budget, name, sizes, *rates, *differences])
    return markdown_table(titles, rows, left=3)


def searched_nets(config: Config) -> dict[str, dict[str | None, str]]:
    """Architectures by the way in which stage 5 found them, then by budget."""
    found: dict[str, dict[str | None, str]] = {}
    for entry in read_subnets(tables_folder(config) / "subnets.json", baselines=True):
        found.setdefault(entry.how, {})[entry.budget] = str(entry.subnet)
    return found


def selection_costs(
    evidence: Evidence, search: SearchResults | None, selected: list[str]
) -> list[list[str]]:
    """Rows of the table of costs: trainings, seconds of each, and seconds of selecting after
    it."""
    rows = []
    for name in [SUPERNET, *selected]:
        records = evidence.of(name, SAME) if name == SUPERNET else evidence.tuned(name)
        seconds = sum(r.results.run.training_seconds for r in records) / max(len(records), 1)
        after = search.selection_seconds if search and name == SUPERNET else 0
        title = "supernet, then evolution" if name == SUPERNET else name
        rows.append([title, str(len(records)), f"{seconds:.0f}", f"{after:.0f}"])
    return rows
