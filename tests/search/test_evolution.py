import random
from itertools import product

import pytest

from tests.helpers import VOCAB, tiny_config
from todm.search.budgeted_space import BudgetedSpace, Genome
from todm.search.evolution import Candidate, Evolution, RandomSearch, pareto_front
from todm.subnet import Subnet
from todm.supernet.search_space import SearchSpace

ELASTIC_HEADS = ("supernet.elastic_heads=true", "supernet.min_heads=1")
BUDGETS = [37.0, 22.0, 27.0]


def price(subnet: Subnet) -> float:
    """With elastic heads 16 for the smallest net (two blocks of 1 head group and 1 chunk) and 45
    for the largest."""
    return float(sum(5 + 2 * h + f for h, f in subnet.sizes if (h, f) != (0, 0)))


def make_space(elastic: bool = True) -> BudgetedSpace:
    return BudgetedSpace(
        SearchSpace(tiny_config(*(ELASTIC_HEADS if elastic else ())), VOCAB), price
    )


def every_subnet(elastic: bool = True) -> list[Subnet]:
    """By hand: of three blocks the middle one may go, 1 to 3 head groups (3 if they are not
    elastic), 1 to 4 chunks."""
    sizes = list(product((1, 2, 3) if elastic else (3,), (1, 2, 3, 4)))
    return [Subnet.leading(blocks) for blocks in product(sizes, [*sizes, (0, 0)], sizes)]


def random_genome(rng: random.Random) -> Genome:
    return Genome(
        rng.choice((2, 3)),
        tuple(rng.choices((1, 2, 3), k=3)),
        tuple(rng.choices((1, 2, 3, 4), k=3)),
    )


def useful_loss(subnet: Subnet) -> float:
    """Heads are worth most in the last block, chunks in the first; a middle block is worth little
    unless it is large."""
    (h0, f0), (h1, f1), (h2, f2) = subnet.sizes
    return 50 - 1.3 * h0 - 3.1 * f0 - 0.4 * h1 * f1 - 4.7 * h2 - 0.6 * f2


def inner_loss(subnet: Subnet) -> float:
    """Smallest in one net of cost 42, inside the space."""
    return sum(
        (h - a) ** 2 + 1.5 * (f - b) ** 2
        for (h, f), (a, b) in zip(subnet.sizes, ((3, 4), (2, 4), (3, 3)))
    )


def evolve(
    loss,
    budgets: list[float],
    seed: int = 0,
    generations: int = 0,
    size: int = 24,
    elastic: bool = True,
) -> Evolution:
    search = Evolution(
        make_space(elastic),
        budgets,
        lambda subnets: list(map(loss, subnets)),
        seed,
        mutation=0.3,
        crossover=0.5,
    )
    search.add(search.first_generation(size))
    for _ in range(generations):
        search.add(search.generation(size))
    return search


@pytest.mark.parametrize("seed", range(5))
def test_pareto_front_is_what_nothing_dominates(seed):
    """Few distinct values, so that costs, losses and whole points tie; equal points stand for
    one."""
    rng = random.Random(seed)
    candidates = [
        Candidate(None, None, x, 12 - x + rng.randint(0, 5)) for x in rng.choices(range(12), k=40)
    ]
    points = {(c.cost, c.loss) for c in candidates}
    best = {
        (x, y)
        for x, y in points
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)
    }
    assert len(best) > 1
    assert [(c.cost, c.loss) for c in pareto_front(candidates)] == sorted(best)


def test_genes_of_dropped_blocks_are_ignored():
    space = make_space()
    for heads, width in product((1, 2, 3), (1, 2, 3, 4)):
        assert str(space.subnet(Genome(2, (2, heads, 1), (1, width, 3)))) == "h0-1f0 - h0f0-2"
    assert str(space.subnet(Genome(3, (2, 3, 1), (1, 4, 3)))) == "h0-1f0 h0-2f0-3 h0f0-2"
    assert (
        str(space.subnet(space.smallest)) == "h0f0 - h0f0"
        and str(space.subnet(space.largest)) == "h0-2f0-3 h0-2f0-3 h0-2f0-3"
    )
    assert (space.low, space.high) == (16, 45)


def test_shrinking_lowers_genes_and_growing_raises_them_until_no_more_fits():
    space, rng = make_space(), random.Random(0)
    for genome in [random_genome(rng) for _ in range(200)]:
        subnet, budget = space.subnet(genome), rng.uniform(16, 46)
        small = space.shrink(genome, budget, rng)
        assert price(space.subnet(small)) <= budget and space.subnet(small).within(subnet)
        assert (space.subnet(small) == subnet) == (price(subnet) <= budget)
        grown = space.grow(small, budget, rng)
        cost, kept = price(space.subnet(grown)), (0, 2) if grown.depth == 2 else (0, 1, 2)
        assert cost <= budget and space.subnet(small).within(space.subnet(grown))
        steps = [2 for i in kept if grown.heads[i] < 3] + [
            1 for i in kept if grown.widths[i] < 4
        ]  # what one more would add
        steps += [5 + 2 * grown.heads[1] + grown.widths[1]] if grown.depth == 2 else []
        assert all(cost + step > budget for step in steps)
        assert space.subnet(space.shrink(genome, 16.0, rng)) == space.space.smallest
        assert space.subnet(space.grow(genome, 45.0, rng)) == space.space.largest
        with pytest.raises(ValueError, match="15.9"):
            space.shrink(genome, 15.9, rng)


def test_mutation_by_probability():
    """0 changes nothing; 1 draws every gene anew, each over its whole range; between, the share of
    changed genes fits."""
    space, rng = make_space(), random.Random(0)
    genome = Genome(2, (1, 2, 3), (4, 3, 2))
    assert all(space.mutate(genome, 0.0, rng) == genome for _ in range(20))
    drawn = [space.mutate(genome, 1.0, rng) for _ in range(300)]
    assert {g.depth for g in drawn} == {2, 3}
    assert all(
        {g.heads[i] for g in drawn} == {1, 2, 3} and {g.widths[i] for g in drawn} == {1, 2, 3, 4}
        for i in range(3)
    )
    changed = sum(space.mutate(genome, 0.4, rng).widths[0] != 4 for _ in range(3000))
    assert changed == pytest.approx(
        3000 * 0.4 * 3 / 4, abs=120
    )  # a gene drawn anew is the old one in a quarter


def test_crossing_takes_every_gene_from_either_parent():
    space, rng = make_space(), random.Random(0)
    a, b = Genome(2, (1, 2, 3), (1, 1, 4)), Genome(3, (2, 2, 1), (3, 1, 2))
    children = {space.cross(a, b, rng) for _ in range(2000)}
    assert children == {
        Genome(d, (h, 2, i), (v, 1, w))
        for d, h, i, v, w in product((2, 3), (1, 2), (3, 1), (1, 3), (4, 2))
    }


def test_no_subnet_is_scored_twice():
    """Neither within a call, nor over calls, nor as another genome of the same subnet."""
    asked = []
    search = RandomSearch(
        make_space(),
        BUDGETS,
        lambda subnets: asked.extend(subnets) or [float(len(asked))] * len(subnets),
        seed=0,
    )
    a, same, b = (
        Genome(2, (1, 1, 1), (2, 1, 1)),
        Genome(2, (1, 3, 1), (2, 4, 1)),
        Genome(3, (1, 1, 1), (2, 1, 1)),
    )
    assert [search.add([a, same, a]), search.add([same, b, a]), search.add([b])] == [1, 1, 0]
    assert list(map(str, asked)) == ["h0f0-1 - h0f0", "h0f0-1 h0f0 h0f0"]
    assert [(str(c.subnet), c.cost, c.loss) for c in search.scored.values()] == [
        (str(asked[0]), 17, 1),
        (str(asked[1]), 25, 2),
    ]
    assert [c.cost for c in search.best(24.9, 5)] == [17] and [
        c.cost for c in search.best(25, 1)
    ] == [17]


@pytest.mark.parametrize("how", ["random", "evolution"])
def test_generations_are_new_and_within_their_budgets(how):
    search = evolve(useful_loss, BUDGETS, size=10)
    assert search.space.space.smallest in search.scored
    for _ in range(4):
        genomes = search.random_generation(12) if how == "random" else search.generation(12)
        subnets = [search.space.subnet(genome) for genome in genomes]
        assert len(set(subnets)) == 12 and not set(subnets) & set(search.scored)
        assert all(price(subnet) <= budget for subnet, budget in zip(subnets, sorted(BUDGETS) * 4))
        assert search.add(genomes) == 12


def test_the_sequence_depends_on_the_seed_alone():
    first, again, other = (
        list(evolve(useful_loss, BUDGETS, seed, generations=3).scored) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "loss, budgets",
    [
        (useful_loss, BUDGETS),
        (useful_loss, [16.0, 33.0]),
        (inner_loss, [24.0, 34.0, 45.0]),
        pytest.param(inner_loss, [50.0], id="above the largest net"),
    ],
)
def test_evolution_finds_the_optimum_at_every_budget(loss, budgets, seed):
    """Known by brute force; most of the space is never scored. 50 lies more than a window above the
    largest net's 45."""
    search = evolve(loss, budgets, seed, generations=9)
    assert len(search.scored) < len(every_subnet()) / 3
    for budget in budgets:
        optimum = min(loss(subnet) for subnet in every_subnet() if price(subnet) <= budget)
        assert search.best(budget, 1)[0].loss == optimum


@pytest.mark.parametrize("how", ["random", "evolution"])
def test_a_space_without_anything_new_ends(how):
    """Without elastic heads 13 of 80 nets cost 28 or less, all of two blocks."""
    within = {subnet for subnet in every_subnet(elastic=False) if price(subnet) <= 28}
    search = evolve(useful_loss, [28.0], size=8, elastic=False)
    for _ in within:
        added = search.add(search.random_generation(8) if how == "random" else search.generation(8))
    assert added == 0 and len(within) == 13 and set(search.scored) <= within
    assert how == "random" or search.best(28.0, 1)[0].loss == min(map(useful_loss, within))
