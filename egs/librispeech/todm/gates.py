"""Gates of learned selection: numbers that the parts of the largest net are multiplied by, 1 for kept, 0 for left out."""

from typing import NamedTuple

import torch
from torch import Tensor


class Gates(NamedTuple):
    """Attributes: heads: (blocks, head groups) of the MH-SSMs. ffn: (blocks, chunks) of the FFNs."""

    heads: Tensor
    ffn: Tensor


def any_of(gate: Tensor) -> Tensor:
    """1 - prod(1 - gate) over the last dimension: whether anything of a module is kept, and with it what its parts share (a bias)."""
    return 1 - torch.prod(1 - gate.clamp(0, 1), dim=-1)
