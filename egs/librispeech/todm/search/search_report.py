"""The picture of the search: candidates, front and winners of all budgets."""

from pathlib import Path

from todm.results.search_results import SearchResults
from utils.pictures import picture

MARKS = {
    "evolution": ("tab:blue", "o"),
    "random": ("tab:orange", "s"),
    "uniform": ("tab:green", "^"),
}


def draw_front(search: SearchResults, path: Path) -> None:
    """Draws every scored candidate, the front and the winners: loss and WER on dev against the
    cost."""
    unit = search.settings.cost_unit
    with picture(path, columns=2) as (left, right):
        for how, candidates in reversed(search.candidates.items()):
            colour, mark = MARKS[how]
            left.plot(
                [net.cost for net in candidates],
                [net.loss for net in candidates],
                mark,
                color=colour,
                alpha=0.5,
                markersize=3 if how != "uniform" else 7,
                label=f"{how}: {len(candidates)} candidates",
            )
            points = sorted((entry.cost, entry.dev_score) for entry in search.chosen[how])
            right.plot(*zip(*points), color=colour, marker=mark, label=how)
        losses = [net.loss for net in search.front]
        left.plot(
            [net.cost for net in search.front], losses, color="black", linewidth=1, label="front"
        )
        for limit in search.settings.limits.values():
            left.axvline(limit, color="grey", linewidth=0.7, linestyle=":")
        # the worst candidates would flatten the rest
        best, span = min(losses), max(losses) - min(losses)
        left.set_ylim(best - 0.05 * span, max(losses) + 0.5 * span)
        left.set(
            xlabel=unit,
            ylabel="transducer loss per frame on the slice of dev",
            title="candidates (dotted: budgets)",
        )
        right.set(xlabel=unit, ylabel="WER (%) on dev", title="the winner of every budget")
