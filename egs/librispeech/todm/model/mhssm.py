"""Multi-Head State Space Model (MH-SSM, arXiv 2305.12498): parallel heads of SSMs, gated between
heads."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from todm.model.adaptive_dropout import dropout_probability
from todm.model.blockwise import SSMOperators
from todm.model.gates import Gate
from todm.model.ssm import DiagonalSSM
from todm.subnet import is_leading
from utils.cpu_dropout import dropout


def head_time_scales(groups: int, dt_min: float, dt_max: float) -> list[tuple[float, float]]:
    """The interval that the initial time step of every head group is drawn from: neighbours on a
    log scale that together cover [dt_min, dt_max].

    Heads so start with different memories, from a few frames to the whole utterance (heterogeneous
    dynamics).
    """
    edges = [
        math.exp(math.log(dt_min) + i / groups * math.log(dt_max / dt_min))
        for i in range(groups + 1)
    ]
    return list(zip(edges[:-1], edges[1:]))


def channels_first(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer whose outputs come first, as SSMs have their channels: (B, T, in) -> (out, B,
    T).

    The product is made in that order, which saves a copy.  An exported graph, whose runtime wants
    weights as second factors, transposes instead.
    """
    if torch.onnx.is_in_onnx_export():
        return nn.functional.linear(x, weight, bias).permute(2, 0, 1)
    y = torch.addmm(bias[:, None], weight, x.flatten(0, 1).t())
    return y.unflatten(1, x.shape[:2])


def channels_last(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer whose inputs come first: (in, B, T) -> (B, T, out)."""
    if torch.onnx.is_in_onnx_export():
        return nn.functional.linear(x.permute(1, 2, 0), weight, bias)
    y = torch.addmm(bias, x.flatten(1).t(), weight.t())
    return y.unflatten(0, x.shape[1:])


class MultiHeadSSM(nn.Module):
    """The MH-SSM layer: (B, T, dim) -> (B, T, dim).

    LayerNorm; projection to H heads; in every head ``stack`` times an SSM in one or both
    directions, SiLU and a linear layer; inter-head gating; concatenation; output projection.  With
    ``gating`` the value head ``2g`` is multiplied by the sigmoid of the gating head ``2g+1``; such
    a pair is what a subnet keeps or leaves out, a *head group*.  Without gating a group is one
    head.  Bidirectional means concat(S4(u), reverse(S4(reverse(u)))).  Channels are ordered by
    group, so leading groups are leading slices, and the forward direction comes first.

    Shapes: B utterances, T frames, G kept head groups, H heads of them (2 G with gating), hd
    channels of a head, C = H hd channels, D directions, N modes of a channel.

    Args:
      groups: head groups that are built. max_groups: those of the largest net, over which the
        initial time steps are spread.
      modes: N. stack: SSMs one after the other in every head.
      dt_range: the interval of initial time steps, (dt_min, dt_max).
      dropout: p_max. adaptive: whether narrower subnets drop less.
    """

    def __init__(
        self,
        dim: int,
        head_dim: int,
        groups: int,
        gating: bool,
        modes: int,
        stack: int,
        bidirectional: bool,
        dt_range: tuple[float, float],
        dropout: float,
        adaptive: bool,
        max_groups: int | None = None,
    ):
        super().__init__()
        self.heads_per_group = 2 if gating else 1
        self.groups, self.head_dim, self.directions = groups, head_dim, 2 if bidirectional else 1
        self.dropout, self.adaptive = dropout, adaptive
        heads = groups * self.heads_per_group
        channels = heads * head_dim
        scales = head_time_scales(max_groups or groups, *dt_range)[:groups]
        per_channel = [s for s in scales for _ in range(self.heads_per_group * head_dim)]
        self.norm = nn.LayerNorm(dim, bias=False)
        self.project_in = nn.Linear(dim, channels)
        ssms = (
            DiagonalSSM(channels * self.directions, modes, per_channel * self.directions)
            for _ in range(stack)
        )
        self.ssms = cast(Sequence[DiagonalSSM], nn.ModuleList(ssms))
        bound = 1 / math.sqrt(self.directions * head_dim)
        self.mix_weight = nn.ParameterList(
            nn.Parameter(
                torch.empty(heads, self.directions, head_dim, head_dim).uniform_(-bound, bound)
            )
            for _ in range(stack)
        )
        self.mix_bias = nn.ParameterList(
            nn.Parameter(torch.empty(heads, head_dim).uniform_(-bound, bound)) for _ in range(stack)
        )
        self.project_out = nn.Linear(groups * head_dim, dim)

    def channel_index(
        self, kept: tuple[int, ...], per_group: int, device: torch.device
    ) -> slice | Tensor:
        """The indices of the kept head groups in something with ``per_group`` entries for every
        group."""
        if is_leading(kept):
            return slice(0, len(kept) * per_group)
        groups = torch.tensor(kept, device=device)
        return (groups[:, None] * per_group + torch.arange(per_group, device=device)).flatten()

    def kept_directions(self, causal: bool) -> int:
        """The directions of a subnet: all that there are, or of a causal one the first alone."""
        return 1 if causal else self.directions

    def ssm_index(
        self, kept: tuple[int, ...], causal: bool, device: torch.device
    ) -> slice | Tensor:
        """The indices of the kept head groups among the SSM's D C channels, which hold one
        direction after the other.

        Args:
          causal: whether the forward direction alone is kept.
        """
        width = self.heads_per_group * self.head_dim
        index = self.channel_index(kept, width, device)
        directions = self.kept_directions(causal)
        if directions == 1:
            return index
        one = torch.arange(self.groups * width, device=device)[index]
        return torch.cat([one + d * self.groups * width for d in range(directions)])

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        kept: tuple[int, ...],
        operators: Sequence[SSMOperators],
        states: list[Any] | None = None,
        gate: Gate | None = None,
        causal: bool = False,
    ) -> Tensor:
        """The layer with the kept head groups alone: (B, T, dim) -> (B, T, dim).

        Args:
          x: (B, T, dim). mask: (B, T) bool, True at real frames. kept: head groups.
          operators: of :attr:`ssms`, by make_operators.
          states: in streaming what the SSMs remember, complex (D C, B, N) each, replaced by what
            they remember after ``x``, which is one block of the operators; None: ``x`` is the whole
            utterance.
          gate: what learned selection multiplies every head group's part of the output by; all
            groups are kept then.
          causal: whether the backward direction of a dual supernet is left out.
        """
        weight: Tensor = self.project_in.weight
        bias: Tensor = self.project_in.bias
        out: Tensor = self.project_out.weight
        mixes = list(zip(self.mix_weight, self.mix_bias))
        # A subnet computes with its slices of the parameters.
        if len(kept) < self.groups:
            rows = self.channel_index(kept, self.heads_per_group * self.head_dim, x.device)
            heads = self.channel_index(kept, self.heads_per_group, x.device)
            weight, bias = weight[rows], bias[rows]
            out = out[:, self.channel_index(kept, self.head_dim, x.device)]
            mixes = [(w[heads], b[heads]) for w, b in mixes]
        directions = self.kept_directions(causal)
        if len(kept) < self.groups or directions < self.directions:
            operators = [ops.select(self.ssm_index(kept, causal, x.device)) for ops in operators]
        u = channels_first(self.norm(x), weight, bias)  # (B, T, dim) -> (C, B, T)
        # (C, B, T) -> (G hd, B, T)
        y = self.run_heads(u, mask, mixes, operators, states, directions)
        p = dropout_probability(self.dropout, len(kept), self.groups, self.adaptive)
        y = dropout(y.to(u.dtype), p, self.training)
        bias = self.project_out.bias
        if gate is not None:  # the gate of a group is one number for its hd channels
            y = y * gate.parts.repeat_interleave(self.head_dim)[:, None, None].to(y.dtype)
            bias = gate.shared * bias
        return channels_last(y, out, bias)  # (G hd, B, T) -> (B, T, dim)

    def run_heads(
        self,
        u: Tensor,
        mask: Tensor,
        mixes: list[tuple[Tensor, Tensor]],
        operators: Sequence[SSMOperators],
        states: list[Any] | None,
        directions: int,
    ) -> Tensor:
        """SSMs, mixing and inter-head gating of the kept heads, in fp32.

        (C, B, T) -> (G hd, B, T).
        """
        with torch.autocast(u.device.type, enabled=False):
            z = u.float() * mask.float()  # padding set to 0
            for i, ((weight, bias), ops) in enumerate(zip(mixes, operators)):
                if i > 0:  # a bias must not leak out of the padding into the reversed direction
                    z = z * mask.float()
                # every channel's SSM and SiLU, in every direction: (C, B, T) -> D of (C, B, T)
                if states is None:
                    outputs = self.run_ssm(z, ops, directions)
                else:
                    y, states[i] = ops.step(z, states[i])
                    outputs = [nn.functional.silu(y)]
                # every head's linear layer: D of (C, B, T) -> (C, B, T)
                z = self.mix(outputs, weight.float(), bias.float())
            # inter-head gating: (C, B, T) -> two of (G, hd, B, T) -> (G hd, B, T)
            if self.heads_per_group == 2:
                value, gating = z.unflatten(0, (-1, 2, self.head_dim)).unbind(1)
                z = (value * torch.sigmoid(gating)).flatten(0, 1)
        return z

    def run_ssm(self, z: Tensor, ops: SSMOperators, directions: int) -> list[Tensor]:
        """The SSMs over whole utterances, in every direction: (C, B, T) -> D of (C, B, T), each
        after SiLU."""
        if directions == 1:
            return [nn.functional.silu(ops.run(z))]
        # (2 C, B, T), the second half reversed
        y = nn.functional.silu(ops.run(torch.cat([z, z.flip(-1)])))
        forward, backward = y.chunk(2)  # (C, B, T) each
        return [forward, backward.flip(-1)]

    def mix(self, outputs: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        """Every head's linear layer, from its directions: D of (C, B, T) -> (C, B, T).

        Args:
          outputs: of the directions, of which a causal subnet of a dual supernet has the first.
          weight: (H, D or more, hd, hd). bias: (H, hd).
        """
        _, batch, length = outputs[0].shape
        z = bias[..., None]  # (H, hd, 1)
        for d, y in enumerate(outputs):
            y = y.reshape(-1, self.head_dim, batch * length)  # (C, B, T) -> (H, hd, B T)
            z = z + torch.bmm(weight[:, d].transpose(1, 2), y)
        return z.flatten(0, 1).unflatten(-1, (batch, length))  # (C, B, T)
