"""Numbers that are not finite: batches whose loss or gradient is not are skipped, counted and kept
for people to look at; weights that are not end the training."""

import logging

import torch

from todm.config.keys import Config
from todm.data.batches import Batch
from utils.checkpoint import not_finite
from utils.errors import UserError
from utils.files import atomic_path

ADVICE = "Lower train.lr, or use train.precision=bf16 or fp32"
SHOWN = 10  # utterances that a message names


class BadBatches:
    """The bad batches of one rank.

    Attributes:
      in_row: since the last good update. total: since the training began.
    """

    def __init__(self, config: Config, rank: int):
        self.folder, self.rank = config.exp_dir / "bad-batches", rank
        self.most = config.train.max_bad_batches
        self.in_row = self.total = 0

    def keep(self, update: int, group: list[Batch]) -> None:
        """Count and save the batches of one update.

        Raises:
          UserError: too many in a row were bad.
        """
        self.in_row, self.total = self.in_row + 1, self.total + 1
        path = self.folder / f"update-{update}-rank-{self.rank}-{self.total}.pt"
        with atomic_path(path) as temporary:
            torch.save(
                [
                    {
                        "ids": b.ids,
                        "texts": b.texts,
                        "features": b.features.cpu(),
                        "lengths": b.lengths,
                    }
                    for b in group
                ],
                temporary,
            )
        logging.warning(
            "update %d: loss or gradient is not finite; skipped the batch, kept in %s (%s)",
            update,
            path,
            contents(group),
        )
        if self.in_row >= self.most:
            raise UserError(
                f"{self.in_row} batches in a row gave a loss or gradient that is not finite "
                f"(kept in {self.folder}). "
                f"{ADVICE}"
            )


def contents(group: list[Batch]) -> str:
    """The utterances of batches in words; where features are not finite, whose they are."""
    bad = [name for batch in group for name in batch.not_finite()]
    names = bad or [name for batch in group for name in batch.ids]
    more = ", ..." if len(names) > SHOWN else ""
    return ("features that are not finite: " if bad else "") + ", ".join(names[:SHOWN]) + more


def require_finite(state: dict, update: int) -> None:
    """Refuses a state of a training in which some tensor is not finite: it would never be again.

    Raises:
      UserError: one is not; the checkpoints before it are as they were.
    """
    if names := list(not_finite(state)):
        raise UserError(
            f"update {update}: the training has diverged: {names[0]} and {len(names) - 1} other "
            "tensors are not finite any more. They were not saved; the checkpoint before is what "
            f"there is. {ADVICE}"
        )
