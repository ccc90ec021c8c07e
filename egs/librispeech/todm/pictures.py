"""The pictures of the recipe, each drawn from a results file alone."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from utils.files import atomic_path

MARKS = {"evolution": ("tab:blue", "o"), "random": ("tab:orange", "s"), "uniform": ("tab:green", "^")}


@contextlib.contextmanager
def picture(path: Path, columns: int = 1) -> Iterator[list]:
    """Axes side by side, saved as PNG when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(7 * columns, 4.5), squeeze=False)
    try:
        yield list(axes[0])
        for one in axes[0]:
            one.grid(alpha=0.3)
            if one.get_legend_handles_labels()[0]:
                one.legend(fontsize=8)
        figure.tight_layout()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150)
    finally:
        plt.close(figure)


def draw_subnets(run: dict, path: Path) -> None:
    """WER against encoder parameters, a line per split, search method and way the subnets were found."""
    with picture(path) as (axes,):
        for split, method, how in dict.fromkeys((r["split"], r["method"], r["how"]) for r in run["results"]):
            points = sorted((r["encoder_params"] / 1e6, r["wer"]) for r in run["results"] if (r["split"], r["method"], r["how"]) == (split, method, how))
            axes.plot(*zip(*points), marker="o", label=f"{split}, {method}, {how}")
        axes.set(xlabel="encoder parameters (millions)", ylabel="WER (%)", title=f"{run['name']}: {run['corpus']}")
        axes.set_ylim(bottom=0)


def draw_front(found: dict, path: Path) -> None:
    """Every scored candidate, the front and the winners: loss and WER on dev against the cost (of search.json)."""
    with picture(path, columns=2) as (left, right):
        for how in reversed(list(found["candidates"])):
            colour, mark = MARKS[how]
            _, costs, losses = zip(*found["candidates"][how])
            left.plot(costs, losses, mark, color=colour, alpha=0.5, markersize=3 if how != "uniform" else 7,
                      label=f"{how}: {len(costs)} candidates")
            points = sorted((e["cost"], e["dev_score"]) for e in found["chosen"][how])
            right.plot(*zip(*points), color=colour, marker=mark, label=how)
        _, costs, losses = zip(*found["front"])
        left.plot(costs, losses, color="black", linewidth=1, label="front")
        for limit in found["limits"].values():
            left.axvline(limit, color="grey", linewidth=0.7, linestyle=":")
        worst = max(loss for _, _, loss in found["front"])
        best = min(loss for _, _, loss in found["front"])
        left.set_ylim(best - 0.05 * (worst - best), worst + 0.5 * (worst - best))
        left.set(xlabel=found["cost_unit"], ylabel="transducer loss per frame on the slice of dev", title="candidates (dotted: budgets)")
        right.set(xlabel=found["cost_unit"], ylabel="WER (%) on dev", title="the winner of every budget")
