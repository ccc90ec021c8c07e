"""The table of the search: evolution, random search and the uniform ladder at every budget."""

from todm.results.search_results import SearchResults
from todm.tables.cells import rate_cell
from todm.tables.evidence import Evidence
from utils.text import markdown_table


def search_table(evidence: Evidence, search: SearchResults) -> str:
    """The table in Markdown. Rows: budgets and ways of searching. Columns: cost, loss on the slice
    of dev, and the supernet's WER on every split."""
    rows = []
    for budget in search.settings.limits:
        for how, entries in search.chosen.items():
            entry = next(e for e in entries if e.budget == budget)
            system = evidence.supernet(str(entry.subnet))
            rates = [
                rate_cell(evidence, system, split) if evidence.seeds(system, split) else ""
                for split, _ in evidence.splits
            ]
            loss = f"{entry.dev_loss:.4f}"
            rows.append([budget, how, f"{entry.cost:,.6g}", loss, *rates, system.net])
    titles = [
        "budget",
        "found by",
        search.settings.cost_unit,
        "loss on the slice of dev",
        *(split for split, _ in evidence.splits),
        "architecture",
    ]
    scored = ", ".join(f"{how} {len(found)}" for how, found in search.candidates.items())
    seconds = ", ".join(f"{how} {s:.0f} s" for how, s in search.seconds.items())
    return (
        f"{markdown_table(titles, rows)}\n\nCandidates scored: {scored}. Time: {seconds}. The "
        "search saw the first seed's supernet and dev only; "
        "the other seeds' supernets are decoded with the same architectures.\n\n![the "
        "front](front.png)"
    )
