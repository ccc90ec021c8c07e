import pytest
import torch
from torch import Tensor

from tests.helpers import tiny_config, tiny_model
from todm.model.encoder import Encoder
from todm.model.multi_rate import Group, LowerRate, common_multiple, rate_groups
from todm.subnet import Subnet
from utils.errors import ConfigError

RATES = "model.rates=[1,2,4]"
LARGEST = "h0-2f0-3 h0-2f0-3 h0-2f0-3"


def test_groups_are_the_runs_of_equal_rates():
    assert rate_groups([1, 1, 2, 4, 4, 2]) == [
        Group(1, range(0, 2)),
        Group(2, range(2, 3)),
        Group(4, range(3, 5)),
        Group(2, range(5, 6)),
    ]
    assert common_multiple([1, 2, 4]) == 4 and common_multiple([]) == 1


def test_down_is_the_weighted_mean_of_real_frames():
    lower = LowerRate(2)
    with torch.no_grad():
        lower.weight.copy_(torch.tensor([3.0, 1.0]).log())  # weights of 3/4 and 1/4
    x = torch.tensor([[1.0, 5.0, 7.0, 100.0, 100.0, 100.0]])[..., None]
    got = lower.down(x, torch.tensor([[True, True, True, False, False, False]]))
    assert got.flatten().tolist() == pytest.approx([2.0, 7.0, 0.0])


def test_up_adds_a_change_to_every_frame_of_a_mean():
    x, change = torch.arange(6.0).view(1, 6, 1), torch.tensor([[[10.0], [20.0]]])
    got = LowerRate(3).up(x, change).flatten().tolist()
    assert got == [10.0, 11.0, 12.0, 23.0, 24.0, 25.0]


def plainly(encoder: Encoder, x: Tensor, subnet: Subnet) -> Tensor:
    """The blocks over one utterance (T, dim), frame by frame where the rate changes."""
    operators = encoder.operators()
    for number, (rate, blocks) in enumerate(encoder.groups):
        parts = [x[first : first + rate] for first in range(0, len(x), rate)]
        if rate == 1:
            slow = x
        else:
            weight = encoder.lower[str(number)].weight.softmax(0)
            means = []
            for part in parts:
                kept = weight[: len(part)] / weight[: len(part)].sum()
                means.append((kept[:, None] * part).sum(0))
            slow = torch.stack(means)
        frames = slow[None]
        for i in blocks:
            mask = torch.ones(1, len(slow), dtype=torch.bool)
            frames = encoder.blocks[i](frames, mask, subnet.blocks[i], operators[i])
        changes = (frames[0] - slow).unbind(0)
        x = torch.cat([part + change for part, change in zip(parts, changes)])
    return encoder.norm(x)


@pytest.mark.parametrize("rates", ["[1,2,4]", "[4,4,1]", "[2,1,2]", "[8,4,2]"])
@pytest.mark.parametrize("frames", [4, 17, 32])
def test_the_encoder_against_a_loop_over_frames(rates, frames):
    encoder = tiny_model(tiny_config(f"model.rates={rates}")).eval().encoder
    x = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(frames))
    lengths = torch.tensor([40, frames])
    with torch.no_grad():
        got = encoder.encode(x, lengths, encoder.full, encoder.operators())
        for row, length in enumerate(lengths.tolist()):
            expected = plainly(encoder, x[row, :length], encoder.full)
            torch.testing.assert_close(got[row, :length], expected, rtol=1e-4, atol=1e-4)


def test_gradients_against_a_loop_over_frames():
    encoder = tiny_model(tiny_config(RATES)).eval().encoder
    x = torch.randn(1, 22, 16, generator=torch.Generator().manual_seed(0))
    names, parameters = zip(*((n, p) for n, p in encoder.named_parameters() if "front" not in n))
    whole = encoder.encode(x, torch.tensor([22]), encoder.full, encoder.operators())[0]
    got = torch.autograd.grad(whole.pow(3).sum(), parameters)
    by_frames = plainly(encoder, x[0], encoder.full)
    expected = torch.autograd.grad(by_frames.pow(3).sum(), parameters)
    for name, a, b in zip(names, got, expected):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item(), msg=name)


def test_a_group_without_blocks_does_nothing():
    """The other blocks, at the full rate, are those of a model without lower rates."""
    slow = tiny_model(tiny_config("model.rates=[1,4,1]")).eval().encoder
    plain = tiny_model(tiny_config()).eval().encoder
    missing = plain.load_state_dict(slow.state_dict(), strict=False)
    assert missing.unexpected_keys == ["lower.1.weight"] and not missing.missing_keys
    features, lengths = torch.randn(2, 150, 80), torch.tensor([150, 90])
    subnet = Subnet.parse("h0-2f0-3 - h0-2f0-3")
    with torch.no_grad():
        torch.testing.assert_close(
            slow(features, lengths, subnet), plain(features, lengths, subnet)
        )


def test_a_model_is_built_with_the_rates_of_its_own_blocks_alone():
    config = tiny_config("model.rates=[2,2,4]", "model.architecture='- h0f0 -'")
    assert list(tiny_model(config).encoder.lower) == ["0"]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model.rates=[1,2]"], "model.rates has 2 numbers, and model.blocks is 3"),
        (["model.rates=[1,3,1]"], "model.rates may have 1, 2, 4, 8, not [1, 3, 1]"),
        (
            ["model.rates=[1,8,1]", "model.direction=causal", "export.chunk_frames=16"],
            "export.chunk_frames 16 is not a multiple of 32",
        ),
    ],
)
def test_rates_that_can_not_be(overrides, message):
    with pytest.raises(ConfigError) as error:
        tiny_config(*overrides)
    assert message in str(error.value)


def test_a_group_that_a_subnet_leaves_out_needs_no_way_to_its_rate():
    encoder = tiny_model(tiny_config("model.rates=[1,4,1]")).eval().encoder
    del encoder.lower["1"]
    x = torch.randn(1, 8, 16)
    net = Subnet.parse("h0-2f0-3 - h0-2f0-3")
    assert encoder.encode(x, torch.tensor([8]), net, encoder.operators()).isfinite().all()
