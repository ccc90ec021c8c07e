"""The pictures of stages 7 to 9: WER against size, and loss over updates of the ablations."""

from pathlib import Path

import numpy as np

from todm.tables.runs import INDIVIDUAL, SAME
from utils.pictures import picture


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


def draw_families(evidence, path: Path, title: str) -> None:
    """WER against size on every split: the supernet's subnets, models trained alone with the same
    settings, and tuned."""
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
