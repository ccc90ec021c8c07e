"""The net under gates: parts of the largest net multiplied by numbers between 0 and 1."""

import copy
import math

import pytest
import torch
from torch import Tensor

from tests.helpers import VOCAB, tiny_model
from tests.learned import GRANULARITIES, LENGTHS, TARGETS, cached_config, features, shuffled
from todm.learned_selection.stochastic_depth import stochastic_depth
from todm.learned_selection.units import Units
from todm.model.gates import Gates
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.supernet.extract import extract

NETS = ["h0,2f1,3 f2 h1", "h1f0-3 - h0-2f3", "- h0-2 f1-2", "- - -", "h2f3 h2f3 h2f3"]


def encode(
    model: Transducer, subnet: Subnet, gates: Gates | None = None, inputs: Tensor | None = None
) -> Tensor:
    x = model.encoder.frontend(features() if inputs is None else inputs)
    return model.encoder.encode(x, TARGETS.frames, subnet, model.encoder.operators(), gates)


def make_units(granularity: str, *overrides: str) -> Units:
    return Units(cached_config(*overrides), VOCAB, granularity, "macs")


def scaled(model: Transducer, parts: list[list[float]], biases: list[list[float]]) -> Transducer:
    """A copy whose weights are what gates should do: the part of every head group and chunk in its
    module's output, and the bias.

    Args:
      parts: per block, of the head groups and then of the chunks. biases: per block, of the SSM's
        output projection and the FFN's.
    """
    other = copy.deepcopy(model)
    with torch.no_grad():
        for block, weights, (ssm_bias, ffn_bias) in zip(other.encoder.blocks, parts, biases):
            groups = len(weights) - 4
            for layer, numbers, bias in (
                (block.ssm.project_out, weights[:groups], ssm_bias),
                (block.ffn.down, weights[groups:], ffn_bias),
            ):
                layer.weight.mul_(
                    torch.tensor(numbers).repeat_interleave(layer.weight.shape[1] // len(numbers))
                )
                layer.bias.mul_(bias)
    return other


@pytest.mark.parametrize(
    "overrides", [(), ("model.gating=false",), ("model.stack=2",), ("model.direction=causal",)]
)
def test_hard_gates_compute_what_the_subnet_and_the_extracted_model_compute(overrides):
    config = cached_config(*overrides)
    model, units, groups = (
        tiny_model(config).eval(),
        make_units("component", *overrides),
        6 if overrides == ("model.gating=false",) else 3,
    )
    for net in [*map(Subnet.parse, NETS), model.full]:
        hard = [
            float(i in kept)
            for b in net.blocks
            for kept, n in ((b.heads, groups), (b.ffn, 4))
            for i in range(n)
        ]
        got = encode(model, model.full, units.gates(torch.tensor(hard)))
        torch.testing.assert_close(got, encode(model, net), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            got, extract(model, config, net).encoder(features(), LENGTHS)[0], rtol=1e-5, atol=1e-5
        )
        assert net == model.full or not torch.allclose(got, encode(model, model.full), atol=1e-2)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_gates_of_units_compute_what_their_subnet_computes(granularity):
    units, model = make_units(granularity), tiny_model(cached_config()).eval()
    outputs = []
    for seed in range(6):
        kept = shuffled(len(units), seed)[: (seed + 1) * len(units) // 7]
        values = torch.zeros(len(units)).index_fill(0, torch.tensor(kept, dtype=torch.long), 1.0)
        outputs.append(encode(model, model.full, units.gates(values)))
        torch.testing.assert_close(
            outputs[-1], encode(model, units.subnet(kept)), rtol=1e-5, atol=1e-5
        )
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(outputs, outputs[1:]))
    torch.testing.assert_close(
        encode(model, model.full, units.gates(torch.ones(len(units)))),
        encode(model, model.full),
        rtol=1e-5,
        atol=1e-5,
    )


def test_soft_gates_of_components_weigh_their_parts_and_the_bias_by_whether_anything_is_kept():
    model = tiny_model(cached_config()).eval()
    values = torch.rand(21, generator=torch.Generator().manual_seed(2)).round(decimals=2).tolist()
    parts = [values[first : first + 7] for first in (0, 7, 14)]
    biases = [
        [1 - math.prod(1 - g for g in kept) for kept in (block[:3], block[3:])] for block in parts
    ]
    got = encode(model, model.full, make_units("component").gates(torch.tensor(values)))
    torch.testing.assert_close(
        got, encode(scaled(model, parts, biases), model.full), rtol=1e-4, atol=1e-4
    )
    assert min(b for block in biases for b in block) < 0.99


def test_soft_gates_of_modules_weigh_all_of_a_modules_output():
    model, values = tiny_model(cached_config()).eval(), [0.3, 0.9, 0.5, 0.1, 0.8, 0.6]
    pairs = [values[first : first + 2] for first in (0, 2, 4)]
    got = encode(model, model.full, make_units("module").gates(torch.tensor(values)))
    torch.testing.assert_close(
        got,
        encode(scaled(model, [[a] * 3 + [b] * 4 for a, b in pairs], pairs), model.full),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("hard", [False, True])
def test_gradient_of_the_gates_by_finite_differences(granularity, hard, monkeypatch):
    monkeypatch.setattr(
        torch.Tensor, "float", torch.Tensor.double
    )  # the SSMs run in fp32, whose rounding would hide errors
    units, model = make_units(granularity), tiny_model(cached_config()).eval().double()
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(len(units), generator=generator, dtype=torch.float64)
    values = values.round() if hard else values
    probe = torch.randn(2, 18, 16, generator=generator, dtype=torch.float64)

    def output(v: Tensor) -> Tensor:
        return (encode(model, model.full, units.gates(v), features().double()) * probe).sum()

    values.requires_grad_()
    (found,) = torch.autograd.grad(output(values), values)
    for i in range(len(units)):
        unit, sides = torch.zeros_like(values).index_fill(0, torch.tensor(i), 1e-5), []
        with torch.no_grad():
            for inwards in (
                (1, -1) if 1e-5 < values[i] < 1 - 1e-5 else (1 - 2 * values[i].item(),)
            ):  # from 0 and 1 into [0, 1] alone
                sides.append(
                    ((output(values + inwards * unit) - output(values)) / (inwards * 1e-5)).item()
                )
        assert found[i].item() == pytest.approx(sum(sides) / len(sides), rel=1e-3, abs=1e-4)
    assert (found.abs() > 1e-3).all()


def test_stochastic_depth_drops_only_modules_that_the_smallest_net_lacks():
    torch.manual_seed(0)
    units = make_units("component")
    smallest = Subnet.parse("h0f0,2 h1 f3")  # lacks the second FFN and the third SSM
    missing = {*range(10, 14), *range(14, 17)}
    draws = torch.stack([stochastic_depth(units, smallest, 0.3) for _ in range(4000)])
    assert all((draws[:, i] == 1).all() for i in range(21) if i not in missing)
    assert {round(v, 5) for v in draws[:, sorted(missing)].unique().tolist()} == {
        0.0,
        round(1 / 0.7, 5),
    }
    assert (draws[:, 10:14] == draws[:, 10:11]).all() and (
        draws[:, 14:17] == draws[:, 14:15]
    ).all()  # whole modules
    assert draws.mean(0).tolist() == pytest.approx([1.0] * 21, abs=0.04)
    both = ((draws[:, 10] == 0) & (draws[:, 14] == 0)).float().mean().item()
    assert both == pytest.approx(0.09, abs=0.02)  # each by itself


def test_stochastic_depth_of_whole_modules():
    torch.manual_seed(0)
    units = make_units("module")
    draws = torch.stack(
        [stochastic_depth(units, Subnet.parse("h0-2f0-3 - f0-3"), 0.5) for _ in range(50)]
    )
    assert (draws[:, [0, 1, 5]] == 1).all() and draws[:, 2:5].unique().tolist() == [0.0, 2.0]


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_stochastic_depth_drops_or_scales_all_of_a_modules_output(granularity):
    """So that the mean over both is what the module computes: dropped with probability 0.25, else
    times 4/3."""
    units, model = make_units(granularity), tiny_model(cached_config()).eval()
    torch.manual_seed(0)
    seen = set()
    for _ in range(12):
        values = stochastic_depth(units, Subnet.parse("h0-2f0-3 - h0-2"), 0.25)
        ssm, ffn, last = (
            values[{"component": i, "module": j}[granularity]].item()
            for i, j in ((7, 2), (10, 3), (17, 5))
        )
        seen.update((ssm, ffn, last))
        expected = scaled(
            model,
            [[1] * 7, [ssm] * 3 + [ffn] * 4, [1] * 3 + [last] * 4],
            [[1, 1], [ssm, ffn], [1, last]],
        )
        torch.testing.assert_close(
            encode(model, model.full, units.gates(values)),
            encode(expected, model.full),
            rtol=1e-4,
            atol=1e-4,
        )
    assert sorted(seen) == pytest.approx([0, 4 / 3])
