"""Diagonal state space model (S4D, arXiv 2206.11893) in three forms that agree: blockwise,
convolution, recurrence.

For one channel with complex modes ``n = 1..N`` (each stands for itself and its conjugate)::

    x'(t) = A x(t) + u(t)        y(t) = 2 Re(C x(t)) + D u(t)

Zero-order hold with step ``dt`` gives, with ``lam = exp(dt A)`` and ``B = (lam - 1) / A``::

    x[l] = lam x[l-1] + B u[l]                                    recurrence: DiagonalSSM.step
    K[l] = 2 Re sum_n C_n B_n lam_n^l ,  y = K * u + D u          convolution: DiagonalSSM.convolve

The blockwise form, which training and exported models use, cuts the sequence into blocks of ``Q``
frames: inside a block it is a product with a Q x Q Toeplitz matrix, between blocks the state of the
recurrence is carried.  Work and memory are linear in the length and nearly all of it is batched
matrix products.  It is written in real numbers (pairs of real and imaginary parts), because
exported graphs have no complex ones.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

BLOCK = 32  # frames in a block of the blockwise form
# in exported graphs states reach 2^11 blocks, 44 minutes; beyond, they have long faded
EXPORTED_LEVELS = 11

ComplexPair = tuple[Tensor, Tensor]  # real and imaginary parts


class BlockwiseOperators(NamedTuple):
    """The parameters in the form that the blockwise form uses; made once per step and shared by
    every subnet.  C channels, Q frames in a block, N modes."""

    toeplitz: Tensor  # (C, Q, Q)  inside a block: y[i] += sum_j toeplitz[j, i] u[j]
    collect: Tensor  # (C, Q, 2N)  a block's inputs -> their part of the state at its end, [re, im]
    decay: Tensor  # (C, 2, N)     lam^Q as [re, im]
    emit: Tensor  # (C, 2N, Q)     the state before a block -> the block's outputs
    skip: Tensor  # (C,)           D

    def select(self, channels: Tensor) -> "BlockwiseOperators":
        """The operators of some channels only: an index tensor (C',)."""
        return BlockwiseOperators(*(x[channels] for x in self))


class DiagonalSSM(nn.Module):
    """S4D over independent channels, all parameters and arithmetic in fp32.

    Args:
      channels: number of channels C.
      modes: complex modes N per channel (a state of 2N real numbers).
      dt_ranges: per channel the interval ``(dt_min, dt_max)`` its time step is drawn from,
        log-uniformly.
    """

    def __init__(self, channels: int, modes: int, dt_ranges: list[tuple[float, float]]):
        super().__init__()
        if len(dt_ranges) != channels:
            raise ValueError(f"dt_ranges has {len(dt_ranges)} intervals for {channels} channels")
        low = torch.tensor([math.log(a) for a, _ in dt_ranges])
        high = torch.tensor([math.log(b) for _, b in dt_ranges])
        self.log_dt = nn.Parameter(low + torch.rand(channels) * (high - low))
        # S4D-Lin: A_n = -1/2 + i pi n
        self.log_a_real = nn.Parameter(torch.full((channels, modes), math.log(0.5)))
        self.a_imag = nn.Parameter(math.pi * torch.arange(modes).float().repeat(channels, 1))
        # Complex normal as in S4D, over sqrt(modes): a channel's output does not grow with the size
        # of its state.
        self.c = nn.Parameter(torch.randn(channels, modes, 2) * math.sqrt(0.5 / modes))  # [re, im]
        self.d = nn.Parameter(torch.randn(channels))

    def discretise(self) -> tuple[ComplexPair, ComplexPair, ComplexPair]:
        """``(dt A, B, C)`` of the zero-order hold, each a pair of (C, N); ``lam = exp(dt A)``, ``B
        = (lam - 1) / A``."""
        a_real, a_imag = -self.log_a_real.float().exp(), self.a_imag.float()
        dt = self.log_dt.float().exp()[:, None]
        real, imag = dt * a_real, dt * a_imag
        p, q = real.exp() * imag.cos() - 1, real.exp() * imag.sin()  # lam - 1
        size = a_real.square() + a_imag.square()
        b = (p * a_real + q * a_imag) / size, (q * a_real - p * a_imag) / size
        return (real, imag), b, (self.c[..., 0].float(), self.c[..., 1].float())

    def kernel(self, length: int) -> Tensor:
        """The convolution kernel K, (C, length), written straight from its definition."""
        dt_a, b, c = (torch.complex(*x) for x in self.discretise())
        powers = torch.exp(dt_a[..., None] * torch.arange(length, device=dt_a.device))  # (C, N, L)
        return 2 * torch.einsum("cn,cnl->cl", c * b, powers).real

    def convolve(self, u: Tensor) -> Tensor:
        """Convolution form by FFT: ``u`` (..., C, T) -> (..., C, T)."""
        length = u.shape[-1]
        spectrum = torch.fft.rfft(u.float(), 2 * length) * torch.fft.rfft(
            self.kernel(length), 2 * length
        )
        return torch.fft.irfft(spectrum, 2 * length)[..., :length] + self.d.float()[:, None] * u

    def initial_state(self, batch: int) -> Tensor:
        """The zero state of the recurrent form, complex (batch, C, N)."""
        return torch.zeros(
            batch, *self.a_imag.shape, dtype=torch.complex64, device=self.a_imag.device
        )

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Recurrent form, one frame: ``u`` (B, C), ``state`` (B, C, N) -> output (B, C) and the
        next state."""
        dt_a, b, c = (torch.complex(*x) for x in self.discretise())
        state = dt_a.exp() * state + b * u.float()[..., None]
        return 2 * (c * state).sum(-1).real + self.d.float() * u, state


def make_operators(ssms: list[DiagonalSSM], block: int = BLOCK) -> list[BlockwiseOperators]:
    """Make the operators of several SSMs with equally many modes at once, from their parameters
    alone.

    Args:
      block: Q, the frames in a block.
    """
    parts = zip(*((*dt_a, *b, *c) for dt_a, b, c in (ssm.discretise() for ssm in ssms)))
    real, imag, b_real, b_imag, c_real, c_imag = (torch.cat(x) for x in parts)
    powers = powers_of_exp((real, imag), block + 1)  # (C, N, Q+1): lam^0 .. lam^Q
    weight = times(
        (2 * c_real[..., None], 2 * c_imag[..., None]), (b_real[..., None], b_imag[..., None])
    )
    emitted = times(weight, powers)  # 2 C B lam^l
    from_end = [x[..., :block].flip(-1) for x in powers]  # lam^(Q-1-j)
    together = BlockwiseOperators(
        toeplitz=causal_toeplitz(emitted[0][..., :block].sum(1)),  # of the kernel, (C, Q)
        collect=torch.cat(from_end, dim=1).transpose(1, 2),
        decay=torch.stack([x[..., block] for x in powers], dim=1),
        emit=torch.cat([emitted[0][..., 1:], -emitted[1][..., 1:]], dim=1),  # 2 C B lam^(i+1)
        skip=torch.cat([ssm.d.float() for ssm in ssms]),
    )
    sizes = [ssm.d.numel() for ssm in ssms]
    return [BlockwiseOperators(*parts) for parts in zip(*(x.split(sizes) for x in together))]


def times(a: ComplexPair, b: ComplexPair) -> ComplexPair:
    """The complex product."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def causal_toeplitz(kernel: Tensor) -> Tensor:
    """(C, Q) -> (C, Q, Q) with [c, j, i] = kernel[c, i - j], 0 where i < j.

    Rows of [kernel, zeros] of length 2Q, read again with a row length of 2Q - 1, shift by one each;
    this has a cheap gradient, which indexing would not.  An exported graph indexes: its runtime
    would keep every step in between.
    """
    size = kernel.shape[1]
    if torch.onnx.is_in_onnx_export():
        lag = torch.arange(size) - torch.arange(size)[:, None]
        return nn.functional.pad(kernel, (0, 1))[:, torch.where(lag < 0, size, lag)]
    rows = nn.functional.pad(kernel, (0, size))[:, None].expand(-1, size, -1).flatten(1)
    return rows[:, : size * (2 * size - 1)].unflatten(1, (size, 2 * size - 1))[..., :size]


def powers_of_exp(x: ComplexPair, count: int) -> ComplexPair:
    """exp(0 x), exp(1 x), ..., exp((count - 1) x): (...) -> (..., count).

    By exp((r a + b) x) = exp(r a x) exp(b x), which needs about 2 sqrt(count) exponentials instead
    of count.
    """
    radix = math.isqrt(count - 1) + 1
    index = torch.arange(radix, device=x[0].device)

    def powers(step: int) -> ComplexPair:
        size, angle = torch.exp(x[0][..., None] * (step * index)), x[1][..., None] * (step * index)
        return size * angle.cos(), size * angle.sin()

    fine, coarse = powers(1), powers(radix)
    product = times(
        (coarse[0][..., None], coarse[1][..., None]), (fine[0][..., None, :], fine[1][..., None, :])
    )
    return product[0].flatten(-2)[..., :count], product[1].flatten(-2)[..., :count]


def blockwise(u: Tensor, ops: BlockwiseOperators) -> Tensor:
    """Blockwise form: ``u`` (C, B, T) float32 -> (C, B, T), causal, from the zero state."""
    channels, batch, length = u.shape
    block = ops.toeplitz.shape[1]
    blocks = (length + block - 1) // block
    x = nn.functional.pad(u, (0, blocks * block - length)).reshape(channels, batch * blocks, block)
    y = torch.bmm(x, ops.toeplitz)
    # A graph does not know its length, so it can not loop over it.
    exporting = torch.onnx.is_in_onnx_export()
    if exporting or blocks > 1:
        arriving = torch.bmm(x, ops.collect).reshape(channels, batch, blocks, 2, -1)
        before = (
            carry_state_by_doubling(arriving, ops.decay, EXPORTED_LEVELS)
            if exporting
            else carry_state(arriving, ops.decay)
        )
        y = torch.baddbmm(y, before.reshape(channels, batch * blocks, -1), ops.emit)
    y = y.reshape(channels, batch, -1)[..., :length]
    return y + ops.skip[:, None, None] * u


def carry_state(arriving: Tensor, decay: Tensor) -> Tensor:
    """States before each block: h[c+1] = lam^Q h[c] + arriving[c], h[0] = 0.

    Args:
      arriving: (C, B, blocks, 2, N) contribution of each block, [re, im].
      decay: (C, 2, N).
    Returns:
      (C, B, blocks, 2, N).
    """
    lam = decay[:, None, 0], decay[:, None, 1]  # (C, 1, N)
    state = torch.zeros_like(arriving[:, :, 0])
    states = [state]
    for block in arriving.unbind(2)[:-1]:
        real, imag = state.unbind(2)
        state = block + torch.stack(times(lam, (real, imag)), dim=2)
        states.append(state)
    return torch.stack(states, dim=2)


def carry_state_by_doubling(arriving: Tensor, decay: Tensor, levels: int) -> Tensor:
    """:func:`carry_state` in a fixed number of operations, whatever the number of blocks.

    After ``i`` levels a state has seen the 2^i blocks before it; level ``i + 1`` adds, with decay
    lam^(Q 2^i), the state 2^i blocks earlier.  States so reach 2^levels blocks; beyond that they
    are taken as faded.
    """
    state = arriving[:, :, :-1].unbind(3)
    lam = decay[:, None, None, 0], decay[:, None, None, 1]  # (C, 1, 1, N)
    for level in range(levels):
        shift = 2**level
        earlier = times(lam, (state[0][:, :, :-shift], state[1][:, :, :-shift]))
        state = tuple(
            torch.cat([x[:, :, :shift], x[:, :, shift:] + e], dim=2) for x, e in zip(state, earlier)
        )
        lam = times(lam, lam)
    return nn.functional.pad(torch.stack(state, dim=3), (0, 0, 0, 0, 1, 0))


def step_block(u: Tensor, ops: BlockwiseOperators, state: Tensor) -> tuple[Tensor, Tensor]:
    """One block from the state before it: ``u`` (C, B, Q), ``state`` (C, B, 2N) -> output (C, B, Q)
    and the next state."""
    y = torch.baddbmm(torch.bmm(u, ops.toeplitz), state, ops.emit) + ops.skip[:, None, None] * u
    real, imag = state.chunk(2, dim=-1)
    carried = times((ops.decay[:, None, 0], ops.decay[:, None, 1]), (real, imag))
    return y, torch.cat(carried, dim=-1) + torch.bmm(u, ops.collect)
