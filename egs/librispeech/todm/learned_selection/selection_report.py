"""Learned selection for people: scores over time, and which parts every size keeps, as pictures."""

from pathlib import Path

import numpy as np

from todm.learned_selection.score_file import read_scores
from todm.learned_selection.units import KINDS, Units
from todm.subnet import Subnet
from utils.pictures import picture


def draw_scores(exp: Path, units: Units, path: Path, title: str) -> None:
    """Scores over updates, a line per unit, SSM and FFN in two colours."""
    updates, scores = read_scores(exp)
    if not updates:
        return
    with picture(path) as (axes,):
        labelled = set()
        for i, unit in enumerate(units.items):
            name = "SSM" if unit.kind == "heads" else "FFN"
            axes.plot(
                updates,
                [row[i] for row in scores],
                color="tab:blue" if name == "SSM" else "tab:orange",
                alpha=0.6,
                linewidth=0.8,
                label=None if name in labelled else name,
            )
            labelled.add(name)
        axes.set(xlabel="update", ylabel="score", title=title)


def draw_masks(nets: dict[str, Subnet], path: Path, title: str) -> None:
    """A picture of the parts that every size keeps, a panel for each: blocks by components.

    Args:
      nets: subnets by the name of the size; the first is the largest.
    """
    first = next(iter(nets.values()))
    widths = {
        kind: 1 + max(max(getattr(b, kind), default=0) for net in nets.values() for b in net.blocks)
        for kind in KINDS
    }
    with picture(path, columns=len(nets)) as axes:
        for one, (name, net) in zip(axes, nets.items()):
            image = np.zeros((len(first.blocks), sum(widths.values()) + 1))
            for i, block in enumerate(net.blocks):
                for kind, offset in zip(KINDS, (0, widths[KINDS[0]] + 1)):
                    for part in getattr(block, kind):
                        image[i, offset + part] = 1
            one.imshow(image, cmap="Blues", vmin=0, vmax=1.3, aspect="auto", origin="lower")
            one.set(
                title=f"{title}: {name}",
                ylabel="block",
                xlabel="SSM head groups | FFN chunks",
                yticks=range(len(first.blocks)),
            )
