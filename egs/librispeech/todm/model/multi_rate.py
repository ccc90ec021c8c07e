"""Blocks at a lower frame rate: groups of consecutive blocks that see one frame for every 2, 4, ...
frames of the encoder, after the multi-rate stacks of Zipformer (arXiv 2310.11230, section 3.1)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Group(NamedTuple):
    """Consecutive blocks that run at one rate.

    Attributes:
      rate: encoder frames for one frame of the group. blocks: the numbers of its blocks.
    """

    rate: int
    blocks: range


def rate_groups(rates: list[int]) -> list[Group]:
    """The groups of blocks whose rates, one for every block, are given."""
    starts = [i for i in range(len(rates)) if i == 0 or rates[i] != rates[i - 1]]
    ends = [*starts[1:], len(rates)]
    return [Group(rates[a], range(a, b)) for a, b in zip(starts, ends)]


def common_multiple(rates: list[int]) -> int:
    """The number of encoder frames that every rate divides."""
    return math.lcm(*rates) if rates else 1


class LowerRate(nn.Module):
    """The way to a lower frame rate and back.

    Down: the mean of ``rate`` consecutive frames, weighted by the softmax of ``weight``.  Up: what
    a group of blocks adds to its frames is added to each of the frames that they are the mean of.
    All that a group does not change passes by it at the full rate, and a group whose blocks a
    subnet leaves out does nothing at all.
    """

    def __init__(self, rate: int):
        super().__init__()
        self.rate = rate
        # Equal weights. They are 1 rather than 0, because ScaledAdam's steps are as large as these.
        self.weight = nn.Parameter(torch.ones(rate))

    def down(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T / rate, dim), of real frames alone.

        Args:
          mask: (B, T) bool, True at real frames, by which a mean over fewer of them is a mean, too.
        """
        shape = x.shape[0], x.shape[1] // self.rate, self.rate
        kept = self.weight.softmax(0) * mask.reshape(shape)  # (B, T / rate, rate)
        kept = kept / kept.sum(-1, keepdim=True).clamp(min=1e-6)
        return (x.reshape(*shape, x.shape[2]) * kept.to(x.dtype)[..., None]).sum(2)

    def up(self, x: Tensor, change: Tensor) -> Tensor:
        """x (B, T, dim) and the change (B, T / rate, dim) that a group makes -> (B, T, dim)."""
        parts = x.reshape(x.shape[0], x.shape[1] // self.rate, self.rate, x.shape[2])
        return (parts + change[:, :, None]).reshape(x.shape)
