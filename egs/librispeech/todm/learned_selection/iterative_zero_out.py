"""Iterative-Zero-Out of Dynamic Encoder Size (arXiv 2407.18930), with budgets of cost instead of
counts."""

import torch
from torch import Tensor, nn

from todm.config.keys import Config
from todm.learned_selection.selector import NOISE, Selector
from todm.learned_selection.units import Units

ZEROED = -5.0  # the logit that a closed gate gets
OPEN = 10.0  # the logit that a gate starts from


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
        share = self.units.expected_cost(gates) / self.units.full_cost
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
            budget = self.shares()[self.iteration(update - 1)] * self.units.full_cost
            order = self.ranking()
            kept = len(self.units.prefix_within(order, budget))
            self.scores[order[kept:]] = self.scores[order[kept:]].clamp(max=ZEROED / OPEN)
        return super().after_update(update)

    def ranking(self) -> list[int]:
        return self.scores.argsort(descending=True).tolist()

    def importance(self) -> Tensor:
        return self.logits.detach()
