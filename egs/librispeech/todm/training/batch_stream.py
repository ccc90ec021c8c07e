"""A training's batches without end, and where in the data it stands, also after another number of
processes or other batches."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import torch

from todm.config.keys import Config, DataConfig
from todm.data.batches import Batch
from todm.data.loaders import copied_ahead, train_loader
from todm.training.experiment import set_rng_state
from utils.errors import UserError


class BatchStream:
    """One rank's batches, epoch after epoch.

    An epoch that is broken off, because the sampler now makes other batches, counts as the part of
    it that was seen; the sampler's next epoch follows.

    Args:
      device: where a GPU, the features of the batches are on it, the next one's copied ahead.
    Attributes:
      epoch: the sampler's, by whose number it shuffles. batch: how many of it were given.
      given: batches since the training began.
      batches_per_epoch: of this rank; 0: not known, in the first epoch.
      whole: passes over the data when the sampler's epoch began; its number, unless one was broken
        off.
      generators: the state of this rank's random generators, set when the next epoch's loader has
        begun; None: left alone.
    """

    def __init__(
        self, config: Config, rank: int, world_size: int, device: torch.device = torch.device("cpu")
    ):
        self.config, self.rank, self.world_size = config, rank, world_size
        # A process that loads by itself draws random numbers for every batch: one that was read
        # ahead, and is read again by a training that goes on, would get others.
        self.ahead_on = device if device.type == "cuda" and config.data.num_workers else None
        self.loader, self.sampler = train_loader(config, rank, world_size)
        self.epoch = self.batch = self.batches_per_epoch = 0
        self.given = 0
        self.whole = 0.0
        self.generators: dict | None = None

    @property
    def passes(self) -> float:
        """Over the data so far, for the learning rate; in the first epoch, whose length is not
        known, 0."""
        return self.whole + (
            self.sampler.share * min(1.0, self.batch / self.batches_per_epoch)
            if self.batches_per_epoch
            else 0.0
        )

    def state(self) -> dict:
        """The part of a checkpoint that says where in the data the training stands."""
        return {
            "epoch": self.epoch,
            "batch_in_epoch": self.batch,
            "batches_per_epoch": self.batches_per_epoch,
            "passes_before_epoch": self.whole,
            "batches_given": self.given,
            "world_size": self.world_size,
        }

    def load(self, state: dict) -> None:
        """The inverse of :meth:`state`, from a checkpoint, which also has the conf and the
        generators of every rank."""
        self.epoch, self.batch, self.batches_per_epoch = (
            state["epoch"],
            state["batch_in_epoch"],
            state["batches_per_epoch"],
        )
        self.given = state.get("batches_given", state["update"] * self.config.train.accumulate)
        # Older checkpoints lack it, and broke no epoch off.
        self.whole = float(state.get("passes_before_epoch", self.epoch))
        # Older ones have the generators of the first rank alone.
        generators = state["rng"] if isinstance(state["rng"], list) else [state["rng"]]
        self.generators = generators[self.rank] if self.rank < len(generators) else None
        data, old = self.config.data, state["config"]["data"]
        then = replace(data, max_duration=old["max_duration"], num_buckets=old["num_buckets"])
        changes = [
            ("the number of processes", state["world_size"], self.world_size),
            *(
                (f"data.{key}", getattr(then, key), getattr(data, key))
                for key in ("max_duration", "num_buckets")
            ),
        ]
        words = [f"{name} was {before}, is {now}" for name, before, now in changes if before != now]
        if words:
            self.break_off(then, state["world_size"], ", ".join(words))

    def break_off(self, then: DataConfig, world_size: int, reason: str) -> None:
        """End an epoch that was begun with another ``data`` section or number of processes, and
        count what one has now."""
        if self.batch:
            begun = (self.given - self.batch) / self.config.train.accumulate
            total = self.batches_per_epoch or count_batches(
                replace(self.config, data=then), self.epoch, world_size, begun
            )
            self.sampler.start(self.epoch, 0, begun)
            self.whole += self.sampler.share * min(1.0, self.batch / total)
            self.epoch, self.batch = self.epoch + 1, 0
        now = self.given / self.config.train.accumulate
        before, self.batches_per_epoch = (
            self.batches_per_epoch,
            count_batches(self.config, self.epoch, self.world_size, now),
        )
        logging.info(
            "%s: going on after %.2f passes over the data with the sampler's epoch %d, which has "
            "%d batches for each process%s",
            reason,
            self.whole,
            self.epoch,
            self.batches_per_epoch,
            f", not {before}" if before else "",
        )

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end, from where the last checkpoint stood."""
        while True:
            update, share = self.given / self.config.train.accumulate, self.sampler.share
            self.sampler.start(self.epoch, self.batch, update)
            if self.sampler.share != share and self.batch == 0:
                self.batches_per_epoch = 0  # an epoch is now of the whole set
            iterator: Iterator[Batch] = iter(self.loader)
            # Now, because a loader draws random numbers when it starts.
            if self.generators is not None:
                set_rng_state(self.generators)
                self.generators = None
            if self.ahead_on is not None:
                iterator = copied_ahead(iterator, self.ahead_on)
            for batch in iterator:
                # one that was read ahead does not count
                self.given, self.batch = self.given + 1, self.batch + 1
                yield batch
            if self.batch == 0:
                raise UserError(
                    "the training set gives no batch; is data.max_duration shorter than every "
                    "utterance?"
                )
            self.batches_per_epoch, self.batch = self.batch, 0
            self.epoch, self.whole = self.epoch + 1, self.whole + self.sampler.share


def count_batches(config: Config, epoch: int, world_size: int, update: float = 0.0) -> int:
    """The number of batches that an epoch of the sampler has for every rank, when it begins at an
    update; no audio is read."""
    _, sampler = train_loader(config, 0, world_size)
    sampler.start(epoch, 0, update)
    return sum(1 for _ in sampler)
