"""Learned selection for people: scores over time, and which parts every size keeps, as pictures."""

import json
from pathlib import Path

from egs.librispeech.todm.learned_selection import Selector
from egs.librispeech.todm.pictures import picture
from egs.librispeech.todm.units import KINDS, Units

SCORES = "scores.jsonl"


def selection_folder(exp: Path) -> Path:
    return exp / "selection"


def append_scores(exp: Path, update: int, selector: Selector) -> None:
    """Add a line with the importance of every unit. A resumed training may write an update twice;
    the later line counts."""
    path = selection_folder(exp) / SCORES
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(
            json.dumps(
                {"update": update, "scores": [round(v, 4) for v in selector.importance().tolist()]}
            )
            + "\n"
        )


def read_scores(exp: Path) -> tuple[list[int], list[list[float]]]:
    """Updates, and the scores at each."""
    path = selection_folder(exp) / SCORES
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found: dict[int, list[float]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a killed training's last line
        found[entry["update"]] = entry["scores"]
    updates = sorted(found)
    return updates, [found[u] for u in updates]


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


def draw_masks(nets: dict[str, str], path: Path, title: str) -> None:
    """What every size keeps: blocks by components, the darker the more sizes keep it.

    Args:
      nets: architectures by the name of the size; the first is the largest.
    """
    import numpy as np

    from egs.librispeech.todm.subnet import Subnet

    parsed = {name: Subnet.parse(text) for name, text in nets.items()}
    first = next(iter(parsed.values()))
    widths = {
        kind: 1
        + max(max(getattr(b, kind), default=0) for net in parsed.values() for b in net.blocks)
        for kind in KINDS
    }
    with picture(path, columns=len(parsed)) as axes:
        for one, (name, net) in zip(axes, parsed.items()):
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
