"""Diagonal state space model (S4D, arXiv 2206.11893) in three forms that agree: blockwise, convolution, recurrence.

For one channel with complex modes ``n = 1..N`` (each stands for itself and its conjugate)::

    x'(t) = A x(t) + u(t)        y(t) = 2 Re(C x(t)) + D u(t)

Zero-order hold with step ``dt`` gives, with ``lam = exp(dt A)`` and ``B = (lam - 1) / A``::

    x[l] = lam x[l-1] + B u[l]                                    recurrence  -> :meth:`DiagonalSSM.step`
    K[l] = 2 Re sum_n C_n B_n lam_n^l ,  y = K * u + D u          convolution -> :meth:`DiagonalSSM.convolve`

The blockwise form, which training uses, cuts the sequence into blocks of ``Q`` frames: inside a block it is a
product with a Q x Q Toeplitz matrix, between blocks the state of the recurrence is carried.  Work and memory
are linear in the length and all of it is batched matrix products.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

BLOCK = 32  # frames in a block of the blockwise form


class BlockwiseOperators(NamedTuple):
    """What the blockwise form needs of the parameters; made once per step, shared by every subnet. C = channels."""

    toeplitz: Tensor  # (C, Q, Q)  inside a block: y[i] += sum_j toeplitz[j, i] u[j]
    collect: Tensor   # (C, Q, 2N) a block's inputs -> its contribution to the state at its end, [re, im]
    decay: Tensor     # (C, 2, N)  lam^Q as [re, im]
    emit: Tensor      # (C, 2N, Q) the state before a block -> the block's outputs
    skip: Tensor      # (C,)       D

    def select(self, channels: Tensor) -> "BlockwiseOperators":
        """The operators of some channels only: an index tensor (C',)."""
        return BlockwiseOperators(*(x[channels] for x in self))


class DiagonalSSM(nn.Module):
    """S4D over independent channels, all parameters and arithmetic in fp32.

    Args:
      channels: number of channels C.
      modes: complex modes N per channel (a state of 2N real numbers).
      dt_ranges: per channel the interval ``(dt_min, dt_max)`` its time step is drawn from, log-uniformly.
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
        # Complex normal as in S4D, over sqrt(modes): a channel's output does not grow with the size of its state.
        self.c = nn.Parameter(torch.randn(channels, modes, 2) * math.sqrt(0.5 / modes))  # [re, im]
        self.d = nn.Parameter(torch.randn(channels))

    def discretise(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(dt A, B, C)`` of the zero-order hold, each complex (C, N); ``lam = exp(dt A)``."""
        a = torch.complex(-self.log_a_real.float().exp(), self.a_imag.float())
        dt_a = self.log_dt.float().exp()[:, None] * a
        return dt_a, (dt_a.exp() - 1) / a, torch.view_as_complex(self.c.float().contiguous())

    def kernel(self, length: int) -> Tensor:
        """The convolution kernel K, (C, length), written straight from its definition."""
        dt_a, b, c = self.discretise()
        powers = torch.exp(dt_a[..., None] * torch.arange(length, device=dt_a.device))  # (C, N, L)
        return 2 * torch.einsum("cn,cnl->cl", c * b, powers).real

    def convolve(self, u: Tensor) -> Tensor:
        """Convolution form by FFT: ``u`` (..., C, T) -> (..., C, T)."""
        length = u.shape[-1]
        spectrum = torch.fft.rfft(u.float(), 2 * length) * torch.fft.rfft(self.kernel(length), 2 * length)
        return torch.fft.irfft(spectrum, 2 * length)[..., :length] + self.d.float()[:, None] * u

    def initial_state(self, batch: int) -> Tensor:
        """The zero state of the recurrent form, complex (batch, C, N)."""
        return torch.zeros(batch, *self.a_imag.shape, dtype=torch.complex64, device=self.a_imag.device)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Recurrent form, one frame: ``u`` (B, C), ``state`` (B, C, N) -> output (B, C) and the next state."""
        dt_a, b, c = self.discretise()
        state = dt_a.exp() * state + b * u.float()[..., None]
        return 2 * (c * state).sum(-1).real + self.d.float() * u, state


def make_operators(ssms: list[DiagonalSSM]) -> list[BlockwiseOperators]:
    """Everything the blockwise form needs, from the parameters alone, of several SSMs with equally many modes at once."""
    dt_a, b, c = (torch.cat(x) for x in zip(*(ssm.discretise() for ssm in ssms)))
    powers = powers_of_exp(dt_a, BLOCK + 1)  # (C, N, Q+1): lam^0 .. lam^Q
    weight = (2 * c * b)[..., None]
    kernel = (weight * powers[..., :BLOCK]).real.sum(1)  # (C, Q)
    inputs = powers[..., :BLOCK].flip(-1).transpose(1, 2)  # (C, Q, N): lam^(Q-1-j)
    outputs = weight * powers[..., 1:]  # (C, N, Q): 2 C B lam^(i+1)
    last = powers[..., BLOCK]
    together = BlockwiseOperators(
        toeplitz=causal_toeplitz(kernel),
        collect=torch.cat([inputs.real, inputs.imag], dim=-1),
        decay=torch.stack([last.real, last.imag], dim=1),
        emit=torch.cat([outputs.real, -outputs.imag], dim=1),
        skip=torch.cat([ssm.d.float() for ssm in ssms]),
    )
    sizes = [ssm.d.numel() for ssm in ssms]
    return [BlockwiseOperators(*parts) for parts in zip(*(x.split(sizes) for x in together))]


def causal_toeplitz(kernel: Tensor) -> Tensor:
    """(C, Q) -> (C, Q, Q) with [c, j, i] = kernel[c, i - j], 0 where i < j.

    Rows of [kernel, zeros] of length 2Q, read again with a row length of 2Q - 1, shift by one each; this has a
    cheap gradient, which indexing would not.
    """
    size = kernel.shape[1]
    rows = nn.functional.pad(kernel, (0, size))[:, None].expand(-1, size, -1).flatten(1)
    return rows[:, : size * (2 * size - 1)].unflatten(1, (size, 2 * size - 1))[..., :size]


def powers_of_exp(x: Tensor, count: int) -> Tensor:
    """exp(0 x), exp(1 x), ..., exp((count - 1) x) of a complex tensor: (...) -> (..., count).

    By exp((r a + b) x) = exp(r a x) exp(b x), which needs about 2 sqrt(count) exponentials instead of count.
    """
    radix = math.isqrt(count - 1) + 1
    index = torch.arange(radix, device=x.device)
    fine, coarse = torch.exp(x[..., None] * index), torch.exp(x[..., None] * (radix * index))
    return (coarse[..., None] * fine[..., None, :]).flatten(-2)[..., :count]


def blockwise(u: Tensor, ops: BlockwiseOperators) -> Tensor:
    """Blockwise form: ``u`` (C, B, T) float32 -> (C, B, T), causal, from the zero state."""
    channels, batch, length = u.shape
    blocks = -(-length // BLOCK)
    x = nn.functional.pad(u, (0, blocks * BLOCK - length)).reshape(channels, batch * blocks, BLOCK)
    y = torch.bmm(x, ops.toeplitz)
    if blocks > 1:
        arriving = torch.bmm(x, ops.collect).unflatten(1, (batch, blocks)).unflatten(-1, (2, -1))
        before = carry_state(arriving, ops.decay).reshape(channels, batch * blocks, -1)  # (C, B*blocks, 2N)
        y = torch.baddbmm(y, before, ops.emit)
    y = y.reshape(channels, batch, blocks * BLOCK)[..., :length]
    return y + ops.skip[:, None, None] * u


def carry_state(arriving: Tensor, decay: Tensor) -> Tensor:
    """States before each block: h[c+1] = lam^Q h[c] + arriving[c], h[0] = 0.

    Args:
      arriving: (C, B, blocks, 2, N) contribution of each block, [re, im].
      decay: (C, 2, N).
    Returns:
      (C, B, blocks, 2, N).
    """
    real, imag = decay[:, None, 0], decay[:, None, 1]  # (C, 1, N)
    state = torch.zeros_like(arriving[:, :, 0])
    states = [state]
    for block in arriving.unbind(2)[:-1]:
        re, im = state.unbind(2)
        state = block + torch.stack([real * re - imag * im, real * im + imag * re], dim=2)
        states.append(state)
    return torch.stack(states, dim=2)
