import random

import pytest

from tests.helpers import VOCAB, tiny_config
from todm.search.timing import checked_nets
from todm.subnet import Subnet
from todm.supernet.cost import CostModel
from todm.supernet.sandwich import SubnetSampler
from todm.supernet.search_space import SearchSpace, drop_order

ELASTIC_HEADS = ("supernet.elastic_heads=true", "supernet.min_heads=1")
DEEP = (
    "model.blocks=12",
    "supernet.min_blocks=6",
    "model.dim=32",
    "model.ffn_dim=128",
    "supernet.ffn_chunks=8",
    "supernet.min_ffn_chunks=2",
)


def make_space(*overrides: str) -> SearchSpace:
    return SearchSpace(tiny_config(*overrides), VOCAB)


def encoder_params(space: SearchSpace, subnet: Subnet) -> int:
    return CostModel(space.config, VOCAB).encoder_params(subnet)


def kept_blocks(subnet: Subnet) -> set[int]:
    return {i for i, block in enumerate(subnet.blocks) if not block.dropped}


@pytest.mark.parametrize(
    "blocks, order", [(1, [0]), (2, [1, 0]), (3, [1, 2, 0]), (6, [4, 2, 1, 3, 5, 0])]
)
def test_drop_order_by_hand(blocks, order):
    assert drop_order(blocks) == order


@pytest.mark.parametrize("blocks", range(2, 17))
def test_drop_order_keeps_the_ends_and_even_spacing(blocks):
    """No other block that could go at its turn would leave a smaller largest gap."""

    def largest_gap(kept: set[int]) -> int:
        indices = sorted(kept)
        return max(b - a for a, b in zip(indices, indices[1:]))

    order, kept = drop_order(blocks), set(range(blocks))
    assert sorted(order) == list(range(blocks)) and set(order[-2:]) == {0, blocks - 1}
    for block in order[:-2]:
        best = min(largest_gap(kept - {other}) for other in kept - {0, blocks - 1})
        kept.remove(block)
        assert largest_gap(kept) == best


def test_ends_of_the_space():
    space = make_space(*ELASTIC_HEADS)
    assert str(space.largest) == "h0-2f0-3 h0-2f0-3 h0-2f0-3"
    assert str(space.smallest) == "h0f0 - h0f0"
    assert str(make_space().smallest) == "h0-2f0 - h0-2f0"


@pytest.mark.parametrize("overrides", [DEEP, DEEP + ELASTIC_HEADS])
def test_ladder_goes_down_in_even_steps(overrides):
    space = make_space(*overrides)
    ladder = space.ladder(5)
    params = [encoder_params(space, subnet) for subnet in ladder]
    assert ladder[0] == space.largest and ladder[-1] == space.smallest and len(ladder) == 5
    steps = [a - b for a, b in zip(params, params[1:])]
    even = (params[0] - params[-1]) / 4
    assert all(0.7 * even < step < 1.3 * even for step in steps)


def test_ladder_of_one_is_the_largest():
    space = make_space()
    assert space.ladder(1) == [space.largest]


@pytest.mark.parametrize("overrides", [DEEP, DEEP + ELASTIC_HEADS])
def test_draws_lie_in_the_space(overrides):
    space, rng = make_space(*overrides), random.Random(0)
    s = space.config.supernet
    smallest_heads = s.min_heads if s.elastic_heads else 3
    depths, widths, heads = set(), set(), set()
    for subnet in [space.draw(rng) for _ in range(100)] + [
        space.random_near(1e5, rng) for _ in range(100)
    ]:
        assert subnet.within(space.largest) and subnet == subnet.packed()
        kept = kept_blocks(subnet)
        assert kept == set(range(12)) - set(drop_order(12)[: 12 - len(kept)])
        depths.add(len(kept))
        heads |= {len(subnet.blocks[i].heads) for i in kept}
        widths |= {len(subnet.blocks[i].ffn) for i in kept}
    assert (
        depths == set(range(6, 13))
        and widths == set(range(2, 9))
        and heads == set(range(smallest_heads, 4))
    )


def test_sampler_depends_on_seed_update_and_rank_alone():
    space = make_space(*DEEP)
    sampler, other = SubnetSampler(space, seed=3, rank=1), SubnetSampler(space, seed=3, rank=1)
    forward = [sampler(update) for update in range(20)]
    assert forward == [other(update) for update in reversed(range(20))][::-1]
    for different in (SubnetSampler(space, seed=4, rank=1), SubnetSampler(space, seed=3, rank=0)):
        assert forward != [different(update) for update in range(20)]
    assert len(set(map(tuple, forward))) > 15


@pytest.mark.parametrize("random_subnets, smallest", [(0, False), (0, True), (2, True), (3, False)])
def test_sampler_follows_the_sandwich_rule(random_subnets, smallest):
    space = make_space(
        *DEEP, f"method.subnets_per_step={random_subnets}", f"method.smallest={smallest}"
    )
    subnets = SubnetSampler(space, seed=0)(7)
    assert len(subnets) == random_subnets + smallest
    assert (subnets[-1:] == [space.smallest]) == smallest


def fifths(space: SearchSpace, params: list[float]) -> list[int]:
    """How many of these sizes lie in every fifth of [smallest, largest]."""
    low, high = (encoder_params(space, subnet) for subnet in (space.smallest, space.largest))
    places = [min(int(5 * (x - low) / (high - low)), 4) for x in params]
    return [places.count(i) for i in range(5)]


@pytest.mark.parametrize("random_subnets", [1, 2])
@pytest.mark.parametrize("begin", [0, 5000])
def test_budgets_cover_the_space_evenly(random_subnets, begin, monkeypatch):
    """Every rank's by themselves, and they are not the same."""
    space = make_space(*DEEP, f"method.subnets_per_step={random_subnets}")
    budgets = {0: [], 1: []}
    for rank, mine in budgets.items():
        monkeypatch.setattr(space, "random_near", lambda target, rng, causal: mine.append(target))
        sampler = SubnetSampler(space, seed=0, rank=rank)
        for update in range(begin, begin + 200):
            sampler(update)
        assert all(
            count == pytest.approx(40 * random_subnets, abs=3) for count in fifths(space, mine)
        )
    assert not set(budgets[0]) & set(budgets[1])


def test_subnets_join_late():
    sampler = SubnetSampler(make_space("method.subnets_from=10"), seed=0)
    assert [len(sampler(update)) for update in (0, 9, 10, 11)] == [0, 0, 2, 2]


def test_sampled_sizes_reach_every_part_of_the_space():
    """The nearest of some draws, so less evenly than the budgets."""
    space = make_space(*DEEP, "method.smallest=false")
    sampler = SubnetSampler(space, seed=0)
    counts = fifths(
        space,
        [encoder_params(space, subnet) for update in range(200) for subnet in sampler(update)],
    )
    assert min(counts) > 10


def test_a_fixed_architecture_has_one_subnet():
    text = "h0-1f0-2 - h0f0"
    space = make_space(f"model.architecture='{text}'")
    assert space.largest == space.smallest == space.draw(random.Random(0)) == Subnet.parse(text)
    assert space.ladder(5) == [space.largest]
    assert set(SubnetSampler(space, seed=0)(3)) == {space.largest}


@pytest.mark.parametrize(
    "overrides, count",
    [
        (("supernet.min_blocks=3", "supernet.min_ffn_chunks=4"), 1),  # nothing is elastic
        (("supernet.min_blocks=3", "supernet.min_ffn_chunks=3"), 2),
        (("supernet.min_blocks=2", "supernet.min_ffn_chunks=4"), 2),
        (("supernet.min_blocks=1", "supernet.min_ffn_chunks=4"), 3),
        (("model.architecture=h0-2f0-3 - h0f0",), 1),
    ],
)
def test_three_nets_of_spaces_that_have_fewer(overrides, count):
    space = make_space(*overrides)
    nets = space.three()
    assert (
        len(nets) == 3
        and len(set(nets)) == count
        and nets[0] == space.largest
        and nets[-1] == space.smallest
    )
    assert list(checked_nets(space).values()) == nets
    assert [str(net) for net in dict.fromkeys(nets)] == [
        str(net) for net in space.ladder(3)
    ] and len(space.ladder(5)) <= 5
    subnets = SubnetSampler(space, seed=0)(3)
    assert set(subnets) <= set(space.ladder(5)) and subnets[-1] == space.smallest
