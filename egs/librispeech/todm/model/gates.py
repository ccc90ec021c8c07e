"""Gates of learned selection: numbers that the parts of the largest net are multiplied by, 1 for
kept, 0 for left out. They have nothing to do with the gating between the heads of an MH-SSM."""

from typing import NamedTuple

import torch
from torch import Tensor


class Gate(NamedTuple):
    """The gates of one module.

    Attributes:
      parts: (parts,), of the output of every part.
      shared: (), of what all parts share, the bias.
    """

    parts: Tensor
    shared: Tensor


class Gates(NamedTuple):
    """The gates of all blocks.

    Attributes:
      heads: (blocks, head groups) of the MH-SSMs. ffn: (blocks, chunks) of the FFNs.
      heads_shared, ffn_shared: (blocks,): the module's own gate, or where parts have gates of their
        own whether any is open.
    """

    heads: Tensor
    ffn: Tensor
    heads_shared: Tensor
    ffn_shared: Tensor

    def of_block(self, i: int) -> tuple[Gate, Gate]:
        """The gates of the SSM and of the FFN."""
        return Gate(self.heads[i], self.heads_shared[i]), Gate(self.ffn[i], self.ffn_shared[i])


def any_of(gate: Tensor) -> Tensor:
    """1 - prod(1 - gate) over the last dimension: whether anything of a module is kept, and with it
    what its parts share (a bias)."""
    return 1 - torch.prod(1 - gate.clamp(0, 1), dim=-1)
