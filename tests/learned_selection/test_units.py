import functools
import itertools
import random

import pytest
import torch

from tests.helpers import VOCAB, tiny_config, tiny_model
from todm.learned_selection.units import Units
from todm.subnet import BlockChoice, Subnet
from todm.supernet.cost import CostModel
from todm.supernet.extract import extract

FIELDS = {
    "encoder_params": "encoder_params",
    "total_params": "total_params",
    "macs": "macs_per_second",
}
GRANULARITIES = ["module", "component"]
CONFS = [
    (),
    ("model.gating=false",),
    ("model.stack=2", "model.direction=causal"),
    ("loss.objective=ctc", "loss.ctc_weight=1"),
    ("model.rates=[1,4,4]",),
]
GROUPS, CHUNKS = 3, 4  # of the tiny model


def make_units(granularity: str, cost_name: str = "encoder_params", *overrides: str) -> Units:
    return Units(tiny_config(*overrides), VOCAB, granularity, cost_name)


def net_of(mask: list[int], granularity: str, groups: int = GROUPS, chunks: int = CHUNKS) -> Subnet:
    """What a mask says: block by block, the SSM or its head groups, then the FFN or its chunks."""
    left, blocks = iter(mask), []
    while (first := next(left, None)) is not None:
        if granularity == "module":
            blocks.append(
                BlockChoice(
                    tuple(range(groups)) if first else (),
                    tuple(range(chunks)) if next(left) else (),
                )
            )
        else:
            kept = [first, *(next(left) for _ in range(groups + chunks - 1))]
            blocks.append(
                BlockChoice(
                    *(
                        tuple(i for i, keep in enumerate(part) if keep)
                        for part in (kept[:groups], kept[groups:])
                    )
                )
            )
    return Subnet(tuple(blocks))


cached_config = functools.cache(tiny_config)


def exact(net: Subnet, cost_name: str, *overrides: str) -> int:
    return getattr(CostModel(cached_config(*overrides), VOCAB).cost(net), FIELDS[cost_name])


def random_masks(size: int, count: int, seed: int) -> list[list[int]]:
    """Of all densities: nothing, everything and between."""
    rng = random.Random(seed)
    return [
        [0] * size,
        [1] * size,
        *(
            [int(rng.random() < density) for _ in range(size)]
            for density in (rng.random() for _ in range(count))
        ),
    ]


def test_units_of_modules_by_hand():
    units = make_units("module")
    assert [(u.block, u.kind, u.parts) for u in units.items] == [
        (i, *module) for i in range(3) for module in (("heads", (0, 1, 2)), ("ffn", (0, 1, 2, 3)))
    ]
    assert len(units) == 6 and [str(u) for u in units.items[2:4]] == ["block 1 SSM", "block 1 FFN"]


def test_units_of_components_by_hand():
    units = make_units("component")
    assert len(units) == 3 * (3 + 4)
    assert [(u.block, u.kind, u.parts) for u in units.items[7:14]] == [
        (1, "heads", (0,)),
        (1, "heads", (1,)),
        (1, "heads", (2,)),
        (1, "ffn", (0,)),
        (1, "ffn", (1,)),
        (1, "ffn", (2,)),
        (1, "ffn", (3,)),
    ]
    assert [str(units.items[i]) for i in (0, 3, 20)] == [
        "block 0 SSM 0",
        "block 0 FFN 0",
        "block 2 FFN 3",
    ]


@pytest.mark.parametrize(
    "overrides, components",
    [
        (("model.gating=false",), 3 * (6 + 4)),
        (("model.blocks=5",), 5 * (3 + 4)),
        (("supernet.ffn_chunks=8",), 3 * (3 + 8)),
        (("model.stack=2", "model.direction=causal"), 3 * (3 + 4)),
    ],
)
def test_number_of_components_follows_the_model(overrides, components):
    assert len(make_units("component", "macs", *overrides)) == components
    blocks = 5 if "model.blocks=5" in overrides else 3
    assert len(make_units("module", "macs", *overrides)) == 2 * blocks


@pytest.mark.parametrize(
    "granularity, kept, text",
    [
        ("component", [20, 0, 5, 3], "h0f0,2 - f3"),
        ("component", [9, 7, 1], "h1 h0,2 -"),
        ("component", [], "- - -"),
        ("component", range(21), "h0-2f0-3 h0-2f0-3 h0-2f0-3"),
        ("module", [3, 0], "h0-2 f0-3 -"),
        ("module", [5, 4], "- - h0-2f0-3"),
        ("module", [], "- - -"),
    ],
)
def test_subnet_of_any_set_in_any_order(granularity, kept, text):
    assert str(make_units(granularity).subnet(kept)) == text


def test_gates_of_components_are_spread_by_hand():
    gates = make_units("component").gates(torch.arange(21.0))
    assert gates.heads.tolist() == [[0, 1, 2], [7, 8, 9], [14, 15, 16]]
    assert gates.ffn.tolist() == [[3, 4, 5, 6], [10, 11, 12, 13], [17, 18, 19, 20]]


def test_parts_of_a_module_share_its_gate():
    gates = make_units("module").gates(
        torch.arange(6.0).expand(2, 6) + torch.tensor([[0.0], [10.0]])
    )
    assert gates.heads.tolist() == [[[0] * 3, [2] * 3, [4] * 3], [[10] * 3, [12] * 3, [14] * 3]]
    assert gates.ffn.tolist() == [[[1] * 4, [3] * 4, [5] * 4], [[11] * 4, [13] * 4, [15] * 4]]


@pytest.mark.parametrize("overrides", CONFS)
@pytest.mark.parametrize("cost_name", FIELDS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_expected_cost_of_hard_gates_is_the_cost_of_the_net(granularity, cost_name, overrides):
    units = make_units(granularity, cost_name, *overrides)
    groups = 6 if "model.gating=false" in overrides else GROUPS
    masks = random_masks(len(units), 60, seed=len(units))
    expected = [exact(net_of(mask, granularity, groups), cost_name, *overrides) for mask in masks]
    found = units.expected_cost(torch.tensor(masks, dtype=torch.float64)).tolist()
    # MACs at a lower rate are rounded to whole ones
    rounded = cost_name == "macs" and any("rates" in text for text in overrides)
    assert found == (pytest.approx(expected, abs=6) if rounded else expected)
    assert [
        units.cost(units.subnet(i for i, keep in enumerate(mask) if keep)) for mask in masks
    ] == expected
    assert len(set(expected)) > 10 and units.full_cost == expected[1] and units.fixed == expected[0]
    torch.testing.assert_close(
        units.expected_cost(torch.tensor(masks).float()),
        torch.tensor(expected).float(),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("overrides", CONFS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_expected_cost_of_hard_gates_is_what_an_extracted_model_holds(granularity, overrides):
    config = tiny_config(*overrides)
    encoder, total = (
        make_units(granularity, name, *overrides) for name in ("encoder_params", "total_params")
    )
    model = tiny_model(config)
    unused = (
        ("heads.simple", "predictor", "joiner") if config.loss.objective == "ctc" else ("heads",)
    )
    for mask in random_masks(len(encoder), 5, seed=1):
        alone = extract(model, config, encoder.subnet(i for i, keep in enumerate(mask) if keep))
        values = torch.tensor(mask, dtype=torch.float64)
        assert encoder.expected_cost(values).item() == sum(
            p.numel() for p in alone.encoder.parameters()
        )
        assert total.expected_cost(values).item() == sum(
            p.numel() for name, p in alone.named_parameters() if not name.startswith(unused)
        )


@pytest.mark.parametrize("cost_name", FIELDS)
@pytest.mark.parametrize(
    "granularity, rates",
    [("component", "[1]"), ("component", "[4]"), ("module", "[1,1]"), ("module", "[1,2,2]")],
)
def test_expected_cost_of_soft_gates_is_the_mean_over_all_masks(granularity, rates, cost_name):
    """Every unit is kept independently with its gate's probability."""
    blocks = rates.count(",") + 1
    overrides = (f"model.blocks={blocks}", f"supernet.min_blocks={blocks}", f"model.rates={rates}")
    units = make_units(granularity, cost_name, *overrides)
    gates = torch.rand(len(units), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    mean = 0.0
    for mask in itertools.product([0, 1], repeat=len(units)):
        probability = torch.where(torch.tensor(mask) == 1, gates, 1 - gates).prod().item()
        mean += probability * exact(net_of(list(mask), granularity), cost_name, *overrides)
    # MACs at a lower rate are rounded to whole ones
    accuracy = 1e-5 if cost_name == "macs" and rates not in ("[1]", "[1,1]") else 1e-9
    assert units.expected_cost(gates).item() == pytest.approx(mean, rel=accuracy)


def test_gradient_of_the_expected_cost_is_what_a_unit_adds():
    """By differences: the cost is linear in every single gate."""
    units = make_units("component", "total_params")
    gates = torch.rand(
        21, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True
    )
    (found,) = torch.autograd.grad(units.expected_cost(gates), gates)
    for i in range(21):
        with_it, without = (
            gates.detach().index_fill(0, torch.tensor([i]), value) for value in (1.0, 0.0)
        )
        assert found[i].item() == pytest.approx(
            (units.expected_cost(with_it) - units.expected_cost(without)).item(), rel=1e-9
        )


@pytest.mark.parametrize("cost_name", FIELDS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_prefix_within_a_budget_by_brute_force(granularity, cost_name):
    units, rng = make_units(granularity, cost_name), random.Random(6)
    lengths = set()
    for _ in range(15):
        order = rng.sample(range(len(units)), len(units))
        costs = [
            exact(net_of([int(i in order[:k]) for i in range(len(units))], granularity), cost_name)
            for k in range(len(units) + 1)
        ]
        budgets = [rng.uniform(costs[1], costs[-1] * 1.05) for _ in range(5)] + [
            costs[rng.randrange(1, len(units) + 1)]
        ]
        for budget in budgets:
            best = max(k for k in range(len(units) + 1) if costs[k] <= budget)
            assert units.prefix_within(order, budget) == order[:best]
            lengths.add(best)
        one_less = rng.randrange(2, len(units) + 1)
        assert units.prefix_within(order, costs[one_less] - 1) == order[: one_less - 1]
    assert len(lengths) >= 5


def test_budget_that_nothing_fits_is_refused():
    units = make_units("component")
    head, chunk = units.subnet([0]), units.subnet([3])
    between = (exact(head, "encoder_params") + exact(chunk, "encoder_params")) / 2
    assert units.prefix_within([3, 0], between) == [3]
    with pytest.raises(
        ValueError,
        match="nothing fits a budget of "
        f"{between:.6g}.*{exact(units.subnet([]), 'encoder_params')}",
    ):
        units.prefix_within([0, 3], between)
