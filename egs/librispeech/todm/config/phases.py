"""When the phases of a training begin and how they grow: given in updates, or as shares of all
updates."""

import copy

from todm.config.keys import Config

# A number below 1 is a share of train.updates.
KEYS = (
    "data.spoken_words_first",
    "augment.start",
    "augment.ramp",
    "method.subnets_from",
    "loss.ctc_first",
    "loss.warmup",
    "distill.start",
    "distill.ramp",
    "train.lr_batches",
    "train.lr_warmup",
)


def in_updates(config: Config, updates: int | None = None) -> Config:
    """The configuration with every phase as a number of updates.

    Args:
      updates: those that the shares are of; None: ``train.updates``. A training that goes on with
        more of them keeps its phases, and gives the number it began with.
    """
    total = config.train.updates if updates is None else updates
    config = copy.deepcopy(config)
    for key in KEYS:
        group, name = key.split(".")
        value = getattr(getattr(config, group), name)
        setattr(getattr(config, group), name, round(value * total if value < 1 else value))
    config.train.lr_batches = max(config.train.lr_batches, 1)
    return config


def ramp(update: float, start: float, length: float) -> float:
    """0 before ``start``, 1 from ``start + length`` on, linear between."""
    return min(1.0, max(0.0, (update - start) / length)) if length else float(update >= start)
