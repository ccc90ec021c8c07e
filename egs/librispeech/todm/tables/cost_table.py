"""Table (c): what several sizes cost from one supernet, and what they cost from as many
trainings."""

from todm.results.records import Record
from todm.results.search_results import SearchResults
from todm.tables.evidence import Evidence, TrainingCost, training_cost
from todm.tables.runs import INDIVIDUAL, SAME, SUPERNET
from utils.text import markdown_table

TITLES = [
    "what",
    "trainings",
    "updates",
    "audio hours",
    "wall hours, one after the other",
    "accelerator or core-process hours",
    "times the supernet",
]


def cost_table(evidence: Evidence, search: SearchResults | None) -> str:
    """The table in Markdown, for the first seed.

    Rows: the supernet, the models trained alone with the same settings and tuned, and the search.
    """
    budgets, seed = evidence.budgets(), evidence.first_seed

    def of_seed(variant: str, setting: str | None) -> list[Record]:
        return [r for r in evidence.of(variant, setting) if r.seed == seed]

    alone = [r for b in budgets for r in of_seed(f"{INDIVIDUAL} {b}", SAME)]
    if not alone or not of_seed(SUPERNET, SAME):
        return f"not run: it takes the supernet and models alone with seed {seed}"
    grid = [r for b in budgets for r in of_seed(f"{INDIVIDUAL} {b}", None)]
    supernet = training_cost(of_seed(SUPERNET, SAME))
    trained = {
        f"one supernet, any number of sizes (here {len(budgets)})": supernet,
        f"{len(alone)} sizes trained alone, same settings": training_cost(alone),
        f"{len(budgets)} sizes trained alone, tuned ({len(grid)} trainings)": training_cost(grid),
    }
    rows = [training_cells(title, cost, supernet) for title, cost in trained.items()]
    if search:
        hours = search.selection_seconds / 3600
        times = hours / supernet.process_hours
        empty = [""] * 3
        rows.append(
            [
                "the search, once per supernet",
                *empty,
                f"{hours:.2f}",
                f"{hours:.2f}",
                f"{times:.2f}",
            ]
        )
    mean = training_cost(alone).process_hours / len(alone)
    return (
        f"{markdown_table(TITLES, rows)}\n\nSeed {seed}; measured while "
        f"{evidence.records[0].plan.processes} process(es) of a run and the other workers "
        f"shared the machine. A training alone took {mean:.2f} process hours on average, so one "
        f"supernet costs as much as {supernet.process_hours / mean:.1f} sizes "
        "trained alone without any tuning; every further size is free."
    )


def training_cells(title: str, cost: TrainingCost, supernet: TrainingCost) -> list[str]:
    """The row of some trainings."""
    return [
        title,
        str(cost.runs),
        f"{cost.updates:,}",
        f"{cost.audio_hours:.1f}",
        f"{cost.wall_hours:.2f}",
        f"{cost.process_hours:.2f}",
        f"{cost.process_hours / supernet.process_hours:.2f}",
    ]
