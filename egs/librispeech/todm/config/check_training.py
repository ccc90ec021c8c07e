"""Checks of the loss and of SpecAugment."""

from todm.config.keys import Config
from utils.errors import need


def check_training(config: Config) -> None:
    """Checks the parts of training that depend on each other."""
    check_time_masks(config)
    check_loss(config)


def check_time_masks(config: Config) -> None:
    """Refuses time masks that are shorter than a frame in the shortest utterances."""
    augment = config.spec_augment
    # filterbank frames at 1.1 times the speed; the encoder needs 7 of them to give one of its own
    shortest = max(7, 100 * config.data.min_seconds / 1.1)
    masked = augment.enabled and augment.num_time_masks and augment.max_time_fraction
    need(
        not masked or augment.max_time_fraction * shortest >= 1,
        f"spec_augment.max_time_fraction {augment.max_time_fraction:g} is less than a frame "
        f"(10 ms) of the shortest utterances (data.min_seconds {config.data.min_seconds:g}); "
        "raise one of them, or spec_augment.num_time_masks=0 masks no time",
    )


def check_loss(config: Config) -> None:
    """Refuses weights of the losses that exclude each other."""
    loss = config.loss
    need(
        loss.lm_scale + loss.am_scale <= 1,
        f"loss.lm_scale {loss.lm_scale:g} and loss.am_scale {loss.am_scale:g} are more than 1 "
        "together",
    )
    need(
        loss.delay_penalty == 0 or loss.subnet_weighting == "constant",
        "loss.delay_penalty can make a loss negative, of which loss.subnet_weighting=saturating "
        "makes no weight: set one of them alone",
    )
    need(
        loss.ctc_first == 0 or loss.ctc_weight > 0,
        "loss.ctc_first is set, so loss.ctc_weight must be above 0",
    )
    need(
        loss.objective == "transducer" or loss.ctc_weight > 0,
        "loss.objective is ctc, so loss.ctc_weight must be above 0",
    )
