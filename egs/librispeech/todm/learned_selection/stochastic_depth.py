"""Stochastic depth of the largest net in step 2 of learned selection (arXiv 1603.09382)."""

import torch
from torch import Tensor

from todm.learned_selection.units import Units
from todm.subnet import Subnet


def stochastic_depth(units: Units, smallest: Subnet, probability: float) -> Tensor:
    """The gates of the largest net's pass, (N,): modules that the smallest net lacks are dropped at
    random, and those of them that stay are scaled up."""
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
