"""Dropout that is cheap on a CPU, where drawing one random number per element is most of its
cost."""

import torch
from torch import Tensor
from torch.nn.functional import dropout as plain_dropout


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout of every element as torch has it; on a CPU p is rounded to a multiple of 1/256.

    There eight elements share one 64-bit random number, a byte each.  What stays is scaled by the
    exact probability of staying, so that the mean is kept.
    """
    if not training or p <= 0 or x.device.type != "cpu":
        return plain_dropout(x, p, training)
    threshold = round(p * 256)
    if threshold in (0, 256):
        return x if threshold == 0 else x * 0
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    keep = (words.view(torch.uint8)[: x.numel()] >= threshold).view(x.shape)
    return x * (keep * (256 / (256 - threshold))).to(x.dtype)
