"""Selection learned in training, in two steps: scores are learned beside the supernet, then nested
masks are frozen.

Step 1 (``learn.share`` of the updates): the largest net, and the same net under gates that scores
give.  Step 2: the largest, the smallest and a random intermediate net, whose parts no longer
change.  All methods end in an *order* of the units; a size is the longest prefix of it that the
size's budget allows, so that sizes nest.

- Simple-Top-k and Iterative-Zero-Out: Dynamic Encoder Size (arXiv 2407.18930), with budgets of cost
  instead of counts.
- OrthoSoftmax: arXiv 2501.18895.
"""

import logging
import random

import torch
from torch import Tensor, nn

from todm.config.keys import LEARNED, Config
from todm.learned_selection.units import Units
from todm.subnet import Subnet
from todm.supernet.budget import parse_budget
from utils.errors import UserError

NOISE = 0.01  # of initial scores: equal ones would stay equal
ZEROED = -5.0  # what Iterative-Zero-Out sets a gate's logit to
OPEN = 10.0  # and what it starts from


class Selector(nn.Module):
    """What all methods share: the schedule of step 1, the order, the sizes.

    Attributes:
      order: the frozen order of the units, best first; -1 before step 2. A buffer, so that a
        checkpoint has it.
    """

    def __init__(self, config: Config, units: Units):
        super().__init__()
        self.config, self.units = config, units
        self.first, self.last = schedule(config)  # step 1 learns scores in [first, last)
        self.start = float(self.first)  # progress is linear from 0 here to 1 at last
        full = units.full_price
        smallest = max(
            units.price(units.subnet([i])) for i in range(len(units))
        )  # whichever unit comes first
        self.budgets = {
            text: parse_budget(text, config.search.cost, smallest, full)
            for text in config.search.budgets
        }
        self._nets: list[Subnet] | None = None  # of the frozen order, which does not change
        self.register_buffer("order", torch.full((len(units),), -1, dtype=torch.long))

    @property
    def frozen(self) -> bool:
        """Whether step 2 has begun."""
        return bool(self.order[0] >= 0)

    def learns(self, update: int) -> bool:
        """Whether the gated net runs at this update."""
        return self.first <= update < self.last and not self.frozen

    def progress(self, update: int) -> float:
        """Of step 1: 0 at its first update, 1 at its end."""
        return min(1.0, max(0.0, (update - self.start) / max(self.last - self.start, 1e-9)))

    def schedule(self) -> dict:
        """What a checkpoint keeps of it."""
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

    def gates(self, update: int) -> tuple[Tensor, Tensor]:
        """One number per unit (N,), and a penalty that is added to the loss per frame."""
        raise NotImplementedError

    def ranking(self) -> list[int]:
        """The units, best first, by the scores as they are."""
        raise NotImplementedError

    def importance(self) -> Tensor:
        """One number per unit (N,), for pictures: the larger, the longer it stays."""
        raise NotImplementedError

    @torch.no_grad()
    def after_update(self, update: int) -> bool:
        """Called after every optimiser step with the number of updates done. Returns whether the
        masks were frozen now."""
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
        """The shares of the full cost that step 1's iterations shrink to, the last one the smallest
        size's."""
        low, count = (
            min(self.budgets.values()) / self.units.full_price,
            self.config.learn.iterations,
        )
        return [1 - (1 - low) * (i + 1) / count for i in range(count)]

    def iteration(self, update: int) -> int:
        """Of ``learn.iterations`` equal parts of step 1, the one an update is in."""
        return min(
            int(self.progress(update) * self.config.learn.iterations),
            self.config.learn.iterations - 1,
        )


def schedule(config: Config) -> tuple[int, int]:
    """The updates between which a conf learns scores: [first, last)."""
    return config.method.subnets_from, round(config.learn.share * config.train.updates)


class SimpleTopK(Selector):
    """One score per unit; the best are kept through a relaxed top-k with straight-through
    gradients.

    k shrinks over the iterations of step 1 to what the smallest budget allows.
    """

    def __init__(self, config: Config, units: Units):
        super().__init__(config, units)
        self.scores = nn.Parameter(0.5 + NOISE * torch.randn(len(units)))

    def gates(self, update: int) -> tuple[Tensor, Tensor]:
        budget = self.shares()[self.iteration(update)] * self.units.full_price
        count = len(self.units.prefix_within(self.ranking(), budget))
        soft = relaxed_top_k(self.scores, count)
        return straight_through(soft, count), soft.new_zeros(())

    def ranking(self) -> list[int]:
        return self.scores.argsort(descending=True).tolist()

    def importance(self) -> Tensor:
        return self.scores.detach()


class IterativeZeroOut(Selector):
    """Sigmoid gates, pushed by a penalty towards each iteration's share; at its end the smallest
    are closed.

    The logits are 10 times the parameters, which therefore start at 1. Closed gates stay trainable.
    """

    def __init__(self, config: Config, units: Units):
        super().__init__(config, units)
        self.scores = nn.Parameter(1 + NOISE * torch.randn(len(units)))

    @property
    def logits(self) -> Tensor:
        return OPEN * self.scores

    def gates(self, update: int) -> tuple[Tensor, Tensor]:
        gates = torch.sigmoid(self.logits)
        share = self.units.expected_cost(gates) / self.units.full_price
        return gates, self.config.learn.penalty * (
            share - self.shares()[self.iteration(update)]
        ).abs()

    @torch.no_grad()
    def after_update(self, update: int) -> bool:
        """At the end of an iteration, close all but what its share allows; at the end of the last
        the order is what counts."""
        if (
            self.learns(update - 1)
            and update < self.last
            and self.iteration(update) > self.iteration(update - 1)
        ):
            budget = self.shares()[self.iteration(update - 1)] * self.units.full_price
            order = self.ranking()
            kept = len(self.units.prefix_within(order, budget))
            self.scores[order[kept:]] = self.scores[order[kept:]].clamp(max=ZEROED / OPEN)
        return super().after_update(update)

    def ranking(self) -> list[int]:
        return self.scores.argsort(descending=True).tolist()

    def importance(self) -> Tensor:
        return self.logits.detach()


class OrthoSoftmax(Selector):
    """A softmax over the units in every row of a score matrix; the first rows select, and are
    pushed to be orthogonal.

    Row i of P = softmax(S / tau) picks the i-th unit; the gates of a size are the sum of its first
    k rows.  tau falls from 1 to ``learn.tau_end`` over step 1, so that rows become one-hot.
    """

    def __init__(self, config: Config, units: Units):
        super().__init__(config, units)
        self.scores = nn.Parameter(NOISE * torch.randn(len(units), len(units)))

    def rows(self, update: int) -> Tensor:
        """P, (N, N), at the temperature of an update."""
        return torch.softmax(
            self.scores / self.config.learn.tau_end ** self.progress(update), dim=1
        )

    def gates(self, update: int) -> tuple[Tensor, Tensor]:
        rows = self.rows(update)
        budget = self.draw_budget(update)
        count = closest_count(
            self.units.expected_cost(rows.detach().cumsum(0).clamp(max=1)), budget
        )
        chosen = rows[:count]
        return chosen.sum(0), self.config.learn.penalty * self.progress(
            update
        ) * orthogonality_penalty(chosen)

    def draw_budget(self, update: int) -> float:
        """A random size of this update, the same on every rank; the largest net runs anyway."""
        smaller = sorted(self.budgets.values())
        smaller = [b for b in smaller if b < self.units.full_price] or smaller
        return random.Random(f"{self.config.train.seed}/{update}/size").choice(smaller)

    def ranking(self) -> list[int]:
        return distinct_argmax(self.scores.detach())

    def importance(self) -> Tensor:
        """Minus the expected row in which a unit is picked, from the rows as sharp as they will
        be."""
        sharp = torch.softmax(self.scores.detach() / self.config.learn.tau_end, dim=1)
        place = torch.arange(len(sharp), device=sharp.device, dtype=sharp.dtype)[:, None]
        missing = (1 - sharp.sum(0)).clamp(min=0)  # a unit that no row picks comes after all
        return -((sharp * place).sum(0) + missing * len(sharp)) / (sharp.sum(0) + missing)


class LearnedSampler:
    """The subnets of every training step: none in step 1; in step 2, beside the largest,
    ``method.subnets_per_step`` random intermediate ones of the frozen masks, then the smallest."""

    def __init__(self, selector: Selector, seed: int, rank: int = 0):
        self.selector, self.seed, self.rank = selector, seed, rank

    def __call__(self, update: int) -> list[Subnet]:
        if not self.selector.frozen:
            return []
        method = self.selector.config.method
        _, *others = self.selector.distinct_nets()
        if not others:
            return []
        *middle, smallest = others
        rng = random.Random(f"{self.seed}/{update}/{self.rank}")
        chosen = [rng.choice(middle) for _ in range(method.subnets_per_step)] if middle else []
        return chosen + ([smallest] if method.smallest else [])


SELECTORS = {
    "simple-topk": SimpleTopK,
    "iterative-zero-out": IterativeZeroOut,
    "orthosoftmax": OrthoSoftmax,
}


def make_selector(config: Config, vocab_size: int) -> Selector | None:
    """The selector that ``select.method`` trains; None for methods that select after training.

    Raises:
      UserError: a budget that nothing fits.
    """
    if config.select.method not in LEARNED:
        return None
    return SELECTORS[config.select.method](
        config, Units(config, vocab_size, config.learn.granularity, config.search.cost)
    )


def relaxed_top_k(scores: Tensor, count: int) -> Tensor:
    """k successive softmaxes, each of what the ones before have left: (N,) -> (N,), which sums to
    k."""
    total, taken = torch.zeros_like(scores), torch.zeros_like(scores)
    for _ in range(count):
        scores = scores + torch.log1p(-taken.clamp(max=1 - 1e-6))
        taken = torch.softmax(scores, dim=0)
        total = total + taken
    return total


def straight_through(soft: Tensor, count: int) -> Tensor:
    """Forward: 1 for the ``count`` largest, 0 for the others. Backward: as if it were ``soft``."""
    hard = torch.zeros_like(soft)
    hard[soft.detach().topk(count).indices] = 1.0
    return hard + (soft - soft.detach())


def orthogonality_penalty(rows: Tensor) -> Tensor:
    """sqrt(sum_{i<j} M_ij^2 + sum_i (M_ii - 1)^2) of M = P P^T: 0 when rows (k, N) are one-hot and
    distinct."""
    gram = rows @ rows.T
    return (
        torch.triu(gram, diagonal=1).square().sum() + (gram.diagonal() - 1).square().sum() + 1e-12
    ).sqrt()


def closest_count(costs: Tensor, budget: float) -> int:
    """How many rows have the cumulative expected cost nearest to a budget; at least one."""
    return int((costs - budget).abs().argmin()) + 1


def distinct_argmax(scores: Tensor) -> list[int]:
    """Every row's best unit that no row before it has taken."""
    order: list[int] = []
    left = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
    for row in scores:
        best = int(row.masked_fill(~left, -torch.inf).argmax())
        left[best] = False
        order.append(best)
    return order


def stochastic_depth(units: Units, smallest: Subnet, probability: float) -> Tensor:
    """Gates (N,) for the largest net's pass: modules that the smallest net lacks are dropped at
    random, the kept ones scaled up."""
    missing = {
        (i, kind)
        for i, block in enumerate(smallest.blocks)
        for kind in ("heads", "ffn")
        if not getattr(block, kind)
    }
    kept = {
        module: float(torch.rand(()) >= probability) / (1 - probability)
        for module in sorted(missing)
    }
    return torch.tensor([kept.get((unit.block, unit.kind), 1.0) for unit in units.items])
