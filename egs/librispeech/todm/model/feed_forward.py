"""The feed-forward module of a block, elastic in its width."""

import torch
from torch import Tensor, nn

from todm.model.adaptive_dropout import dropout_probability
from todm.model.gates import Gate
from todm.subnet import is_leading
from utils.cpu_dropout import dropout


class FeedForward(nn.Module):
    """The feed-forward module: LayerNorm, up, SiLU, dropout, down, with any of its chunks of hidden
    channels: (B, T, dim) -> (B, T, dim).

    Args:
      chunk_dim: hidden channels in a chunk.
      chunks: number of chunks c_max.
      dropout: p_max; with ``adaptive`` a subnet of width c drops with p_c = p_max c / c_max (TODM's
        adaptive dropout).
    """

    def __init__(self, dim: int, chunk_dim: int, chunks: int, dropout: float, adaptive: bool):
        super().__init__()
        self.chunk_dim, self.chunks, self.dropout, self.adaptive = (
            chunk_dim,
            chunks,
            dropout,
            adaptive,
        )
        self.norm = nn.LayerNorm(dim, bias=False)
        self.up = nn.Linear(dim, chunk_dim * chunks)
        self.down = nn.Linear(chunk_dim * chunks, dim)

    def forward(self, x: Tensor, kept: tuple[int, ...], gate: Gate | None = None) -> Tensor:
        """The module with the kept chunks alone: (B, T, dim) -> (B, T, dim).

        Args:
          gate: what learned selection multiplies every chunk's part of the output by; all chunks
            are kept then.
        """
        up: Tensor = self.up.weight
        bias: Tensor = self.up.bias
        down: Tensor = self.down.weight
        if len(kept) < self.chunks:
            index = self.hidden_index(kept, x.device)
            up, bias, down = up[index], bias[index], down[:, index]
        p = dropout_probability(self.dropout, len(kept), self.chunks, self.adaptive)
        # (B, T, dim) -> (B, T, kept chunks * chunk_dim)
        hidden = nn.functional.silu(nn.functional.linear(self.norm(x), up, bias))
        hidden = dropout(hidden, p, self.training)
        if gate is None:
            return nn.functional.linear(hidden, down, self.down.bias)
        return (
            nn.functional.linear(
                hidden * gate.parts.repeat_interleave(self.chunk_dim).to(hidden.dtype), down
            )
            + gate.shared * self.down.bias
        )

    def hidden_index(self, kept: tuple[int, ...], device: torch.device) -> slice | Tensor:
        """The indices of the kept chunks' hidden channels, for both sides of the FFN."""
        if is_leading(kept):
            return slice(0, len(kept) * self.chunk_dim)
        chunks = torch.tensor(kept, device=device)
        return (
            chunks[:, None] * self.chunk_dim + torch.arange(self.chunk_dim, device=device)
        ).flatten()
