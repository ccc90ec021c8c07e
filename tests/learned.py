"""What the tests of learned selection share: selectors of the tiny model with scores as wanted, and
costs by hand.

The tiny model has 3 blocks of 3 head groups and 4 chunks: 21 components, 6 modules. Step 1 is
updates 10 to 59, in 5 parts.
"""

import functools
import math
import random

import torch
from torch import Tensor

from tests.helpers import VOCAB, make_targets, tiny_config
from todm.config.keys import Config
from todm.learned_selection.methods import make_selector
from todm.learned_selection.selector import Selector
from todm.subnet import Subnet
from todm.supernet.cost import CostModel

METHODS = ["simple-topk", "iterative-zero-out", "orthosoftmax"]
GRANULARITIES = ["module", "component"]
STEPS = ("train.updates=100", "learn.share=0.6", "method.subnets_from=10", "learn.iterations=5")
FULL = "h0-2f0-3 h0-2f0-3 h0-2f0-3"
FIXED, HEAD, CHUNK, MODULE = (
    2652,
    496,
    198,
    32,
)  # encoder parameters of the tiny model: what stays, of parts, of a module's norm and bias
LENGTHS = torch.tensor([75, 43])
TARGETS = make_targets([[3, 5, 4, 3], [7, 8]], [18, 10])
FRAMES = 28
cached_config = functools.cache(tiny_config)


def learned(method: str, *overrides: str) -> Config:
    return cached_config(
        *STEPS, "search.budgets=[0.5,0.75,1.0]", f"select.method={method}", *overrides
    )


def make(method: str, *overrides: str, seed: int = 0) -> Selector:
    torch.manual_seed(seed)
    return make_selector(learned(method, *overrides), VOCAB)


def set_scores(selector: Selector, values: Tensor | list) -> None:
    with torch.no_grad():
        selector.scores.copy_(torch.as_tensor(values))


def row_scores(order: list[int]) -> Tensor:
    """Of OrthoSoftmax: row i prefers unit order[i] by far."""
    return 5 * torch.eye(len(order))[order]


def rank_scores(order: list[int], best: float = 1.5, step: float = 0.05) -> Tensor:
    """Of the other methods: the units in this order, with even gaps."""
    scores = torch.zeros(len(order))
    scores[order] = best - step * torch.arange(len(order))
    return scores


def scores_of(method: str, order: list[int]) -> Tensor:
    return row_scores(order) if method == "orthosoftmax" else rank_scores(order)


def shuffled(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).sample(range(count), count)


def price(net: Subnet, config: Config) -> int:
    return CostModel(config, VOCAB).cost(net).encoder_params


def prefix_counts(selector: Selector, order: list[int], limits: list[float]) -> list[int]:
    """How many units of an order fit every limit: all prefixes tried."""
    costs = [
        price(selector.units.subnet(order[:k]), selector.config) for k in range(len(order) + 1)
    ]
    return [max(k for k, c in enumerate(costs) if c <= limit * (1 + 1e-9)) for limit in limits]


def expected_share(gates: list[float]) -> float:
    """Of the full net's encoder parameters, under 21 gates of components: the closed form, part by
    part."""
    total = FIXED
    for first in range(0, 21, 7):
        for kind, price_of_part in (
            (gates[first : first + 3], HEAD),
            (gates[first + 3 : first + 7], CHUNK),
        ):
            kept = [min(max(g, 0.0), 1.0) for g in kind]
            total += price_of_part * sum(kind) + MODULE * (1 - math.prod(1 - g for g in kept))
    return total / 9684


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def features() -> Tensor:
    return torch.randn(2, 75, 80, generator=torch.Generator().manual_seed(1))
