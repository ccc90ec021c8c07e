"""Evolutionary search for subnets under budgets (AlphaNet, arXiv 2102.07954, section 4), and random
search beside it.

Nothing here knows a model: candidates are scored by a function that is passed in, and cost is
another.
"""

import bisect
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from todm.subnet import Subnet
from todm.supernet.search_space import SearchSpace

ATTEMPTS = 50  # draws for one child before something that surely fits is taken instead


@dataclass(frozen=True)
class Genome:
    """The genes of a subnet: depth, and for every block, also one that is left out, its head groups
    and FFN chunks."""

    depth: int
    heads: tuple[int, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A scored subnet. Attributes: cost: in the unit of the search. loss: of the proxy; smaller is
    better."""

    subnet: Subnet
    genome: Genome
    cost: float
    loss: float


class BudgetedSpace:
    """The search space as genomes, with a cost that grows with every gene.

    Args:
      cost: of a subnet; more depth, heads or width never costs less.
    """

    def __init__(self, space: SearchSpace, cost: Callable[[Subnet], float]):
        self.space, self.cost = space, cost
        self.blocks = space.config.model.blocks
        self.low, self.high = cost(space.smallest), cost(space.largest)

    def subnet(self, genome: Genome) -> Subnet:
        sizes = iter(zip(*(self.kept(genome, genes) for genes in (genome.heads, genome.widths))))
        return self.space.build(genome.depth, lambda: next(sizes))

    def kept(self, genome: Genome, genes: tuple[int, ...]) -> list[int]:
        """The genes of the blocks that stay."""
        dropped = set(self.space.order[: self.blocks - genome.depth])
        return [gene for i, gene in enumerate(genes) if i not in dropped]

    @property
    def smallest(self) -> Genome:
        s = self.space
        return Genome(s.depths[0], (s.heads[0],) * self.blocks, (s.widths[0],) * self.blocks)

    @property
    def largest(self) -> Genome:
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
        """Every gene is drawn anew with ``probability``."""

        def draw(gene: int, choices: range) -> int:
            return rng.choice(choices) if rng.random() < probability else gene

        s = self.space
        return Genome(
            draw(genome.depth, s.depths),
            tuple(draw(g, s.heads) for g in genome.heads),
            tuple(draw(g, s.widths) for g in genome.widths),
        )

    def cross(self, a: Genome, b: Genome, rng: random.Random) -> Genome:
        """Every gene from either parent."""
        return Genome(
            rng.choice((a.depth, b.depth)),
            *(
                tuple(rng.choice(pair) for pair in zip(x, y))
                for x, y in ((a.heads, b.heads), (a.widths, b.widths))
            ),
        )

    def shrink(self, genome: Genome, budget: float, rng: random.Random) -> Genome:
        """Lower random genes by one until the cost is within the budget; ends at the smallest net
        at the latest."""
        while self.cost(self.subnet(genome)) > budget:
            lower = list(self._lowered(genome))
            if not lower:
                raise ValueError(f"no subnet costs {budget} or less")
            genome = rng.choice(lower)
        return genome

    def grow(self, genome: Genome, budget: float, rng: random.Random) -> Genome:
        """Raise random genes by one while the cost stays within the budget, as far as that goes."""
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


Score = Callable[[list[Subnet]], list[float]]


def pareto_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates that no other beats in both cost and loss, by cost."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost, c.loss)):
        if not front or candidate.loss < front[-1].loss:
            front.append(candidate)
    return front


class Search:
    """Random search, and what evolution has in common with it: budgets, a seed, a first generation,
    every candidate once.

    Args:
      budgets: upper bounds of the cost. score: subnets -> loss of each.
    """

    def __init__(self, space: BudgetedSpace, budgets: list[float], score: Score, seed: int):
        self.space, self.budgets, self.score = (
            space,
            sorted({min(b, space.high) for b in budgets}),
            score,
        )
        self.rng = random.Random(seed)
        self.scored: dict[Subnet, Candidate] = {}

    def add(self, genomes: Iterable[Genome]) -> int:
        """Score those whose subnet is new. Returns their number."""
        new: dict[Subnet, Genome] = {}
        for genome in genomes:
            subnet = self.space.subnet(genome)
            if subnet not in self.scored:
                new.setdefault(subnet, genome)
        for (subnet, genome), loss in zip(new.items(), self.score(list(new))):
            self.scored[subnet] = Candidate(subnet, genome, self.space.cost(subnet), loss)
        return len(new)

    def unseen(self, make: Callable[[], Genome], taken: set[Subnet]) -> Genome | None:
        """A genome of ``make`` whose subnet is neither scored nor taken; None after many attempts
        (a small space)."""
        for _ in range(ATTEMPTS):
            genome = make()
            subnet = self.space.subnet(genome)
            if subnet not in self.scored and subnet not in taken:
                taken.add(subnet)
                return genome
        return None

    def random_genome(self, budget: float) -> Genome:
        """Random within the budget and near it: a bound is drawn from the budget's window, and the
        genome fitted to it."""
        bound = self.rng.uniform(max(self.window(budget), self.space.low), budget)
        return self.space.grow(self.space.draw(bound, self.rng), bound, self.rng)

    def window(self, budget: float) -> float:
        """The lower end of the costs that count as being near a budget: an eighth of the space's
        whole span below it."""
        return budget - (self.space.high - self.space.low) / 8

    def first_generation(self, size: int) -> list[Genome]:
        """The smallest net, what it grows to at every budget, and random genomes."""
        ends = [
            self.space.smallest,
            *(self.space.grow(self.space.smallest, b, self.rng) for b in self.budgets),
        ]
        return ends[:size] + self.random_generation(max(0, size - len(ends)))

    def generation(self, size: int) -> list[Genome]:
        """The next genomes: random ones."""
        return self.random_generation(size)

    def random_generation(self, size: int) -> list[Genome]:
        """Up to ``size`` new random genomes, spread evenly over the budgets."""
        taken: set[Subnet] = set()
        drawn = (
            self.unseen(lambda: self.random_genome(self.budgets[i % len(self.budgets)]), taken)
            for i in range(size)
        )
        return [genome for genome in drawn if genome is not None]

    def best(self, budget: float, count: int) -> list[Candidate]:
        """The ``count`` candidates of smallest loss within a budget."""
        return sorted(
            (c for c in self.scored.values() if c.cost <= budget), key=lambda c: (c.loss, c.cost)
        )[:count]


class Evolution(Search):
    """Mutants and crossovers of the best candidate of every cost bin, within the budgets.

    Children outside their budget are drawn again, a bounded number of times.
    """

    def __init__(
        self,
        space: BudgetedSpace,
        budgets: list[float],
        score: Score,
        seed: int,
        mutation: float,
        crossover: float,
        bins: int = 24,
    ):
        super().__init__(space, budgets, score, seed)
        self.mutation, self.crossover = mutation, crossover
        step = (self.budgets[-1] - space.low) / bins
        self.edges = sorted({*self.budgets, *(space.low + step * (i + 1) for i in range(bins))})

    def table(self) -> dict[int, Candidate]:
        """The best candidate of every cost bin."""
        best: dict[int, Candidate] = {}
        for candidate in self.scored.values():
            if candidate.cost <= self.edges[-1]:
                bin = bisect.bisect_left(self.edges, candidate.cost)
                if bin not in best or candidate.loss < best[bin].loss:
                    best[bin] = candidate
        return best

    def generation(self, size: int) -> list[Genome]:
        """The next ``size`` genomes; each has a budget of its own in turn, and parents from the
        bins just below it."""
        table = self.table()
        by_cost = [table[bin] for bin in sorted(table)]
        taken: set[Subnet] = set()
        children = []
        for i in range(size):
            budget = self.budgets[i % len(self.budgets)]
            parents = [c for c in by_cost if c.cost <= budget][-4:]
            child = self.unseen(lambda: self.child(parents, budget), taken)
            if child is None:
                child = self.unseen(lambda: self.random_genome(budget), taken)
            if child is not None:
                children.append(child)
        return children

    def child(self, parents: list[Candidate], budget: float) -> Genome:
        """A crossover or a mutant near the budget."""
        for _ in range(ATTEMPTS):
            genome = self.rng.choice(parents).genome
            if self.rng.random() < self.crossover:
                genome = self.space.cross(genome, self.rng.choice(parents).genome, self.rng)
            else:
                genome = self.space.mutate(genome, self.mutation, self.rng)
            if self.window(budget) <= self.space.cost(self.space.subnet(genome)) <= budget:
                return genome
        return self.random_genome(budget)
