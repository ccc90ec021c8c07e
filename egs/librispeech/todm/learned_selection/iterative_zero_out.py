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
    """One sigmoid gate per unit, (N,); a penalty pushes their cost towards each iteration's share,
    at whose end the smallest are closed.

    The logits are 10 times the parameters, which therefore start at 1. Closed gates stay trainable.
    """

    def __init__(self, config: Config, units: Units):
        super().__init__(config, units)
        self.scores = nn.Parameter(1 + NOISE * torch.randn(len(units)))

    @property
    def logits(self) -> Tensor:
        """The logits of the gates, (N,)."""
        return OPEN * self.scores

    def gates(self, update: int) -> tuple[Tensor, Tensor]:
        """The open part of every unit, (N,), and ``learn.penalty`` times the distance of their
        expected share of the full cost from the iteration's."""
        gates = torch.sigmoid(self.logits)
        share = self.units.expected_cost(gates) / self.units.full_cost
        return gates, self.config.learn.penalty * (
            share - self.shares()[self.iteration(update)]
        ).abs()

    @torch.no_grad()
    def after_update(self, update: int) -> bool:
        """Close all gates but those that an iteration's share allows, at its end; at the end of the
        last iteration freeze the masks by the order of the scores."""
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
        """The units by their scores, best first."""
        return self.scores.argsort(descending=True).tolist()

    def importance(self) -> Tensor:
        """The logits, (N,)."""
        return self.logits.detach()
