import pytest
import torch
from torch import Tensor

from tests.helpers import tiny_config, tiny_model
from todm.model.blockwise import BlockwiseOperators, make_operators
from todm.model.mhssm import MultiHeadSSM, head_time_scales

DIM, HEAD_DIM, GROUPS = 10, 4, 3
LENGTHS = (45, 17)


def make_layer(gating: bool = True, stack: int = 1, bidirectional: bool = True) -> MultiHeadSSM:
    torch.manual_seed(0)
    layer = MultiHeadSSM(
        DIM,
        HEAD_DIM,
        GROUPS,
        gating,
        3,
        stack,
        bidirectional,
        (0.01, 0.5),
        dropout=0.0,
        adaptive=True,
    )
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer


def run(layer: MultiHeadSSM, x: Tensor, lengths: tuple[int, ...], kept: tuple[int, ...]) -> Tensor:
    mask = torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None]
    return layer(x, mask, kept, make_operators(list(layer.ssms)))


def plain_head(layer: MultiHeadSSM, u: Tensor, head: int) -> Tensor:
    """One head of one utterance: (channels, T) of all heads -> (T, head_dim)."""
    channels = layer.project_in.out_features
    mine = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
    z = u[mine]
    for ssm, weight, bias in zip(layer.ssms, layer.mix_weight, layer.mix_bias):
        every = torch.zeros(layer.directions * channels, z.shape[1])
        every[mine] = z
        y = ssm.convolve(every)[mine]
        if layer.directions == 2:
            back = slice(channels + mine.start, channels + mine.stop)
            every = torch.zeros_like(every)
            every[back] = z.flip(-1)
            y = torch.cat([y, ssm.convolve(every)[back].flip(-1)])
        y = y / (1 + torch.exp(-y))
        z = (y.t() @ weight[head].flatten(0, 1) + bias[head]).t()
    return z.t()


def plain_layer(layer: MultiHeadSSM, x: Tensor, kept: tuple[int, ...]) -> Tensor:
    """One utterance (T, dim), head by head."""
    u = layer.project_in(layer.norm(x)).t()
    out = layer.project_out.bias
    for group in kept:
        if layer.heads_per_group == 2:
            z = plain_head(layer, u, 2 * group) * torch.sigmoid(plain_head(layer, u, 2 * group + 1))
        else:
            z = plain_head(layer, u, group)
        out = out + z @ layer.project_out.weight[:, group * HEAD_DIM : (group + 1) * HEAD_DIM].t()
    return out


@pytest.mark.parametrize("kept", [(0, 1, 2), (0, 1), (0, 2)])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("gating", [True, False])
def test_layer_against_a_loop_over_heads_and_utterances(gating, stack, bidirectional, kept):
    """What stands in the padding, here large numbers, must not matter."""
    layer = make_layer(gating, stack, bidirectional)
    x = torch.randn(2, 45, DIM)
    x[1, 17:] = 100.0
    got = run(layer, x, LENGTHS, kept)
    for b, length in enumerate(LENGTHS):
        torch.testing.assert_close(
            got[b, :length], plain_layer(layer, x[b, :length], kept), rtol=1e-4, atol=1e-4
        )


def test_gradient_against_a_loop_over_heads():
    layer, x = make_layer(stack=2), torch.randn(1, 45, DIM)
    names, parameters = zip(*layer.named_parameters())
    got = torch.autograd.grad(run(layer, x, (45,), (0, 2)).square().sum(), parameters)
    expected = torch.autograd.grad(plain_layer(layer, x[0], (0, 2)).square().sum(), parameters)
    for name, a, b in zip(names, got, expected):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item(), msg=name)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.stack=2", "model.gating=false"),
        ("model.direction=causal",),
        ("model.tail_frames=22",),
        ("model.rates=[2,4,1]",),
    ],
)
def test_an_utterance_gets_in_a_batch_what_it_gets_alone(overrides):
    model = tiny_model(tiny_config(*overrides)).eval()
    lengths = torch.tensor([150, 61, 20])
    features = torch.randn(3, 150, 80)
    together, frames = model.encoder(features, lengths)
    for b, length in enumerate(lengths.tolist()):
        alone, count = model.encoder(features[b : b + 1, :length], lengths[b : b + 1])
        assert count.item() == frames[b].item() == alone.shape[1]
        torch.testing.assert_close(together[b, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction, changed_before", [("causal", False), ("bidirectional", True)])
def test_only_bidirectional_encoders_see_the_future(direction, changed_before):
    model = tiny_model(tiny_config(f"model.direction={direction}")).eval()
    features, lengths = torch.randn(1, 201, 80), torch.tensor([201])
    later = features.clone()
    later[:, 4 * 20 + 7 :] += 1  # encoder frame 20 sees input frames 80 to 86
    (before, _), (after, _) = model.encoder(features, lengths), model.encoder(later, lengths)
    assert torch.equal(before[:, :21], after[:, :21]) != changed_before
    assert not torch.allclose(before[:, 21], after[:, 21], atol=1e-3)


def test_ssm_stays_in_fp32_under_autocast(monkeypatch):
    seen = []

    def recording(operators, u):
        seen.extend([u.dtype, *(x.dtype for x in operators), torch.is_autocast_enabled("cpu")])
        return apply(operators, u)

    apply = BlockwiseOperators.run
    monkeypatch.setattr(BlockwiseOperators, "run", recording)
    model = tiny_model(tiny_config("model.stack=2")).eval()
    features, lengths = torch.randn(2, 300, 80), torch.tensor([300, 120])
    expected, _ = model.encoder(features, lengths)
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = model.encoder(features, lengths)
    assert set(seen) == {torch.float32, torch.complex64, False}
    assert (got.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_time_scales_are_neighbours_on_a_log_scale():
    for got, expected in zip(head_time_scales(2, 0.001, 0.1), [(0.001, 0.01), (0.01, 0.1)]):
        assert got == pytest.approx(expected)


def test_head_groups_start_with_their_own_time_scale():
    """In both directions, for the value and the gate head alike."""
    layer = MultiHeadSSM(DIM, HEAD_DIM, 2, True, 3, 1, True, (0.001, 1.0), 0.0, True, max_groups=3)
    dt = layer.ssms[0].log_dt.exp().view(2, 2, 2 * HEAD_DIM)  # direction, group, channel
    for group, (low, high) in enumerate([(0.001, 0.01), (0.01, 0.1)]):
        assert ((dt[:, group] >= low * 0.999) & (dt[:, group] <= high * 1.001)).all()
