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
    """The divergence that ``method.distill`` names, between log-probabilities: (..., V) twice ->
    (...)."""
    if method.distill == "kl":
        return kl_divergence(teacher, student)
    return adaptive_alpha_divergence(
        teacher, student, config.alpha_minus, config.alpha_plus, config.clip
    )


class LatticeDistillation:
    """The divergence of a student from its teacher over the nodes of one batch's pruned lattice.

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
        # the nodes that count, (B, T, R): of real frames, with at most as many symbols as there are
        self.mask = targets.real_frames(ranges.shape[1])[..., None] & (
            ranges <= targets.lengths[:, None, None]
        )
        if rnnt_type != "regular":
            self.mask &= _within_reach(ranges, targets, rnnt_type)
        # the next symbol at every node: (B, S + 1) taken at (B, T, R) -> (B, T, R); at the end of
        # the transcript there is none
        batch = torch.arange(len(ranges), device=ranges.device)[:, None, None]
        self.symbol = torch.nn.functional.pad(targets.symbols, (0, 1))[batch, ranges]
        self.at_end = ranges >= targets.lengths[:, None, None]

    def log_probs(self, logits: Tensor) -> Tensor:
        """The log-probabilities of the classes that are compared, in fp32: logits (B, T, R, V) ->
        (B, T, R, V or 3)."""
        log_probs = logits.float().log_softmax(-1)
        if self.method.lattice == "full":
            return log_probs
        # the next symbol, blank, and what is left of the probability: (B, T, R) each
        blank = log_probs[..., BLANK]
        symbol = log_probs.gather(-1, self.symbol[..., None])[..., 0].masked_fill(
            self.at_end, IMPOSSIBLE
        )
        rest = torch.log1p(-(blank.exp() + symbol.exp()).clamp(max=1 - 1e-6))
        return torch.stack([symbol, blank, rest], dim=-1)

    def __call__(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The divergence, summed over frames, of the mean over the nodes of every frame.

        Args:
          teacher, student: by :meth:`log_probs`, (B, T, R, V or 3).
        """
        # (B, T, R, classes) twice -> (B, T, R)
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
