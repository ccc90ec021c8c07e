"""Reads training curves from tensorboard's event files."""

import logging
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Reads every scalar of a training.

    Returns:
      Values by update, in order, by the scalar's tag; empty where there are no event files.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return {}
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it speaks of every file's end
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        # a resumed run has some steps twice: the later value counts
        points = {e.step: e.value for e in events.Scalars(tag)}
        found[tag] = dict(sorted(points.items()))
    return found


def thinned(points: list[T], most: int) -> list[T]:
    """About ``most`` of the points, evenly spaced; the last one stays."""
    step = -(-len(points) // most)
    return points if step <= 1 else points[:-1:step] + points[-1:]
