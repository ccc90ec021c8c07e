"""Losses on dev: of the nets that a training watches, and of the candidates of a search."""

import logging
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from todm.data.batches import Batch
from todm.data.loaders import eval_loader
from todm.model.encoder import Operators
from todm.subnet import Subnet
from todm.training.experiment import rng_state, set_rng_state
from todm.training.supernet_loss import SupernetLoss, Weights, make_targets
from utils.interrupts import StopRequest
from utils.pruned_rnnt import Targets
from utils.tokens import Tokenizer


def scorable(batch: Batch, tokenizer: Tokenizer, tail_frames: int) -> Batch | None:
    """The utterances of a batch that the transducer loss is defined for, which have at least one
    token and no more tokens than encoder frames; None: there is none.

    Args:
      tail_frames: ``model.tail_frames``.
    """
    targets = make_targets(batch, tokenizer, tail_frames)
    good = (targets.lengths > 0) & (targets.lengths <= targets.frames)
    keep = good.nonzero()[:, 0].tolist()
    return batch.subset(keep) if keep else None


def with_targets(
    batch: Batch, tokenizer: Tokenizer, tail_frames: int, device: torch.device
) -> tuple[Tensor, Targets]:
    """The features (B, T, 80) and the targets of a batch, on a device."""
    targets = make_targets(batch, tokenizer, tail_frames)
    return batch.to(device).features, targets.to(device)


@torch.no_grad()
def losses_per_frame(
    loss: SupernetLoss,
    batches: Iterable[tuple[Tensor, Targets]],
    subnets: list[Subnet],
    weights: Weights,
    operators: Operators | None = None,
) -> list[float]:
    """The loss per encoder frame over all batches: of the largest net, then of every subnet on the
    pruning ranges of the largest.

    Args:
      loss: its model should be in evaluation mode.
      batches: features (B, T, 80) and targets on the model's device.
      weights: decide whether it is the transducer loss or, of CTC alone, the CTC loss.
      operators: the encoder's, where they are used for more than these batches; None: they are made
        here, once.
    """
    operators = operators or loss.model.encoder.operators()
    device = next(loss.parameters()).device
    # On the device until all batches are done; in double precision, as Python adds.
    sums, frames = torch.zeros(1 + len(subnets), dtype=torch.float64, device=device), 0
    for features, targets in batches:
        _, losses = loss(features, targets, subnets, weights, None, operators)
        sums += torch.stack(losses)
        frames += int(targets.host.frames.sum())
    return [total / max(frames, 1) for total in sums.tolist()]


def dev_losses(
    loss: SupernetLoss,
    tokenizer: Tokenizer,
    nets: dict[str, Subnet],
    update: int,
    stop: StopRequest,
) -> dict[str, float]:
    """The loss per frame on dev of some nets, logged, and by the names of TensorBoard's curves: the
    transducer loss, or the CTC loss while it trains alone.

    Args:
      nets: by their names, the largest first.
      stop: when this process is asked to stop, validation is given up.
    Returns:
      Nothing where it was given up.
    """
    # A loader draws from the generators when it starts: so training is the same with any number of
    # validations.
    generators = rng_state()
    loss.model.eval()
    ctc_alone = Weights.at(update, loss.config.loss, loss.config.distill).ctc_alone
    weights = Weights.of_ctc() if ctc_alone else Weights(1.0, 1.0, 0.0)
    batches = _dev_batches(loss, tokenizer, stop)
    losses = losses_per_frame(loss, batches, list(nets.values())[1:], weights)
    loss.model.train()
    set_rng_state(generators)
    if stop:
        return {}
    values = dict(zip(nets, losses))
    kind = "CTC loss" if ctc_alone else "loss"
    text = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    logging.info("update %d: dev %s per frame %s", update, kind, text)
    return {f"dev {kind} per frame/{name}": value for name, value in values.items()}


def _dev_batches(
    loss: SupernetLoss, tokenizer: Tokenizer, stop: StopRequest
) -> Iterator[tuple[Tensor, Targets]]:
    """The first ``train.valid_batches`` batches of dev (0: all), on the model's device."""
    config, device = loss.config, next(loss.parameters()).device
    batches = eval_loader(config, config.data.dev, config.data.max_duration)
    for i, batch in enumerate(batches):
        if 0 < config.train.valid_batches <= i or stop:
            return
        kept = scorable(batch, tokenizer, config.model.tail_frames)
        if kept is not None:
            yield with_targets(kept, tokenizer, config.model.tail_frames, device)
