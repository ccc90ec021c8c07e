"""Multi-Head State Space Model (MH-SSM, arXiv 2305.12498): parallel heads of SSMs, gated between
heads."""

import math

import torch
from torch import Tensor, nn

from todm.model.adaptive_dropout import dropout_probability
from todm.model.gates import Gate
from todm.model.ssm import BlockwiseOperators, DiagonalSSM, blockwise, step_block
from todm.subnet import is_leading
from utils.cpu_dropout import dropout


def head_time_scales(groups: int, dt_min: float, dt_max: float) -> list[tuple[float, float]]:
    """Intervals of the initial time step, one per head group: neighbours on a log scale that cover
    [dt_min, dt_max].

    Heads so start with different memories, from a few frames to the whole utterance (heterogeneous
    dynamics).
    """
    edges = [
        math.exp(math.log(dt_min) + i / groups * math.log(dt_max / dt_min))
        for i in range(groups + 1)
    ]
    return list(zip(edges[:-1], edges[1:]))


class MultiHeadSSM(nn.Module):
    """The MH-SSM layer: (B, T, dim) -> (B, T, dim).

    LayerNorm; projection to H heads; per head ``stack`` times: SSM in one or both directions, SiLU,
    linear; gating; concatenation; output projection.  With ``gating`` head ``2g`` (value) is
    multiplied by sigmoid of head ``2g+1`` (gate); such a pair is the elastic unit, a *head group*.
    Without gating a group is one head.  Bidirectional means concat(S4(u), reverse(S4(reverse(u)))).
     Channels are ordered by group, so leading groups are leading slices.
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
        self.ssms = nn.ModuleList(
            DiagonalSSM(channels * self.directions, modes, per_channel * self.directions)
            for _ in range(stack)
        )
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
        """Indices of the kept groups in something with ``per_group`` entries for every group."""
        if is_leading(kept):
            return slice(0, len(kept) * per_group)
        groups = torch.tensor(kept, device=device)
        return (groups[:, None] * per_group + torch.arange(per_group, device=device)).flatten()

    def ssm_index(self, kept: tuple[int, ...], device: torch.device) -> Tensor:
        """Indices of the kept groups among the SSM's channels, which hold one direction after the
        other."""
        width = self.heads_per_group * self.head_dim
        one = torch.arange(self.groups * width, device=device)[
            self.channel_index(kept, width, device)
        ]
        return torch.cat([one + d * self.groups * width for d in range(self.directions)])

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        kept: tuple[int, ...],
        operators: list[BlockwiseOperators],
        states: list[Tensor] | None = None,
        gate: Gate | None = None,
    ) -> Tensor:
        """Args:
        x: (B, T, dim). mask: (B, T) bool, True at real frames. kept: head groups. operators: of
          :attr:`ssms`, by make_operators.
        states: streaming: what the SSMs remember, (C, B, 2N) each, replaced by what they remember
          after ``x``, which is one block of the operators; None: ``x`` is the whole utterance.
        gate: what every head group's part of the output is multiplied by (learned selection); all
          are kept then.
        """
        weight, bias, out = self.project_in.weight, self.project_in.bias, self.project_out.weight
        mixes = list(zip(self.mix_weight, self.mix_bias))
        if len(kept) < self.groups:
            rows = self.channel_index(kept, self.heads_per_group * self.head_dim, x.device)
            heads = self.channel_index(kept, self.heads_per_group, x.device)
            weight, bias = weight[rows], bias[rows]
            out = out[:, self.channel_index(kept, self.head_dim, x.device)]
            mixes = [(w[heads], b[heads]) for w, b in mixes]
            operators = [ops.select(self.ssm_index(kept, x.device)) for ops in operators]
        u = nn.functional.linear(self.norm(x), weight, bias)
        y = self.heads(u, mask, mixes, operators, states)  # (B, T, kept * head_dim)
        p = dropout_probability(self.dropout, len(kept), self.groups, self.adaptive)
        y = dropout(y.to(u.dtype), p, self.training)
        if gate is None:
            return nn.functional.linear(y, out, self.project_out.bias)
        return (
            nn.functional.linear(y * gate.parts.repeat_interleave(self.head_dim).to(y.dtype), out)
            + gate.shared * self.project_out.bias
        )

    def heads(
        self,
        u: Tensor,
        mask: Tensor,
        mixes: list[tuple[Tensor, Tensor]],
        operators: list[BlockwiseOperators],
        states: list[Tensor] | None,
    ) -> Tensor:
        """SSMs, mixing and gating of the kept heads, in fp32: (B, T, C) -> (B, T, C /
        heads_per_group)."""
        batch, length, _ = u.shape
        with torch.autocast(u.device.type, enabled=False):
            z = u.float().permute(2, 0, 1) * mask.float()  # (C, B, T)
            for i, ((weight, bias), ops) in enumerate(zip(mixes, operators)):
                if i > 0:  # a bias must not leak out of the padding into the reversed direction
                    z = z * mask.float()
                if states is None:
                    y = self.run_ssm(z, ops)
                else:
                    y, states[i] = step_block(z, ops, states[i])
                z = self.mix(y, weight.float(), bias.float())
            if self.heads_per_group == 2:
                value, gate = z.unflatten(0, (-1, 2, self.head_dim)).unbind(1)  # (G, hd, B, T)
                z = (value * torch.sigmoid(gate)).flatten(0, 1)
        return z.flatten(1).t().unflatten(0, (batch, length))

    def run_ssm(self, z: Tensor, ops: BlockwiseOperators) -> Tensor:
        """(C, B, T) -> (directions * C, B, T)."""
        if self.directions == 1:
            return blockwise(z, ops)
        y = blockwise(torch.cat([z, z.flip(-1)]), ops)
        forward, backward = y.chunk(2)
        return torch.cat([forward, backward.flip(-1)])

    def mix(self, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """SiLU, then every head's linear layer from its directions: (directions * C, B, T) -> (C,
        B, T)."""
        _, batch, length = y.shape
        y = nn.functional.silu(y).view(self.directions, -1, self.head_dim, batch * length)
        z = bias[..., None]  # (H, hd, 1)
        for d in range(self.directions):
            z = z + torch.bmm(weight[:, d].transpose(1, 2), y[d])
        return z.flatten(0, 1).unflatten(-1, (batch, length))
