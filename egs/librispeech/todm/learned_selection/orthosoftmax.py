"""OrthoSoftmax (arXiv 2501.18895): the rows of a matrix of softmaxes pick units one after the
other."""

import random

import torch
from torch import Tensor, nn

from todm.config.keys import Config
from todm.learned_selection.selector import NOISE, Selector
from todm.learned_selection.units import Units


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
        smaller = [b for b in smaller if b < self.units.full_cost] or smaller
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
