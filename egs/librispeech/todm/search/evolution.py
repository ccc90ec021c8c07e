"""Evolutionary search for subnets under budgets (AlphaNet, arXiv 2102.07954, section 4), and random
search beside it.

Nothing here knows a model: candidates are scored by a function that is passed in, and cost is
another.
"""

import bisect
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from todm.search.budgeted_space import BudgetedSpace, Genome
from todm.subnet import Subnet

ATTEMPTS = 50  # draws for one child before something that surely fits is taken instead
Score = Callable[[list[Subnet]], list[float]]


@dataclass(frozen=True)
class Candidate:
    """A scored subnet.

    Attributes:
      cost: in the unit of the search. loss: of the proxy; smaller is better.
    """

    subnet: Subnet
    genome: Genome
    cost: float
    loss: float


def pareto_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates that no other beats in both cost and loss, by cost."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost, c.loss)):
        if not front or candidate.loss < front[-1].loss:
            front.append(candidate)
    return front


class CandidateSearch(ABC):
    """A search in generations that scores every candidate once.

    Args:
      budgets: upper bounds of the cost. score: subnets -> loss of each.

    Attributes:
      scored: all candidates so far, in the order in which they were scored.
    """

    def __init__(self, space: BudgetedSpace, budgets: list[float], score: Score, seed: int):
        self.space, self.score = space, score
        self.budgets = sorted({min(b, space.high) for b in budgets})
        self.rng = random.Random(seed)
        self.scored: dict[Subnet, Candidate] = {}

    def add(self, genomes: Iterable[Genome]) -> int:
        """Scores the genomes whose subnet is new. Returns their number."""
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
        """A random genome within the budget and near it: a bound is drawn from the budget's window,
        and the genome is fitted to it."""
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

    @abstractmethod
    def generation(self, size: int) -> list[Genome]:
        """The next genomes, at most ``size``; none of them was scored."""

    def random_generation(self, size: int) -> list[Genome]:
        """At most ``size`` new random genomes, spread evenly over the budgets."""
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


class RandomSearch(CandidateSearch):
    """Random genomes near the budgets, to hold the evolution against."""

    def generation(self, size: int) -> list[Genome]:
        """The next ``size`` genomes, spread evenly over the budgets."""
        return self.random_generation(size)


class Evolution(CandidateSearch):
    """Mutants and crossovers of the best candidate of every cost bin, within the budgets (AlphaNet,
    arXiv 2102.07954, section 4).

    Children outside their budget are drawn again, a bounded number of times.

    Args:
      mutation: probability of a gene to be drawn anew. crossover: probability of a child to have
        two parents. bins: number of cost bins.
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
