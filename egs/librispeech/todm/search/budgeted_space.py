"""The search space as genomes: drawing, mutating, crossing, and fitting them to a budget."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from todm.subnet import Subnet
from todm.supernet.search_space import SearchSpace


@dataclass(frozen=True)
class Genome:
    """The genes of a subnet.

    Attributes:
      depth: the number of blocks that stay.
      heads, widths: numbers of head groups and of FFN chunks of every block, also of one that is
        left out.
    """

    depth: int
    heads: tuple[int, ...]
    widths: tuple[int, ...]


class BudgetedSpace:
    """The search space as genomes, with a cost that grows with every gene.

    Args:
      cost: the cost of a subnet; more depth, heads or width never costs less.
      causal: whether it is about the causal nets of a dual supernet.

    Attributes:
      low, high: the costs of the smallest and of the largest net.
    """

    def __init__(self, space: SearchSpace, cost: Callable[[Subnet], float], causal: bool = False):
        self.space, self.cost, self.causal = space, cost, causal
        self.blocks = space.config.model.blocks
        self.low, self.high = cost(space.smallest_of(causal)), cost(space.largest_of(causal))

    def subnet(self, genome: Genome) -> Subnet:
        """The subnet that a genome describes."""
        sizes = iter(zip(*(self.kept(genome, genes) for genes in (genome.heads, genome.widths))))
        return self.space.build(genome.depth, lambda: next(sizes), self.causal)

    def kept(self, genome: Genome, genes: tuple[int, ...]) -> list[int]:
        """The genes of the blocks that stay."""
        dropped = set(self.space.order[: self.blocks - genome.depth])
        return [gene for i, gene in enumerate(genes) if i not in dropped]

    @property
    def smallest(self) -> Genome:
        """The genome of the smallest net."""
        s = self.space
        return Genome(s.depths[0], (s.heads[0],) * self.blocks, (s.widths[0],) * self.blocks)

    @property
    def largest(self) -> Genome:
        """The genome of the largest net."""
        s = self.space
        return Genome(s.depths[-1], (s.heads[-1],) * self.blocks, (s.widths[-1],) * self.blocks)

    def draw(self, budget: float, rng: random.Random) -> Genome:
        """A random genome within the budget, its width varying around one that all blocks have in
        common."""
        s = self.space
        common = rng.choice(s.widths)
        widths = range(max(common - 2, s.widths[0]), min(common + 2, s.widths[-1]) + 1)
        genome = Genome(
            rng.choice(s.depths),
            tuple(rng.choice(s.heads) for _ in range(self.blocks)),
            tuple(rng.choice(widths) for _ in range(self.blocks)),
        )
        return self.shrink(genome, budget, rng)

    def mutate(self, genome: Genome, probability: float, rng: random.Random) -> Genome:
        """A mutant: every gene is drawn anew with ``probability``."""

        def draw(gene: int, choices: range) -> int:
            return rng.choice(choices) if rng.random() < probability else gene

        s = self.space
        return Genome(
            draw(genome.depth, s.depths),
            tuple(draw(g, s.heads) for g in genome.heads),
            tuple(draw(g, s.widths) for g in genome.widths),
        )

    def cross(self, a: Genome, b: Genome, rng: random.Random) -> Genome:
        """A child that has every gene from either parent."""
        return Genome(
            rng.choice((a.depth, b.depth)),
            *(
                tuple(rng.choice(pair) for pair in zip(x, y))
                for x, y in ((a.heads, b.heads), (a.widths, b.widths))
            ),
        )

    def shrink(self, genome: Genome, budget: float, rng: random.Random) -> Genome:
        """Lowers random genes by one until the cost is within the budget.

        Raises:
          ValueError: the smallest net costs more.
        """
        while self.cost(self.subnet(genome)) > budget:
            lower = list(self._lowered(genome))
            if not lower:
                raise ValueError(f"no subnet costs {budget} or less")
            genome = rng.choice(lower)
        return genome

    def grow(self, genome: Genome, budget: float, rng: random.Random) -> Genome:
        """Raises random genes by one as long as the cost stays within the budget."""
        while higher := [g for g in self._raised(genome) if self.cost(self.subnet(g)) <= budget]:
            genome = rng.choice(higher)
        return genome

    def _lowered(self, genome: Genome) -> Iterator[Genome]:
        return self._neighbours(genome, -1)

    def _raised(self, genome: Genome) -> Iterator[Genome]:
        return self._neighbours(genome, 1)

    def _neighbours(self, genome: Genome, step: int) -> Iterator[Genome]:
        s = self.space
        if genome.depth + step in s.depths:
            yield Genome(genome.depth + step, genome.heads, genome.widths)
        dropped = set(s.order[: self.blocks - genome.depth])
        for i in set(range(self.blocks)) - dropped:
            if genome.heads[i] + step in s.heads:
                yield Genome(
                    genome.depth, _with(genome.heads, i, genome.heads[i] + step), genome.widths
                )
            if genome.widths[i] + step in s.widths:
                yield Genome(
                    genome.depth, genome.heads, _with(genome.widths, i, genome.widths[i] + step)
                )


def _with(genes: tuple[int, ...], i: int, gene: int) -> tuple[int, ...]:
    return genes[:i] + (gene,) + genes[i + 1 :]
