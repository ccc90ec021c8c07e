"""Batches whose loss or gradient is not finite: skipped, counted and kept for people to look
at."""

import logging

import torch

from todm.config.keys import Config
from todm.data.batches import Batch
from utils.errors import UserError
from utils.files import atomic_path


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
            "update %d: loss or gradient is not finite; skipped the batch, kept in %s", update, path
        )
        if self.in_row >= self.most:
            raise UserError(
                f"{self.in_row} batches in a row gave a loss or gradient that is not finite "
                f"(kept in {self.folder}). "
                "Lower train.lr, or use train.precision=bf16 or fp32"
            )
