"""The search space of the supernet: which subnets exist, its ends, a ladder between them, and
random subnets."""

import random
from collections.abc import Callable
from dataclasses import replace

from todm.config.keys import Config
from todm.model.encoder import head_groups
from todm.model.transducer import configured_architecture
from todm.subnet import Subnet
from todm.supernet.cost import CostModel


def drop_order(blocks: int) -> list[int]:
    """The order in which blocks are left out: the rest stays spread evenly, first and last go last.

    Greedy: each time the block whose removal leaves the smallest largest gap; of equals, the later
    one.  The depths are therefore nested.
    """
    kept, order = list(range(blocks)), []
    while len(kept) > 2:

        def gap_without(i: int) -> int:
            return kept[i + 1] - kept[i - 1]

        i = min(range(1, len(kept) - 1), key=lambda i: (gap_without(i), -kept[i]))
        order.append(kept.pop(i))
    return order + kept[::-1]


class SearchSpace:
    """The subnets of a supernet: elastic depth, FFN width per block and, if the conf says so, head
    groups per block.

    A subnet is drawn as a depth and sizes; blocks are left out in :func:`drop_order`.  A model
    built from ``model.architecture`` has the one subnet it is.  A dual supernet
    (``model.direction=dual``) has every subnet twice: bidirectional, and causal.

    Attributes:
      kinds: the values of :attr:`~todm.subnet.Subnet.causal` that its subnets have.
    """

    def __init__(self, config: Config, vocab_size: int):
        self.config, self.vocab_size = config, vocab_size
        self.costs = CostModel(config, vocab_size)
        self.full = configured_architecture(config).packed()
        s = config.supernet
        groups = head_groups(config.model)
        self.fixed = config.model.architecture is not None
        self.depths = range(s.min_blocks, config.model.blocks + 1)
        self.widths = range(s.min_ffn_chunks, s.ffn_chunks + 1)
        self.heads = (
            range(s.min_heads, groups + 1) if s.elastic_heads else range(groups, groups + 1)
        )
        self.order = drop_order(config.model.blocks)
        dual = config.model.direction == "dual" and not self.fixed
        self.kinds = (False, True) if dual else (False,)

    @property
    def largest(self) -> Subnet:
        """The largest net."""
        return self.full

    @property
    def smallest(self) -> Subnet:
        """The smallest net: fewest blocks, and in each the fewest head groups and chunks; causal
        where there are such nets."""
        return self.smallest_of(self.kinds[-1])

    def largest_of(self, causal: bool) -> Subnet:
        """The largest of the causal nets of a dual supernet, or of the others."""
        return replace(self.full, causal=causal)

    def smallest_of(self, causal: bool) -> Subnet:
        """The smallest of the causal nets of a dual supernet, or of the others."""
        if self.fixed:
            return self.full
        return self.uniform(self.depths[0], self.widths[0], self.heads[0], causal)

    def ends(self) -> dict[str, Subnet]:
        """The largest and the smallest net by their names; of a dual supernet those of the causal
        nets, too."""
        named = {"largest": self.largest, "smallest": self.smallest_of(False)}
        if len(self.kinds) > 1:
            named |= {"largest causal": self.largest_of(True), "smallest causal": self.smallest}
        return named

    def build(
        self, depth: int, size: Callable[[], tuple[int, int]], causal: bool = False
    ) -> Subnet:
        """A subnet of ``depth`` blocks; ``size()`` gives (head groups, chunks) of each."""
        dropped = set(self.order[: self.config.model.blocks - depth])
        sizes = ((0, 0) if i in dropped else size() for i in range(self.config.model.blocks))
        return Subnet.leading(sizes, causal)

    def uniform(self, depth: int, width: int, heads: int, causal: bool = False) -> Subnet:
        """The subnet with the same size in every block that stays."""
        return self.build(depth, lambda: (heads, width), causal)

    def encoder_params(self, subnet: Subnet) -> int:
        """The number of parameters of a subnet's encoder, by which this class measures size."""
        return self.costs.encoder_params(subnet)

    def draw(self, rng: random.Random) -> Subnet:
        """A random subnet: the depth, then the sizes of every block, independently and
        uniformly."""
        if self.fixed:
            return self.full
        depth = rng.choice(self.depths)
        causal = rng.choice(self.kinds) if len(self.kinds) > 1 else False
        return self.build(depth, lambda: (rng.choice(self.heads), rng.choice(self.widths)), causal)

    def random_near(
        self, target: float, rng: random.Random, draws: int = 16, causal: bool = False
    ) -> Subnet:
        """A random subnet whose encoder parameters are near ``target``: the nearest of some draws.

        Blocks vary around a width that the whole net has in common, or all draws would be of
        middling size.
        """
        if self.fixed:
            return self.full
        candidates = []
        for _ in range(draws):
            common = rng.choice(self.widths)
            low, high = max(common - 2, self.widths[0]), min(common + 2, self.widths[-1])

            def size(low: int = low, high: int = high) -> tuple[int, int]:
                return rng.choice(self.heads), rng.randint(low, high)

            candidates.append(self.build(rng.choice(self.depths), size, causal))
        return min(candidates, key=lambda s: abs(self.encoder_params(s) - target))

    def ladder(self, count: int) -> list[Subnet]:
        """``count`` subnets from the largest to the smallest, uniform in width, evenly spaced in
        encoder parameters; of a dual supernet as many that are causal after them."""
        return [net for causal in self.kinds for net in self.ladder_of(count, causal)]

    def ladder_of(self, count: int, causal: bool) -> list[Subnet]:
        """The ladder of the causal nets of a dual supernet, or of the others."""
        largest, smallest = self.largest_of(causal), self.smallest_of(causal)
        if self.fixed or count == 1:
            return [largest]
        choices = {
            self.uniform(d, w, h, causal)
            for d in self.depths
            for w in self.widths
            for h in self.heads
        }
        by_size = sorted(choices, key=self.encoder_params)
        low, high = self.encoder_params(smallest), self.encoder_params(largest)
        steps = [high + (low - high) * i / (count - 1) for i in range(count)]
        middle = [
            min(by_size, key=lambda s: abs(self.encoder_params(s) - step)) for step in steps[1:-1]
        ]
        return list(dict.fromkeys([largest, *middle, smallest]))

    def three(self) -> list[Subnet]:
        """The largest, a middle and the smallest; some are the same where there are not as many.
        Of a dual supernet the middle one is the largest that is causal."""
        if len(self.kinds) > 1:
            return [self.largest, self.largest_of(True), self.smallest]
        nets = self.ladder(3)
        return [nets[0], nets[len(nets) // 2], nets[-1]]
