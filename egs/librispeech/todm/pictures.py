"""The pictures of the recipe, each drawn from a results file alone."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from utils.files import atomic_path

MARKS = {
    "evolution": ("tab:blue", "o"),
    "random": ("tab:orange", "s"),
    "uniform": ("tab:green", "^"),
}


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
    """WER against encoder parameters, a line per split, search method and way the subnets were
    found."""
    with picture(path) as (axes,):
        for split, method, how in dict.fromkeys(
            (r["split"], r["method"], r["how"]) for r in run["results"]
        ):
            points = sorted(
                (r["encoder_params"] / 1e6, r["wer"])
                for r in run["results"]
                if (r["split"], r["method"], r["how"]) == (split, method, how)
            )
            axes.plot(*zip(*points), marker="o", label=f"{split}, {method}, {how}")
        axes.set(
            xlabel="encoder parameters (millions)",
            ylabel="WER (%)",
            title=f"{run['name']}: {run['corpus']}",
        )
        axes.set_ylim(bottom=0)


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


def draw_deployed(points: list[dict], path: Path, title: str) -> None:
    """WER against real-time factor: a line per mode and precision, a point per subnet (``mode``,
    ``precision``, ``wer``, ``rtf``)."""
    with picture(path) as (axes,):
        for mode, precision in dict.fromkeys((p["mode"], p["precision"]) for p in points):
            line = sorted(
                (p["rtf"], p["wer"])
                for p in points
                if (p["mode"], p["precision"]) == (mode, precision)
            )
            axes.plot(
                *zip(*line),
                marker="o" if mode == "offline" else "s",
                linestyle="-" if precision == "fp32" else "--",
                label=f"{mode}, {precision}",
            )
        axes.set(xlabel="real-time factor on one thread", ylabel="WER (%)", title=title)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)


def draw_families(evidence, path: Path, title: str) -> None:
    """WER against size on every split: the supernet's subnets, models trained alone with the same
    settings, and tuned."""
    from egs.librispeech.todm.runs import INDIVIDUAL, SAME

    with picture(path, columns=len(evidence.splits)) as axes:
        for one, (split, _) in zip(axes, evidence.splits):
            families: dict[str, list] = {
                "supernet": [],
                "alone, same settings": [],
                "alone, tuned": [],
            }
            for budget in evidence.budgets():
                same = evidence.alone(budget, SAME)
                tuned = evidence.alone(budget, evidence.tuned_setting(f"{INDIVIDUAL} {budget}"))
                for name, system in zip(families, (evidence.supernet(same.net), same, tuned)):
                    if rate := evidence.rate(system, split):
                        families[name].append((evidence.size(same.net) / 1e6, rate))
            for shift, (name, points) in enumerate(families.items()):
                if points:
                    x = [
                        size * (1 + 0.008 * (shift - 1)) for size, _ in points
                    ]  # so that intervals do not cover each other
                    y = [rate.wer for _, rate in points]
                    one.errorbar(
                        x,
                        y,
                        [[r.wer - r.low for _, r in points], [r.high - r.wer for _, r in points]],
                        marker="o",
                        capsize=3,
                        label=name,
                    )
            one.set(
                xlabel="encoder parameters (millions)", ylabel="WER (%)", title=f"{title}: {split}"
            )
            one.set_ylim(bottom=0)


def draw_curves(evidence, variants: list[str], path: Path) -> None:
    """Loss on dev over the updates, of the largest and of the smallest net, a line per variant
    (mean over seeds)."""
    import numpy as np

    tags = {"largest": "dev loss per frame/largest", "smallest": "dev loss per frame/smallest"}
    with picture(path, columns=2) as axes:
        for one, (net, tag) in zip(axes, tags.items()):
            for variant in variants:
                found = [
                    r["curves"][tag]
                    for r in evidence.of(variant, evidence.tuned_setting(variant))
                    if tag in r["curves"]
                ]
                if found:
                    x = [int(u) for u in found[0]["updates"].split()]
                    y = [
                        [float(v) for v in curve["values"].split()]
                        for curve in found
                        if len(curve["updates"].split()) == len(x)
                    ]
                    one.plot(x, np.mean(y, axis=0), marker=".", label=variant)
            one.set(
                xlabel="update",
                ylabel="transducer loss per frame",
                title=f"dev, the {net} net",
                yscale="log",
            )
