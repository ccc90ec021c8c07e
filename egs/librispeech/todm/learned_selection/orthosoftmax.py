"""OrthoSoftmax (arXiv 2501.18895): the rows of a matrix of softmaxes pick units one after the
other."""

import random

import torch
from torch import Tensor, nn

from todm.config.keys import Config
from todm.learned_selection.selector import NOISE, Selector
from todm.learned_selection.units import Units


class OrthoSoftmax(Selector):
    """A softmax over the units in every row of a score matrix S, (N, N); the first rows select, and
    are pushed to be orthogonal.

    Row i of P = softmax(S / tau) picks the i-th unit; the gates of a size are the sum of its first
    k rows.  tau falls from 1 to ``learn.tau_end`` over step 1, so that rows become one-hot.
    """

    def __init__(self, config: Config, units: Units):
        super().__init__(config, units)
        self.scores = nn.Parameter(NOISE * torch.randn(len(units), len(units)))

    def rows(self, update: int) -> Tensor:
        """P at the temperature of an update: (N, N), of which every row sums to 1."""
        return torch.softmax(
            self.scores / self.config.learn.tau_end ** self.progress(update), dim=1
        )

    def gates(self, update: int) -> tuple[Tensor, Tensor]:
        """The sum of the first k rows, (N,), for a size drawn at random, and the penalty for rows
        that are not orthogonal, which grows over step 1."""
        rows = self.rows(update)  # (N, N)
        budget = self.draw_budget(update)
        # k: gates of every size (N, N) -> their expected costs (N,) -> the nearest to the budget
        count = closest_count(
            self.units.expected_cost(rows.detach().cumsum(0).clamp(max=1)), budget
        )
        chosen = rows[:count]  # (k, N)
        return chosen.sum(0), self.config.learn.penalty * self.progress(
            update
        ) * orthogonality_penalty(chosen)

    def draw_budget(self, update: int) -> float:
        """The budget of an update, drawn from those below the largest net's cost, which runs
        anyway; the same on every rank."""
        smaller = sorted(self.budgets.values())
        smaller = [b for b in smaller if b < self.units.full_cost] or smaller
        return random.Random(f"{self.config.train.seed}/{update}/size").choice(smaller)

    def ranking(self) -> list[int]:
        """The unit that every row picks, of those that no row before it has."""
        return distinct_argmax(self.scores.detach())

    def importance(self) -> Tensor:
        """Minus the expected number of the row in which a unit is picked, (N,), from rows at the
        last temperature."""
        sharp = torch.softmax(self.scores.detach() / self.config.learn.tau_end, dim=1)
        place = torch.arange(len(sharp), device=sharp.device, dtype=sharp.dtype)[:, None]
        # the part of every unit that no row picks, (N,), which comes after all rows
        missing = (1 - sharp.sum(0)).clamp(min=0)
        return -((sharp * place).sum(0) + missing * len(sharp)) / (sharp.sum(0) + missing)


def orthogonality_penalty(rows: Tensor) -> Tensor:
    """sqrt(sum_{i<j} M_ij^2 + sum_i (M_ii - 1)^2) of M = P P^T: 0 when rows (k, N) are one-hot and
    distinct."""
    gram = rows @ rows.T  # (k, k)
    return (
        torch.triu(gram, diagonal=1).square().sum() + (gram.diagonal() - 1).square().sum() + 1e-12
    ).sqrt()


def closest_count(costs: Tensor, budget: float) -> int:
    """The number of rows whose expected cost is the nearest to a budget; at least one.

    Args:
      costs: (N,), of the first row, of the first two, and so on.
    """
    return int((costs - budget).abs().argmin()) + 1


def distinct_argmax(scores: Tensor) -> list[int]:
    """The best unit of every row of scores (N, N), of those that no row before it has taken."""
    order: list[int] = []
    left = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
    for row in scores:
        best = int(row.masked_fill(~left, -torch.inf).argmax())
        left[best] = False
        order.append(best)
    return order
