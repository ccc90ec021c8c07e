"""The sandwich rule: a training step runs the largest net, the smallest and random ones between."""

import random

from todm.config.phases import in_updates
from todm.subnet import Subnet
from todm.supernet.search_space import SearchSpace

GOLDEN_RATIO = (5**0.5 - 1) / 2


class SubnetSampler:
    """The subnets of every training step, a function of seed, update and rank alone, so that a
    resumed run repeats them.

    Budgets follow a golden-ratio sequence, which covers [smallest, largest] evenly over any stretch
    of updates.  Of a dual supernet the random and the smallest nets are bidirectional and causal in
    turns, and the largest causal net runs in every step: it is an end of the space, too.
    """

    def __init__(self, space: SearchSpace, seed: int, rank: int = 0):
        self.space, self.seed, self.rank = space, seed, rank
        self.first = in_updates(space.config).method.subnets_from

    def __call__(self, update: int) -> list[Subnet]:
        """The subnets beside the largest: random ones, then the smallest (the sandwich rule); none
        before ``subnets_from``."""
        method, kinds = self.space.config.method, self.space.kinds
        if update < self.first:
            return []
        rng = random.Random(f"{self.seed}/{update}/{self.rank}")
        subnets = []
        for i in range(method.subnets_per_step):
            number = update * method.subnets_per_step + i
            causal = kinds[number % len(kinds)]
            low = self.space.encoder_params(self.space.smallest_of(causal))
            high = self.space.encoder_params(self.space.largest_of(causal))
            target = low + ((number + 0.5 * self.rank) * GOLDEN_RATIO) % 1.0 * (high - low)
            subnets.append(self.space.random_near(target, rng, causal=causal))
        subnets += [self.space.largest_of(causal) for causal in kinds[1:]]
        smallest = self.space.smallest_of(kinds[(update + 1) % len(kinds)])
        return subnets + ([smallest] if method.smallest else [])
