"""Training curves, as tensorboard's event files have them."""

import logging
from pathlib import Path


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Every scalar of a training by its tag: values by update, in order. Empty where there are no
    event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return {}
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it speaks of every file's end
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        points = {
            e.step: e.value for e in events.Scalars(tag)
        }  # a resumed run has some steps twice
        found[tag] = dict(sorted(points.items()))
    return found


def thinned(points: list, most: int) -> list:
    """About ``most`` of some points, evenly spaced; the last one stays."""
    step = -(-len(points) // most)
    return points if step <= 1 else points[:-1:step] + points[-1:]
