"""The subnets of a training step of learned selection."""

import random

from todm.learned_selection.selector import Selector
from todm.subnet import Subnet


class LearnedSampler:
    """The subnets of every training step: none in step 1; in step 2, beside the largest,
    ``method.subnets_per_step`` random intermediate ones of the frozen masks, then the smallest."""

    def __init__(self, selector: Selector, seed: int, rank: int = 0):
        self.selector, self.seed, self.rank = selector, seed, rank

    def __call__(self, update: int) -> list[Subnet]:
        """The subnets of an update, a function of seed, update and rank alone."""
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
