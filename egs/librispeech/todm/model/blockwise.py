"""The blockwise form of diagonal state space models (:mod:`todm.model.ssm`), which training uses.

The sequence is cut into blocks of ``Q`` frames: inside a block the SSM is a product with a Q x Q
Toeplitz matrix, between blocks the state of the recurrence is carried.  Work and memory are linear
in the length, and nearly all of it is batched matrix products.

With ``lam = exp(dt A)``, ``W = 2 C B`` and the state kept as its conjugate ``h``, so that a product
with real matrices gives real parts, a block of inputs ``u[0..Q-1]`` does::

    y[i] = sum_{j<=i} K[i-j] u[j] + Re(sum_n W_n lam_n^(i+1) conj(h_n)) + D u[i]
    h   <- conj(lam)^Q h + sum_j conj(lam)^(Q-1-j) u[j]        K[l] = Re(sum_n W_n lam_n^l)
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from todm.model.ssm import DiagonalSSM, discretise, exp

BLOCK = 16  # frames in a block of the blockwise form, in training and decoding


class SSMOperators(Protocol):
    """An SSM ready to run: :class:`BlockwiseOperators`, or what an exported graph has for them."""

    def run(self, u: Tensor) -> Tensor:
        """Whole sequences from the zero state: ``u`` (C, B, T) -> (C, B, T)."""

    def step(self, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One block (C, B, Q) from the state before it -> its output and the next state."""

    def select(self, channels: slice | Tensor) -> "SSMOperators":
        """The operators of some channels only: a slice, or an index tensor (C',)."""


class BlockwiseOperators(NamedTuple):
    """The parameters in the form that the blockwise form uses; made once per step and shared by
    every subnet.  C channels, Q frames in a block, N modes; a state is N complex numbers, or 2N
    real ones, [re, im] of one mode after the other."""

    toeplitz: Tensor  # (C, Q, Q)  inside a block: y[i] += sum_j toeplitz[j, i] u[j]
    collect: Tensor  # (C, Q, 2N)  a block's inputs -> their part of the state at its end
    decay: Tensor  # (C, N)        complex, conj(lam)^Q
    emit: Tensor  # (C, 2N, Q)     the state before a block -> the block's outputs
    skip: Tensor  # (C,)           D

    def select(self, channels: slice | Tensor) -> "BlockwiseOperators":
        """The operators of some channels only: a slice, or an index tensor (C',)."""
        return BlockwiseOperators(*(x[channels] for x in self))

    def run(self, u: Tensor) -> Tensor:
        """Whole sequences from the zero state: ``u`` (C, B, T) float32 -> (C, B, T), causal."""
        channels, batch, length = u.shape
        block = self.toeplitz.shape[1]
        blocks = (length + block - 1) // block
        x = nn.functional.pad(u, (0, blocks * block - length)).reshape(
            channels, batch * blocks, block
        )
        y = torch.bmm(x, self.toeplitz)
        if blocks > 1:
            arriving = as_complex(torch.bmm(x, self.collect)).view(channels, batch, blocks, -1)
            before = carry_state(arriving, self.decay)
            y = torch.baddbmm(
                y, torch.view_as_real(before).reshape(channels, batch * blocks, -1), self.emit
            )
        y = y.reshape(channels, batch, -1)[..., :length]
        return torch.addcmul(y, self.skip[:, None, None], u)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One block from the state before it: ``u`` (C, B, Q), ``state`` complex (C, B, N) ->
        output (C, B, Q) and the next state."""
        inside = torch.baddbmm(
            torch.bmm(u, self.toeplitz), torch.view_as_real(state).flatten(2), self.emit
        )
        arriving = as_complex(torch.bmm(u, self.collect))
        return (
            torch.addcmul(inside, self.skip[:, None, None], u),
            torch.addcmul(arriving, self.decay[:, None], state),
        )


def as_complex(x: Tensor) -> Tensor:
    """Pairs of real and imaginary parts as complex numbers: (..., 2N) -> (..., N)."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def carry_state(arriving: Tensor, decay: Tensor) -> Tensor:
    """States before each block: h[c+1] = decay h[c] + arriving[c], h[0] = 0.

    Args:
      arriving: complex (C, B, blocks, N), the contribution of each block. decay: complex (C, N).
    Returns:
      complex (C, B, blocks, N).
    """
    decay = decay[:, None]  # (C, 1, N)
    states = [torch.zeros_like(arriving[:, :, 0])]
    for block in arriving.unbind(2)[:-1]:
        states.append(torch.addcmul(block, decay, states[-1]))
    return torch.stack(states, dim=2)


def make_operators(ssms: list[DiagonalSSM], block: int = BLOCK) -> list[BlockwiseOperators]:
    """Make the operators of several SSMs with equally many modes at once, from their parameters
    alone.

    Args:
      block: Q, the frames in a block.
    """
    log_dt, log_a_real, a_imag, c, d = (
        torch.cat(same)
        for same in zip(*((s.log_dt, s.log_a_real, s.a_imag, s.c, s.d) for s in ssms))
    )
    dt_a, b, c = discretise(log_dt, log_a_real, a_imag, c)
    sizes = [ssm.d.numel() for ssm in ssms]
    parts = (x.split(sizes) for x in (dt_a, 2 * c * b, d.float()))
    return [_operators(log_lam, weight, skip, block) for log_lam, weight, skip in zip(*parts)]


def _operators(log_lam: Tensor, weight: Tensor, skip: Tensor, block: int) -> BlockwiseOperators:
    """The operators of one SSM, from log lam and W, complex (C, N) each, and D (C,)."""
    kernel, collect, decay, emit = Powers.apply(log_lam, weight, block)
    return BlockwiseOperators(causal_toeplitz(kernel), collect, decay, emit.transpose(1, 2), skip)


def causal_toeplitz(kernel: Tensor) -> Tensor:
    """(C, Q) -> (C, Q, Q) with [c, j, i] = kernel[c, i - j], 0 where i < j.

    Rows of [kernel, zeros] of length 2Q, read again with a row length of 2Q - 1, shift by one each;
    this has a cheap gradient, which indexing would not.
    """
    size = kernel.shape[1]
    rows = nn.functional.pad(kernel, (0, size))[:, None].expand(-1, size, -1).flatten(1)
    return rows[:, : size * (2 * size - 1)].unflatten(1, (size, 2 * size - 1))[..., :size]


class Powers(torch.autograd.Function):
    """The operators that are made of the powers of lam, with their gradient in closed form: kernel
    (C, Q), collect (C, Q, 2N), decay (C, N) and emit (C, Q, 2N), which is transposed afterwards.

    With H_l the gradient that arrives at W lam^l, as a complex number, and J_l that at lam^l, the
    gradients are, from dL = Re(sum_l H_l d(W lam^l) + J_l d lam^l)::

        W: conj(sum_l H_l lam^l)        log lam: conj(sum_l l (W H_l + J_l) lam^l)

    Four sums over l are all there is to do; what autograd keeps and makes of the products one by
    one is several times as much.
    """

    @staticmethod
    def forward(ctx: Any, log_lam: Tensor, weight: Tensor, block: int) -> tuple[Tensor, ...]:
        """Log lam and W, complex (C, N) each, and Q."""
        powers = powers_of(exp(log_lam), block)  # (C, Q+1, N): lam^0 .. lam^Q
        emitted = powers[:, 1:] * weight[:, None]  # (C, Q, N): W lam^(i+1)
        later = emitted.real.sum(-1)  # K[1] .. K[Q]
        kernel = torch.cat([weight.real.sum(-1, keepdim=True), later[:, :-1]], dim=1)
        from_end = powers[:, :block].flip(1)  # lam^(Q-1-j)
        ctx.save_for_backward(powers, weight, from_end)
        return (
            kernel,
            torch.view_as_real(from_end.conj().resolve_conj()).flatten(2),
            powers[:, block].conj().resolve_conj(),
            torch.view_as_real(emitted).flatten(2),
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, kernel: Tensor, collect: Tensor, decay: Tensor, emit: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        """The gradients of log lam and W."""
        powers, weight, from_end = ctx.saved_tensors
        block = kernel.shape[1]
        steps = torch.arange(1, block + 1, dtype=kernel.dtype, device=kernel.device)
        # H_1 .. H_Q at W lam^l; emit's real and imaginary part are those of W lam^l, so that its
        # gradient is the conjugate of H
        arriving = as_complex(emit.clone(memory_format=torch.contiguous_format))
        arriving.real[:, :-1] += kernel[:, 1:, None]
        products = torch.view_as_real(arriving.conj() * powers[:, 1:]).flatten(2)  # (C, Q, 2N)
        sums = torch.matmul(torch.stack([torch.ones_like(steps), steps]), products)  # (C, 2, 2N)
        plain, stepped = as_complex(sums).unbind(1)  # (C, N) each
        # J at lam^(Q-1-j): collect is the conjugate of lam^l, so that its gradient is J itself
        products = torch.view_as_real(as_complex(collect.contiguous()) * from_end).flatten(2)
        stepped_collect = as_complex(torch.matmul((steps - 1).flip(0), products))
        log_lam = weight * stepped + stepped_collect + block * decay * powers[:, block]
        return log_lam.conj(), (plain + kernel[:, :1]).conj(), None


def powers_of(x: Tensor, count: int) -> Tensor:
    """x^0, x^1, ..., x^count: complex (C, N) -> (C, count + 1, N), by doubling."""
    powers = torch.empty(x.shape[0], count + 1, x.shape[1], dtype=x.dtype, device=x.device)
    powers[:, 0], powers[:, 1] = 1, x
    known = 1
    while known < count:
        more = min(known, count - known)
        torch.mul(
            powers[:, 1 : more + 1],
            powers[:, known : known + 1],
            out=powers[:, known + 1 : known + more + 1],
        )
        known += more
    return powers
