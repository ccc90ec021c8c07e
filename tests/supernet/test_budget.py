import random
import re

import pytest

from tests.helpers import VOCAB, tiny_config
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.supernet.budget import UNIT_OF_COST, cost_function, parse_budget
from todm.supernet.cost import CostModel
from todm.supernet.latency_table import LatencyTable
from utils.errors import UserError

MIDDLE = Subnet.parse("h0-1f0-2 - h0-2f0")


@pytest.mark.parametrize(
    "text, budget",
    [
        ("0.5", 2e6),
        ("50%", 2e6),
        (" 12.5 % ", 5e5),
        ("600k", 6e5),
        ("600 k", 6e5),
        ("3M", 3e6),
        ("0.0005G", 5e5),
        ("500000", 5e5),
        ("7e5", 7e5),
        ("25e-2", 1e6),
        ("1", 4e6),
        ("1.0", 4e6),
        ("100%", 4e6),
        ("400001.5", 400001.5),
        ("0.1", 4e5),
        ("400k", 4e5),
    ],
)
def test_budgets_of_a_space_from_400_thousand_to_4_million(text, budget):
    assert parse_budget(text, "encoder_params", 4e5, 4e6) == pytest.approx(budget, rel=1e-12)


@pytest.mark.parametrize(
    "text, budget", [("2.5ms", 2.5), ("2.5", 2.5), ("0.8ms", 0.8), ("0.25", 1.0), ("25%", 1.0)]
)
def test_budgets_in_milliseconds(text, budget):
    assert parse_budget(text, "latency", 0.7, 4.0) == pytest.approx(budget, rel=1e-12)


@pytest.mark.parametrize("name", UNIT_OF_COST)
@pytest.mark.parametrize("text", ["0.05", "5%", "9.9", "15", "0", "0.001k", "2e-3"])
def test_what_nothing_fits_is_refused_with_the_feasible_range(name, text):
    """20 of 160 is an eighth."""
    with pytest.raises(UserError) as raised:
        parse_budget(text, name, 20.0, 160.0)
    assert f"no subnet fits {text} (" in str(raised.value)
    assert f"feasible: 20 to 160 {UNIT_OF_COST[name]}, that is 0.125 to 1 of the largest" in str(
        raised.value
    )


@pytest.mark.parametrize(
    "text",
    ["", "half", "-0.5", "1.2.3", ".", "50 percent", "3 m", "10T", "1e", "0,5", "nan", "k", "50%%"],
)
def test_what_is_not_a_budget_is_refused_with_the_feasible_range(text):
    with pytest.raises(UserError, match="is not a budget") as raised:
        parse_budget(text, "macs", 20.0, 160.0)
    assert repr(text) in str(raised.value)
    assert "feasible: 20 to 160 MACs per second of audio, that is 0.125 to 1" in str(raised.value)


def test_the_printed_fraction_is_itself_feasible():
    """Also where it lies on a thousandth, and next to the whole."""
    rng = random.Random(0)
    spaces = [(rng.uniform(1, 9e6), rng.uniform(1e7, 2e7)) for _ in range(200)] + [
        (i / 1000 * 3e6, 3e6) for i in range(1, 1000)
    ]
    for smallest, largest in [*spaces, (999_999.0, 1e6), (1.0, 1e9)]:
        with pytest.raises(UserError) as raised:
            parse_budget("0", "total_params", smallest, largest)
        fraction = re.search(r"that is (\S+) to 1 of the largest net", str(raised.value))[1]
        assert (
            smallest
            <= parse_budget(fraction, "total_params", smallest, largest)
            <= smallest + 0.0011 * largest
        )


def test_parameter_costs_are_those_of_a_built_net():
    config = tiny_config()
    model = Transducer(config, VOCAB, MIDDLE, training_heads=False)
    encoder, rest = (sum(p.numel() for p in part.parameters()) for part in (model.encoder, model))
    assert cost_function("encoder_params", CostModel(config, VOCAB))(MIDDLE) == encoder
    assert cost_function("total_params", CostModel(config, VOCAB))(MIDDLE) == rest > encoder


def test_macs_by_hand():
    """A chunk is 24 / 4 = 6 of the hidden units, with 16 inputs and 16 outputs, 25 times a
    second."""
    config = tiny_config()
    macs = cost_function("macs", CostModel(config, VOCAB))
    wider = Subnet.parse("h0-1f0-2 - h0-2f0-2")
    assert macs(wider) - macs(MIDDLE) == 2 * (6 * 16 + 16 * 6) * 25
    assert macs(MIDDLE) == CostModel(config, VOCAB).cost(MIDDLE).macs_per_second and isinstance(
        macs(MIDDLE), float
    )


def test_latency_is_the_tables():
    table = LatencyTable(
        "a phone", "sherpa-onnx", (1, 1, 1), 0.5, {(1, 2, 3): 0.25, (1, 3, 1): 2.0}
    )
    assert cost_function("latency", CostModel(tiny_config(), VOCAB), table)(MIDDLE) == 2.75
