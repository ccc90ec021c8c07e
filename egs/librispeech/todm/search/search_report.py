"""The picture of the search: candidates, front and winners, from search.json alone."""

from pathlib import Path

from utils.pictures import picture

MARKS = {
    "evolution": ("tab:blue", "o"),
    "random": ("tab:orange", "s"),
    "uniform": ("tab:green", "^"),
}


def draw_front(found: dict, path: Path) -> None:
    """Every scored candidate, the front and the winners: loss and WER on dev against the cost (of
    search.json)."""
    with picture(path, columns=2) as (left, right):
        for how in reversed(list(found["candidates"])):
            colour, mark = MARKS[how]
            _, costs, losses = zip(*found["candidates"][how])
            left.plot(
                costs,
                losses,
                mark,
                color=colour,
                alpha=0.5,
                markersize=3 if how != "uniform" else 7,
                label=f"{how}: {len(costs)} candidates",
            )
            points = sorted((e["cost"], e["dev_score"]) for e in found["chosen"][how])
            right.plot(*zip(*points), color=colour, marker=mark, label=how)
        _, costs, losses = zip(*found["front"])
        left.plot(costs, losses, color="black", linewidth=1, label="front")
        for limit in found["limits"].values():
            left.axvline(limit, color="grey", linewidth=0.7, linestyle=":")
        worst = max(loss for _, _, loss in found["front"])
        best = min(loss for _, _, loss in found["front"])
        left.set_ylim(best - 0.05 * (worst - best), worst + 0.5 * (worst - best))
        left.set(
            xlabel=found["cost_unit"],
            ylabel="transducer loss per frame on the slice of dev",
            title="candidates (dotted: budgets)",
        )
        right.set(
            xlabel=found["cost_unit"], ylabel="WER (%) on dev", title="the winner of every budget"
        )
