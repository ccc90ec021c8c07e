"""Simple-Top-k of Dynamic Encoder Size (arXiv 2407.18930), with budgets of cost instead of
counts."""

import torch
from torch import Tensor, nn

from todm.config.keys import Config
from todm.learned_selection.selector import NOISE, Selector
from todm.learned_selection.units import Units


class SimpleTopK(Selector):
    """One score per unit, (N,); the best are kept through a relaxed top-k with straight-through
    gradients.

    k shrinks over the iterations of step 1 to what the smallest budget allows.
    """

    def __init__(self, config: Config, units: Units):
        super().__init__(config, units)
        self.scores = nn.Parameter(0.5 + NOISE * torch.randn(len(units)))

    def gates(self, update: int) -> tuple[Tensor, Tensor]:
        """1 for the best units and 0 for the others, (N,), with the gradient of the relaxed top-k;
        there is no penalty."""
        # k: as many of the best units as the iteration's share of the cost allows
        budget = self.shares()[self.iteration(update)] * self.units.full_cost
        count = len(self.units.prefix_within(self.ranking(), budget))
        # scores (N,) -> soft gates (N,), which sum to k -> hard gates (N,)
        soft = relaxed_top_k(self.scores, count)
        return straight_through(soft, count), soft.new_zeros(())

    def ranking(self) -> list[int]:
        """The units by their scores, best first."""
        return self.scores.argsort(descending=True).tolist()

    def importance(self) -> Tensor:
        """The scores, (N,)."""
        return self.scores.detach()


def relaxed_top_k(scores: Tensor, count: int) -> Tensor:
    """A soft choice of the k best: the sum of k successive softmaxes, each over what those before
    it have left: scores (N,) -> (N,), which sums to k."""
    total, taken = torch.zeros_like(scores), torch.zeros_like(scores)
    for _ in range(count):
        scores = scores + torch.log1p(-taken.clamp(max=1 - 1e-6))
        taken = torch.softmax(scores, dim=0)
        total = total + taken
    return total


def straight_through(soft: Tensor, count: int) -> Tensor:
    """A hard choice with the gradient of the soft one, (N,) -> (N,).

    Forward: 1 for the ``count`` largest, 0 for the others. Backward: as if it were ``soft``.
    """
    hard = torch.zeros_like(soft)
    hard[soft.detach().topk(count).indices] = 1.0
    return hard + (soft - soft.detach())
