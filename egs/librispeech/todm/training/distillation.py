"""In-place distillation on the pruned transducer lattice: the largest net teaches, every subnet
learns."""

import torch
from torch import Tensor

from todm.config.keys import DistillConfig, MethodConfig
from utils.alpha_divergence import adaptive_alpha_divergence, kl_divergence
from utils.pruned_rnnt import Targets
from utils.tokens import BLANK

IMPOSSIBLE = -30.0  # log-probability of a class that a node does not have


def node_divergence(
    method: MethodConfig, config: DistillConfig, teacher: Tensor, student: Tensor
) -> Tensor:
    """The divergence that ``method.distill`` names, of log-probabilities (..., V) -> (...)."""
    if method.distill == "kl":
        return kl_divergence(teacher, student)
    return adaptive_alpha_divergence(
        teacher, student, config.alpha_minus, config.alpha_plus, config.clip
    )


class LatticeDistillation:
    """Divergence of student from teacher over the nodes of one batch's pruned lattice.

    Teacher and student share pruning ranges, so their logits (B, T, R, V) are of the same nodes.
    ``full`` compares the whole softmax; ``collapsed`` (arXiv 2011.06110) three classes: the next
    symbol, blank, everything else.

    Args:
      rnnt_type: of the lattice, as :class:`~utils.pruned_rnnt.TransducerLoss` has it.
    """

    def __init__(
        self,
        method: MethodConfig,
        config: DistillConfig,
        ranges: Tensor,
        targets: Targets,
        rnnt_type: str = "regular",
    ):
        self.method, self.config = method, config
        self.mask = targets.real_frames(ranges.shape[1])[..., None] & (
            ranges <= targets.lengths[:, None, None]
        )  # (B, T, R)
        if rnnt_type != "regular":
            self.mask &= _within_reach(ranges, targets, rnnt_type)
        batch = torch.arange(len(ranges), device=ranges.device)[:, None, None]
        self.symbol = torch.nn.functional.pad(targets.symbols, (0, 1))[batch, ranges]  # (B, T, R)
        self.at_end = ranges >= targets.lengths[:, None, None]  # no next symbol there

    def log_probs(self, logits: Tensor) -> Tensor:
        """Logits (B, T, R, V) -> log-probabilities of the classes that are compared, (B, T, R, V or
        3), in fp32."""
        log_probs = logits.float().log_softmax(-1)
        if self.method.lattice == "full":
            return log_probs
        blank = log_probs[..., BLANK]
        symbol = log_probs.gather(-1, self.symbol[..., None])[..., 0].masked_fill(
            self.at_end, IMPOSSIBLE
        )
        rest = torch.log1p(-(blank.exp() + symbol.exp()).clamp(max=1 - 1e-6))
        return torch.stack([symbol, blank, rest], dim=-1)

    def __call__(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Sum over frames of the mean over the frame's nodes; both of :meth:`log_probs`."""
        divergence = node_divergence(self.method, self.config, teacher, student).masked_fill(
            ~self.mask, 0.0
        )
        return (divergence.sum(-1) / self.mask.sum(-1).clamp(min=1)).sum()


def _within_reach(ranges: Tensor, targets: Targets, rnnt_type: str) -> Tensor:
    """The nodes that some path uses where a frame emits one symbol at most, (B, T, R): no more
    symbols than frames came before them, nor are to come.  In the constrained lattice a symbol also
    uses the node above it, whose blank ends the frame."""
    frame = torch.arange(ranges.shape[1], device=ranges.device)[:, None]
    symbols_left, frames_left = (
        targets.lengths[:, None, None] - ranges,
        targets.frames[:, None, None] - frame,
    )
    return (ranges <= frame + (rnnt_type == "constrained")) & (symbols_left <= frames_left)
