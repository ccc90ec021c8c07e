"""A trial of the largest steps before a training on a GPU, so that memory runs out now or never."""

import logging

import torch
from lhotse.dataset import find_pessimistic_batches

from todm.data.batches import Batch, TrainDataset
from todm.training.batch_stream import BatchStream
from todm.training.optimization import PRECISIONS
from todm.training.step_nets import Step
from todm.training.supernet_loss import SupernetLoss, Weights, make_targets
from utils.errors import UserError
from utils.tokens import Tokenizer


def check_memory(
    loss: SupernetLoss, stream: BatchStream, tokenizer: Tokenizer, steps: list[Step]
) -> None:
    """Forward and backward of the largest batch of every bucket.

    Raises:
      UserError: the GPU's memory does not hold one of them.
    """
    device, dataset = next(loss.parameters()).device, stream.loader.dataset
    assert isinstance(dataset, TrainDataset), "the loader is that of a training"
    found, _ = find_pessimistic_batches(stream.sampler.inner)
    stream.sampler.start(stream.epoch, 0)
    for criterion, cuts in found.items():
        batch = dataset.longest(cuts).to(device)
        try:
            try_steps(loss, batch, tokenizer, steps)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory does not hold the batch with the largest {criterion} "
                f"({batch.seconds:.0f} s of audio "
                f"in {len(batch.ids)} utterances); lower data.max_duration"
            ) from error
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    logging.info("the largest batches fit: %.1f GiB at the peak", peak)


def try_steps(
    loss: SupernetLoss, batch: Batch, tokenizer: Tokenizer, steps: list[Step]
) -> list[int]:
    """Forward and backward of some steps on one batch, with every part of the loss; no gradient is
    left behind.

    Returns:
      How many nets ran in each.
    """
    config, device = loss.config, batch.features.device
    weights = Weights.of_ctc(1.0) if config.loss.objective == "ctc" else Weights(1.0, 1.0, 1.0)
    targets = make_targets(batch, tokenizer, config.model.tail_frames).to(device)
    dtype, mixed = PRECISIONS[config.train.precision], config.train.precision != "fp32"
    counts = []
    for subnets, update in steps:
        with torch.autocast(device.type, dtype, enabled=mixed):
            total, losses = loss(batch.features, targets, subnets, weights, update)
        total.backward()
        loss.zero_grad(set_to_none=True)
        counts.append(len(losses))
    return counts
