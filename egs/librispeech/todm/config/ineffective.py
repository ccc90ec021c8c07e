"""Warnings about a conf that can work, but not as its user means it."""

from pathlib import Path

from todm.config.effects import (
    EFFECTS,
    augments,
    distils,
    has_subnets,
    is_transducer,
    without_effect,
)
from todm.config.keys import Config
from todm.config.phases import in_updates


def ineffective(config: Config, explicitly_set: set[str]) -> list[str]:
    """Warns, in a sentence each, of keys that the user has set in vain and of parts of the method
    that the training is too short for.

    Args:
      explicitly_set: see :func:`todm.config.load.explicit_keys`.
    """
    by_effect: dict[int, list[str]] = {}
    for key, effect in without_effect(config, explicitly_set).items():
        by_effect.setdefault(EFFECTS.index(effect), []).append(key)
    warnings = []
    for i, keys in sorted(by_effect.items()):
        verb = "has" if len(keys) == 1 else "have"
        warnings.append(
            f"{', '.join(keys)} {verb} no effect, because {EFFECTS[i].because}; {EFFECTS[i].remedy}"
        )
    init = config.train.init
    if init and "train.init" in explicitly_set and not Path(init).is_dir():
        warnings.append(f"train.init={init} is not there yet; stage 4 will need it")
    return warnings + too_late(config)


def too_late(config: Config) -> list[str]:
    """Warns of parts of the method that would begin only after the last update, and of a mean over
    more checkpoints than are kept."""
    config = in_updates(config)
    updates = config.train.updates
    begins: list[tuple[str, float, str]] = []
    if has_subnets(config):
        begins.append(
            (
                "method.subnets_from",
                config.method.subnets_from,
                "the smaller nets are not trained at all",
            )
        )
    if is_transducer(config):
        begins.append(
            (
                "loss.ctc_first",
                config.loss.ctc_first,
                "the transducer is not trained at all, only CTC",
            )
        )
    if distils(config) and config.distill.weight > 0:
        begins.append(("distill.start", config.distill.start, "nothing is distilled"))
    if augments(config):
        begins.append(("augment.start", config.augment.start, "no utterance is changed"))
    warnings = [
        f"{key} is {first:.0f}, which is not before the last update (train.updates={updates}): "
        f"{result}"
        for key, first, result in begins
        if first >= updates
    ]
    if config.decode.weights == "range" and config.train.keep_last <= config.decode.range:
        warnings.append(
            f"decode.range is {config.decode.range}, but only {config.train.keep_last} "
            "checkpoints are kept: the mean is over fewer updates; "
            f"train.keep_last={config.decode.range + 1} keeps enough"
        )
    return warnings
