import math

import pytest
import torch
from torch import Tensor

from tests.helpers import make_targets
from todm.config.keys import DistillConfig, MethodConfig
from todm.training.distillation import LatticeDistillation
from utils import pruned_rnnt_torch as transducer_loss_torch
from utils.pruned_rnnt import Targets, TransducerLoss

VOCAB, WINDOW = 5, 3
TARGETS = make_targets([[3, 1, 4], [2]], [4, 3])
RANGES = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])[..., None] + torch.arange(WINDOW)


def random_logits(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 4, WINDOW, VOCAB, generator=generator) for _ in range(2))


def make(
    distill: str = "alpha",
    lattice: str = "full",
    targets: Targets = TARGETS,
    rnnt_type: str = "regular",
) -> LatticeDistillation:
    return LatticeDistillation(
        MethodConfig(distill=distill, lattice=lattice), DistillConfig(), RANGES, targets, rnnt_type
    )


def distil(distillation: LatticeDistillation, teacher: Tensor, student: Tensor) -> Tensor:
    return distillation(distillation.log_probs(teacher), distillation.log_probs(student))


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)


def alpha(p: list[float], q: list[float]) -> float:
    """The larger of KL and of D_-1 with ratios of at most 5."""
    return max(kl(p, q), sum(b * (min(b / a, 5) - 1) / 2 for a, b in zip(p, q) if b > 0))


def three_classes(probs: list[float], next_symbol: int | None) -> list[float]:
    """Next symbol, blank, the rest; after the last symbol there is no next one."""
    symbol = 0.0 if next_symbol is None else probs[next_symbol]
    return [symbol, probs[0], sum(probs) - probs[0] - symbol]


def plain(teacher: Tensor, student: Tensor, divergence, collapsed: bool) -> float:
    """Node by node: the mean over each frame's nodes, summed over frames and utterances."""
    total = 0.0
    for b, (symbols, frames) in enumerate([([3, 1, 4], 4), ([2], 3)]):
        for t in range(frames):
            nodes = []
            for r, s in enumerate(RANGES[b, t].tolist()):
                if s > len(symbols):
                    continue
                p, q = (x[b, t, r].double().softmax(-1).tolist() for x in (teacher, student))
                if collapsed:
                    p, q = (
                        three_classes(x, symbols[s] if s < len(symbols) else None) for x in (p, q)
                    )
                nodes.append(divergence(p, q))
            total += sum(nodes) / len(nodes)
    return total


@pytest.mark.parametrize("lattice", ["full", "collapsed"])
@pytest.mark.parametrize("distill, divergence", [("alpha", alpha), ("kl", kl)])
def test_value_against_a_loop_over_nodes(distill, divergence, lattice):
    teacher, student = random_logits()
    got = distil(make(distill, lattice), 2 * teacher, 2 * student)
    assert got.item() == pytest.approx(
        plain(2 * teacher, 2 * student, divergence, lattice == "collapsed"), rel=1e-4
    )


def test_collapsed_classes_by_hand():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]).log().expand(2, 4, WINDOW, VOCAB)
    classes = make(lattice="collapsed").log_probs(logits).exp()
    assert classes[0, 0, 0].tolist() == pytest.approx([0.15, 0.1, 0.75])  # next is 3
    assert classes[0, 2, 0].tolist() == pytest.approx(
        [0.2, 0.1, 0.7]
    )  # the window starts at 1, next is 1
    assert classes[1, 1, 1].tolist() == pytest.approx([0.0, 0.1, 0.9])  # after the only symbol


@pytest.mark.parametrize("rnnt_type", ["regular", "modified", "constrained"])
def test_only_nodes_that_some_path_uses_are_compared(rnnt_type):
    """Those whose logits the loss has a gradient for, all windows being wide enough for any
    path."""
    targets = make_targets([[3, 1, 4], [2], [3, 1, 2, 4]], [5, 3, 4])
    ranges = torch.arange(5).expand(3, 5, 5)
    logits = torch.randn(
        3, 5, 5, VOCAB, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    loss = TransducerLoss(transducer_loss_torch, 5, 0.0, 0.0, rnnt_type).pruned(
        logits, ranges, targets
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    distillation = LatticeDistillation(MethodConfig(), DistillConfig(), ranges, targets, rnnt_type)
    assert torch.equal(distillation.mask, gradient.abs().sum(-1) > 1e-6)


@pytest.mark.parametrize("lattice", ["full", "collapsed"])
def test_padding_does_not_matter(lattice):
    """Frames after the end, nodes after the last symbol, padded symbols: no part in value or
    gradient."""
    teacher, student = random_logits()
    other_targets = Targets(torch.tensor([[3, 1, 4], [2, 4, 4]]), TARGETS.lengths, TARGETS.frames)
    padding = torch.zeros(2, 4, WINDOW, dtype=torch.bool)
    padding[1, 3] = padding[1, :, 2] = True
    results = []
    for shift, targets in ((0.0, TARGETS), (20.0, other_targets)):
        changed = (student + shift * padding[..., None] * torch.arange(VOCAB)).requires_grad_()
        loss = distil(make(lattice=lattice, targets=targets), teacher, changed)
        (gradient,) = torch.autograd.grad(loss, changed)
        assert (gradient[padding] == 0).all() and (gradient[~padding].abs().sum(-1) > 0).all()
        results.append(loss)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("lattice", ["full", "collapsed"])
@pytest.mark.parametrize("distill", ["alpha", "kl"])
def test_a_student_like_its_teacher_has_nothing_to_learn(distill, lattice):
    teacher, _ = random_logits()
    student = teacher.clone().requires_grad_()
    loss = distil(make(distill, lattice), teacher, student)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0, abs=1e-5) and gradient.abs().max() < 1e-5


@pytest.mark.parametrize("lattice", ["full", "collapsed"])
def test_confident_nets_stay_finite(lattice):
    teacher, student = (200 * x for x in random_logits())
    student.requires_grad_()
    loss = distil(make(lattice=lattice), teacher, student)
    assert loss.isfinite() and torch.autograd.grad(loss, student)[0].isfinite().all()
