"""Selection learned in training, in two steps: scores are learned beside the supernet, then nested
masks are frozen.

Step 1 (``learn.share`` of the updates): the largest net, and the same net under gates that scores
give.  Step 2: the largest, the smallest and a random intermediate net, whose parts no longer
change.  All methods end in an *order* of the units; a size is the longest prefix of it that the
size's budget allows, so that sizes nest.  Each method has a file of its own: ``simple_topk.py``,
``iterative_zero_out.py`` and ``orthosoftmax.py``.
"""

import logging
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from todm.config.keys import Config
from todm.config.phases import in_updates
from todm.learned_selection.units import Units
from todm.subnet import Subnet
from todm.supernet.budget import parse_budget
from utils.errors import UserError

NOISE = 0.01  # standard deviation of initial scores: equal ones would stay equal


class Selector(nn.Module, ABC):
    """The part that all methods share: the schedule of step 1, the order, the sizes.

    N is the number of units. A *gate* is the number that the largest net's output of a unit is
    multiplied by.

    Attributes:
      first, last: step 1 learns scores in the updates [first, last).
      start: the update from which progress is linear, from 0 there to 1 at ``last``.
      budgets: the bounds of ``search.budgets`` on the cost, by their text.
      order: (N,) the frozen order of the units, best first; -1 before step 2. A buffer, so that a
        checkpoint has it.

    Raises:
      UserError: a budget that nothing fits.
    """

    order: Tensor

    def __init__(self, config: Config, units: Units):
        super().__init__()
        self.config, self.units = config, units
        self.first, self.last = schedule(config)
        self.start = float(self.first)
        full = units.full_cost
        # Every order must fit, so the smallest net is the one of the most expensive unit.
        smallest = max(units.cost(units.subnet([i])) for i in range(len(units)))
        self.budgets = {
            text: parse_budget(text, config.search.cost, smallest, full)
            for text in config.search.budgets
        }
        self._nets: list[Subnet] | None = None  # of the frozen order, which does not change
        self.register_buffer("order", torch.full((len(units),), -1, dtype=torch.long))

    @property
    def frozen(self) -> bool:
        """True when step 2 has begun."""
        return bool(self.order[0] >= 0)

    def learns(self, update: int) -> bool:
        """Tells whether the gated net runs at this update."""
        return self.first <= update < self.last and not self.frozen

    def progress(self, update: int) -> float:
        """The part of step 1 that is done: 0 at its first update, 1 at its end."""
        return min(1.0, max(0.0, (update - self.start) / max(self.last - self.start, 1e-9)))

    def schedule(self) -> dict:
        """The schedule of step 1 as a checkpoint keeps it."""
        return {"start": self.start, "last": self.last}

    def go_on(self, update: int, saved: dict | None, then: Config) -> None:
        """Go on after ``update`` with the schedule that step 1 began with, so that neither its
        progress nor a temperature jumps.

        With fewer ``train.updates`` than before, what is left of step 1 is shortened to end at
        ``learn.share`` of them, or with the next update.

        Args:
          saved: :meth:`schedule`'s; None: the checkpoint is from before there was one.
          then: the conf that the checkpoint was made with.

        Raises:
          UserError: ``train.updates`` has been passed before step 1's end.
        """
        if saved is None:
            first, last = schedule(then)
            saved = {"start": float(first), "last": last}
        wanted = self.last
        self.start, self.last = saved["start"], saved["last"]
        if self.frozen:
            return
        if update >= self.config.train.updates:
            raise UserError(
                f"this training is at update {update} and its masks are not frozen yet, so "
                f"train.updates={self.config.train.updates} "
                f"leaves none to train them in; it began with step 1 ending at update {self.last} "
                "(learn.share): give it more"
            )
        if wanted == self.last:
            return
        if wanted < self.last and self.config.train.updates < then.train.updates:
            reached = self.progress(update)
            self.last = max(wanted, update + 1)
            if reached > 0:  # a line through what is reached now and 1 at the new end
                self.start = (update - reached * self.last) / max(1 - reached, 1e-9)
        logging.info(
            "learned selection: step 1 ends at update %d; this training began it when "
            "train.updates gave update %d, and now they give %d",
            self.last,
            saved["last"],
            wanted,
        )

    @abstractmethod
    def gates(self, update: int) -> tuple[Tensor, Tensor]:
        """The gates of an update, (N,), and a penalty that is added to the loss per frame, ()."""

    @abstractmethod
    def ranking(self) -> list[int]:
        """The units, best first, by the present scores."""

    @abstractmethod
    def importance(self) -> Tensor:
        """The importance of every unit, (N,), for pictures: the larger, the longer it stays."""

    @torch.no_grad()
    def after_update(self, update: int) -> bool:
        """Freeze the masks at the end of step 1; called after every optimiser step.

        Args:
          update: the number of updates done.
        Returns:
          Whether the masks were frozen now.
        """
        if self.frozen or update < self.last:
            return False
        self.order.copy_(torch.tensor(self.ranking()))
        self._nets = None
        return True

    def subnets(self) -> dict[str, Subnet]:
        """The nets of all budgets by their text, largest first; by the frozen order, or before that
        by the present ranking."""
        order = self.order.tolist() if self.frozen else self.ranking()
        by_size = sorted(self.budgets.items(), key=lambda item: -item[1])
        return {
            text: self.units.subnet(self.units.prefix_within(order, budget))
            for text, budget in by_size
        }

    def distinct_nets(self) -> list[Subnet]:
        """The largest net and those of the budgets, each once, largest first."""
        if self._nets is None or not self.frozen:
            nets = list(dict.fromkeys([self.units.full, *self.subnets().values()]))
            self._nets = nets if self.frozen else None
            return nets
        return self._nets

    def shares(self) -> list[float]:
        """The shares of the full cost that the iterations of step 1 shrink to, the last one that of
        the smallest size."""
        low, count = (
            min(self.budgets.values()) / self.units.full_cost,
            self.config.learn.iterations,
        )
        return [1 - (1 - low) * (i + 1) / count for i in range(count)]

    def iteration(self, update: int) -> int:
        """The number of the iteration an update is in, one of the ``learn.iterations`` equal parts
        of step 1, from 0."""
        return min(
            int(self.progress(update) * self.config.learn.iterations),
            self.config.learn.iterations - 1,
        )


def schedule(config: Config) -> tuple[int, int]:
    """The updates between which a conf learns scores: [first, last)."""
    first = round(in_updates(config).method.subnets_from)
    return first, round(config.learn.share * config.train.updates)
