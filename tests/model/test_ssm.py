import math

import pytest
import torch
from torch import Tensor

from todm.model.blockwise import (
    BLOCK,
    Powers,
    carry_state,
    causal_toeplitz,
    make_operators,
    powers_of,
)
from todm.model.ssm import DiagonalSSM

CHANNELS, MODES, BATCH = 3, 4, 2
LENGTHS = (1, BLOCK - 1, BLOCK, BLOCK + 1, 100)


def make_ssm(channels: int = CHANNELS, seed: int = 0) -> DiagonalSSM:
    torch.manual_seed(seed)
    ssm = DiagonalSSM(channels, MODES, [(0.01, 0.5)] * channels)
    with torch.no_grad():
        ssm.log_a_real.add_(0.3 * torch.randn_like(ssm.log_a_real))
        ssm.a_imag.add_(0.3 * torch.randn_like(ssm.a_imag))
    return ssm


def truth(ssm: DiagonalSSM, u: Tensor) -> Tensor:
    """(B, C, T): hold every input for dt, by the matrix exponential of [[A, 1], [0, 0]] dt, in
    float64."""
    a = torch.complex(-ssm.log_a_real.double().exp(), ssm.a_imag.double())
    top = torch.stack([a, torch.ones_like(a)], dim=-1)
    augmented = (
        torch.stack([top, torch.zeros_like(top)], dim=-2)
        * ssm.log_dt.double().exp()[:, None, None, None]
    )
    held = torch.linalg.matrix_exp(augmented)
    c = torch.complex(ssm.c[..., 0].double(), ssm.c[..., 1].double())
    state, outputs = torch.zeros(1, dtype=torch.complex128), []
    for frame in u.double().unbind(-1):
        state = held[..., 0, 0] * state + held[..., 0, 1] * frame[..., None]
        outputs.append(2 * (c * state).real.sum(-1) + ssm.d.double() * frame)
    return torch.stack(outputs, dim=-1)


def recurrent(ssm: DiagonalSSM, u: Tensor) -> Tensor:
    state, outputs = ssm.initial_state(len(u)), []
    for frame in u.unbind(-1):
        output, state = ssm.step(frame, state)
        outputs.append(output)
    return torch.stack(outputs, dim=-1)


def in_blocks(ssm: DiagonalSSM, u: Tensor) -> Tensor:
    (operators,) = make_operators([ssm])
    return operators.run(u.transpose(0, 1)).transpose(0, 1)


def gradients(form, ssm: DiagonalSSM, u: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output, and the gradient of a weighted sum of it with respect to input and parameters."""
    u = u.clone().requires_grad_()
    y = form(ssm, u)
    weights = torch.sin(torch.arange(y.numel())).view_as(y)
    return y, torch.autograd.grad((y * weights).sum(), (u, *ssm.parameters()))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("form", [DiagonalSSM.convolve, recurrent, in_blocks])
def test_every_form_is_the_held_continuous_system(form, length):
    ssm, u = (
        make_ssm(),
        torch.randn(BATCH, CHANNELS, length, generator=torch.Generator().manual_seed(length)),
    )
    (got, got_gradients), (expected, expected_gradients) = (
        gradients(form, ssm, u),
        gradients(truth, ssm, u),
    )
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(got_gradients, expected_gradients):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())


def test_kernel_is_the_answer_to_an_impulse():
    ssm = make_ssm()
    impulse = torch.zeros(1, CHANNELS, 50)
    impulse[..., 0] = 1
    expected = truth(ssm, impulse)[0]
    expected[:, 0] -= ssm.d.double()
    torch.testing.assert_close(ssm.kernel(50).double(), expected, rtol=1e-4, atol=1e-5)


def test_operators_of_several_ssms_are_theirs():
    ssms = [make_ssm(2, seed=1), make_ssm(5, seed=2)]
    for ssm, together in zip(ssms, make_operators(ssms)):
        (alone,) = make_operators([ssm])
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(together, alone))


def test_selected_operators_serve_their_channels():
    ssm, u = make_ssm(), torch.randn(CHANNELS, BATCH, 70)
    (operators,) = make_operators([ssm])
    channels = torch.tensor([2, 0])
    torch.testing.assert_close(
        operators.select(channels).run(u[channels]), operators.run(u)[channels]
    )


def test_causal_toeplitz_against_loops():
    kernel = torch.arange(1.0, 11.0).view(2, 5)
    matrix = causal_toeplitz(kernel)
    for c, j, i in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(5)).tolist():
        assert matrix[c, j, i] == (kernel[c, i - j] if i >= j else 0)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 16, 33])
def test_powers_against_repeated_products(count):
    x = torch.complex(-torch.rand(3, 2), torch.randn(3, 2)).to(torch.complex128).exp()
    powers = [torch.ones_like(x)]
    while len(powers) <= count:
        powers.append(powers[-1] * x)
    torch.testing.assert_close(powers_of(x, count), torch.stack(powers, dim=1))


@pytest.mark.parametrize("block", [1, 2, 5])
def test_closed_form_gradients_are_finite_differences(block):
    """Of every operator, also where only some of them are used."""
    torch.manual_seed(block)
    log_lam = torch.complex(-torch.rand(2, 3), torch.randn(2, 3)).to(torch.complex128)
    weight = torch.randn(2, 3, dtype=torch.complex128)

    def operators(log_lam: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return Powers.apply(log_lam, weight, block)

    arguments = log_lam.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(operators, arguments)
    for i in range(4):
        assert torch.autograd.gradcheck(lambda *x, i=i: operators(*x)[i], arguments)


def test_initial_parameters_are_s4d_lin():
    ssm = DiagonalSSM(2, 3, [(0.001, 0.01), (0.01, 0.1)])
    torch.testing.assert_close(-ssm.log_a_real.exp(), torch.full((2, 3), -0.5))
    torch.testing.assert_close(ssm.a_imag, torch.tensor([[0, math.pi, 2 * math.pi]] * 2))
    first, second = ssm.log_dt.exp().tolist()
    assert 0.001 <= first <= 0.01 <= second <= 0.1


def test_every_channel_needs_a_dt_range():
    with pytest.raises(ValueError, match="1 intervals for 2 channels"):
        DiagonalSSM(2, 3, [(0.001, 0.1)])


def test_states_before_blocks_against_the_recurrence():
    arriving = torch.randn(1, 1, 3, 1, dtype=torch.complex64)
    a, b, _ = arriving.flatten().tolist()
    got = carry_state(arriving, torch.tensor([[0.5j]])).flatten().tolist()
    assert got == pytest.approx([0, a, 0.5j * a + b])


@pytest.mark.parametrize("block", [1, 4, 7])
def test_chunks_with_their_states_are_the_held_continuous_system(block):
    ssm, u = (
        make_ssm(),
        torch.randn(BATCH, CHANNELS, 4 * block, generator=torch.Generator().manual_seed(block)),
    )
    (operators,) = make_operators([ssm], block)
    state, outputs = torch.zeros(CHANNELS, BATCH, MODES, dtype=torch.complex64), []
    for chunk in u.transpose(0, 1).split(block, dim=-1):
        output, state = operators.step(chunk, state)
        outputs.append(output.transpose(0, 1))
    torch.testing.assert_close(
        torch.cat(outputs, dim=-1).double(), truth(ssm, u), rtol=1e-4, atol=1e-4
    )
