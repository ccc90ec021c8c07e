"""The pictures of stages 7 to 9: WER against size, and loss over updates of the training and of
the ablations."""

from pathlib import Path

import numpy as np

from todm.results.decode_results import RunFacts, RunResults
from todm.tables.evidence import Evidence
from todm.tables.runs import INDIVIDUAL, SAME
from utils.curves import scalars, thinned
from utils.pictures import picture, plain_log_scale
from utils.statistics import Rate

MOST_POINTS = 200  # of a curve


def draw_subnets(results: RunResults, path: Path) -> None:
    """Draws WER against encoder parameters, a line per split, search method and way the subnets
    were found."""
    lines: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in results.rows:
        key = row.split, row.method, row.entry.how
        lines.setdefault(key, []).append((row.entry.encoder_params / 1e6, row.wer))
    with picture(path) as (axes,):
        for key, points in lines.items():
            axes.plot(*zip(*sorted(points)), marker="o", label=", ".join(key))
        axes.set(
            xlabel="encoder parameters (millions)",
            ylabel="WER (%)",
            title=f"{results.run.name}: {results.run.corpus}",
        )
        axes.set_ylim(bottom=0)


def draw_training(run: RunFacts, events: Path, path: Path) -> bool:
    """Draws the loss per frame over the updates, of the largest and of the smallest net: on dev, on
    train, and CTC's while it trains alone.

    Where train falls and dev does not, data limit a training; where both still fall, updates do.

    Args:
      events: the folder of tensorboard's files.
    Returns:
      Whether there was anything to draw.
    """
    found = scalars(events)
    kinds = {"train": ":", "dev": "-", "dev CTC": "--"}
    lines = {
        (kind, net): found[f"{kind} loss per frame/{net}"]
        for kind in kinds
        for net in ("largest", "smallest")
        if f"{kind} loss per frame/{net}" in found
    }
    if not lines:
        return False
    with picture(path) as (axes,):
        for (kind, net), points in lines.items():
            shown = thinned(list(points.items()), MOST_POINTS)
            colour = "C0" if net == "largest" else "C1"
            axes.plot(*zip(*shown), kinds[kind], color=colour, label=f"{kind}, {net} net")
        axes.set(
            xlabel="update",
            ylabel="loss per frame",
            title=f"{run.name}: {run.updates:,} updates, {run.audio_hours_trained} h of audio",
        )
        plain_log_scale(axes)
    return True


def draw_families(evidence: Evidence, path: Path, title: str) -> None:
    """Draws WER against size on every split: the supernet's subnets, models trained alone with the
    same settings, and tuned ones."""
    with picture(path, columns=len(evidence.splits)) as all_axes:
        for axes, (split, _) in zip(all_axes, evidence.splits):
            for shift, (name, points) in enumerate(family_rates(evidence, split).items()):
                if not points:
                    continue
                # moved a little apart, so that intervals do not cover each other
                x = [size * (1 + 0.008 * (shift - 1)) for size, _ in points]
                y = [rate.wer for _, rate in points]
                below = [rate.wer - rate.low for _, rate in points]
                above = [rate.high - rate.wer for _, rate in points]
                axes.errorbar(x, y, [below, above], marker="o", capsize=3, label=name)
            axes.set(
                xlabel="encoder parameters (millions)", ylabel="WER (%)", title=f"{title}: {split}"
            )
            axes.set_ylim(bottom=0)


def family_rates(evidence: Evidence, split: str) -> dict[str, list[tuple[float, Rate]]]:
    """Points of the lines of table (a): encoder parameters in millions, and the WER."""
    families: dict[str, list[tuple[float, Rate]]] = {
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
    return families


def draw_curves(evidence: Evidence, variants: list[str], path: Path) -> None:
    """Draws the loss on dev over the updates, of the largest and of the smallest net, a line per
    variant (mean over seeds)."""
    with picture(path, columns=2) as all_axes:
        for axes, net in zip(all_axes, ("largest", "smallest")):
            for variant in variants:
                curves = [record.curves for record in evidence.tuned(variant)]
                tag = f"dev loss per frame/{net}"
                found = [of_run[tag] for of_run in curves if tag in of_run]
                if found:
                    x = found[0].updates
                    y = [curve.values for curve in found if len(curve.updates) == len(x)]
                    axes.plot(x, np.mean(y, axis=0), marker=".", label=variant)
            axes.set(
                xlabel="update", ylabel="transducer loss per frame", title=f"dev, the {net} net"
            )
            plain_log_scale(axes)
