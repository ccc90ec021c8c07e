"""Diagonal state space model (S4D, arXiv 2206.11893): its parameters, and its convolution and
recurrence.

For one channel with complex modes ``n = 1..N`` (each stands for itself and its conjugate)::

    x'(t) = A x(t) + u(t)        y(t) = 2 Re(C x(t)) + D u(t)

Zero-order hold with step ``dt`` gives, with ``lam = exp(dt A)`` and ``B = (lam - 1) / A``::

    x[l] = lam x[l-1] + B u[l]                                    recurrence: DiagonalSSM.step
    K[l] = 2 Re sum_n C_n B_n lam_n^l ,  y = K * u + D u          convolution: DiagonalSSM.convolve

Training and exported models use a third form, which agrees with these two:
:mod:`todm.model.blockwise`.
"""

import math

import torch
from torch import Tensor, nn


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

    def discretise(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(dt A, B, C)`` of the zero-order hold, each complex (C, N); ``lam = exp(dt A)``, ``B =
        (lam - 1) / A``."""
        return discretise(self.log_dt, self.log_a_real, self.a_imag, self.c)

    def kernel(self, length: int) -> Tensor:
        """The convolution kernel K, (C, length), written straight from its definition."""
        dt_a, b, c = self.discretise()
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
        dt_a, b, c = self.discretise()
        state = dt_a.exp() * state + b * u.float()[..., None]
        return 2 * (c * state).sum(-1).real + self.d.float() * u, state


def discretise(
    log_dt: Tensor, log_a_real: Tensor, a_imag: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The zero-order hold of the parameters of :class:`DiagonalSSM`: complex ``(dt A, B, C)``,
    (C, N) each, in fp32."""
    a = torch.complex(-log_a_real.float().exp(), a_imag.float())
    dt_a = log_dt.float().exp()[:, None] * a
    return dt_a, (exp(dt_a) - 1) / a, torch.view_as_complex(c.float().contiguous())


def exp(x: Tensor) -> Tensor:
    """The complex exponential, by real functions, which are several times faster on a CPU."""
    return torch.polar(x.real.exp(), x.imag)
