import math

import pytest
import torch
from torch import Tensor

from utils.alpha_divergence import adaptive_alpha_divergence, alpha_divergence, kl_divergence

ALPHAS = (-1.0, 0.5, 2.0, 0.0, 1.0)
UNCLIPPED = math.inf


def plain(teacher: Tensor, student: Tensor, alpha: float) -> Tensor:
    """D_alpha(p||q) of probabilities, as it is defined."""
    if alpha == 1:
        return (teacher * (teacher / student).log()).sum(-1)
    if alpha == 0:
        return (student * (student / teacher).log()).sum(-1)
    return ((student * (teacher / student) ** alpha).sum(-1) - 1) / (alpha * (alpha - 1))


def random_logits(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(6, 7, generator=generator, dtype=torch.float64) for _ in range(2))


def plain_gradient(teacher: Tensor, student: Tensor, alpha: float) -> Tensor:
    student = student.clone().requires_grad_()
    return torch.autograd.grad(
        plain(teacher.softmax(-1), student.softmax(-1), alpha).sum(), student
    )[0]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_value_is_the_definition(alpha):
    teacher, student = random_logits()
    value, _ = alpha_divergence(teacher.log_softmax(-1), student.log_softmax(-1), alpha, UNCLIPPED)
    torch.testing.assert_close(
        value.double(), plain(teacher.softmax(-1), student.softmax(-1), alpha), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("alpha", ALPHAS)
def test_surrogate_has_the_gradient_of_the_definition(alpha):
    teacher, student = random_logits()
    student.requires_grad_()
    _, surrogate = alpha_divergence(
        teacher.log_softmax(-1), student.log_softmax(-1), alpha, UNCLIPPED
    )
    surrogate.sum().backward()
    torch.testing.assert_close(
        student.grad, plain_gradient(teacher, student.detach(), alpha), rtol=1e-4, atol=1e-5
    )


def test_clipped_value_and_surrogate_by_hand():
    teacher, student = (
        torch.tensor([0.1, 0.3, 0.6]).log(),
        torch.tensor([0.7, 0.2, 0.1]).log().requires_grad_(),
    )
    value, surrogate = alpha_divergence(teacher, student, alpha=-1.0, clip=5.0)
    # r = min(q/p, 5) = 5, 2/3, 1/6
    assert value.item() == pytest.approx(0.7 * 2 + 0.2 * (1 / 3 - 1 / 2) + 0.1 * (1 / 12 - 1 / 2))
    weights = [0.7 * 4.5, 0.2 * (2 / 3 - 1 / 2), 0.1 * (1 / 6 - 1 / 2)]
    assert surrogate.item() == pytest.approx(
        sum(w * math.log(q) for w, q in zip(weights, (0.7, 0.2, 0.1)))
    )
    surrogate.backward()
    assert student.grad.tolist() == pytest.approx(weights)


@pytest.mark.parametrize(
    "alpha, weights",
    [
        (2.0, [0.5 * (0.64 / 2 + 1 / 2), 0.5 * (1.2 / 2 + 1 / 2)]),  # w^2 = 0.64, and 1.44 clipped
        (0.0, [0.5 * (math.log(0.8) - 1), 0.5 * (math.log(1.2) - 1)]),
        (1.0, [0.4, 0.6]),
    ],
)
def test_surrogate_weights_by_hand(alpha, weights):
    """q rho, with w = 0.8 and 1.2."""
    student = torch.tensor([0.5, 0.5]).log().requires_grad_()
    _, surrogate = alpha_divergence(torch.tensor([0.4, 0.6]).log(), student, alpha, clip=1.2)
    surrogate.backward()
    assert student.grad.tolist() == pytest.approx([-w for w in weights])


def test_kl_is_never_clipped():
    teacher, student = torch.tensor([0.99, 0.01]).log(), torch.tensor([0.01, 0.99]).log()
    value, _ = alpha_divergence(teacher, student, alpha=1.0, clip=5.0)
    assert value.item() == pytest.approx(0.98 * math.log(99), rel=1e-5)


def test_adaptive_takes_value_and_gradient_of_the_larger_per_softmax():
    teacher, student = random_logits(seed=1)
    student.requires_grad_()
    result = adaptive_alpha_divergence(
        teacher.log_softmax(-1), student.log_softmax(-1), -1.0, 1.0, UNCLIPPED
    )
    result.sum().backward()
    low, high = (plain(teacher.softmax(-1), student.detach().softmax(-1), a) for a in (-1.0, 1.0))
    assert 0 < (low > high).sum() < len(low)
    gradients = [plain_gradient(teacher, student.detach(), a) for a in (-1.0, 1.0)]
    torch.testing.assert_close(
        result.double().detach(), torch.maximum(low, high), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        student.grad, torch.where((low > high)[:, None], *gradients), rtol=1e-4, atol=1e-5
    )


def test_adaptive_compares_clipped_values():
    """Unclipped D_-1 is 202 and would win; clipped it is 1.76, less than KL."""
    teacher, student = torch.tensor([[0.002, 0.998]]).log(), torch.tensor([[0.9, 0.1]]).log()
    result = adaptive_alpha_divergence(teacher, student, -1.0, 1.0, clip=5.0)
    assert result.item() == pytest.approx(
        0.002 * math.log(0.002 / 0.9) + 0.998 * math.log(0.998 / 0.1), rel=1e-4
    )


def test_kl_divergence_against_torch():
    teacher, student = random_logits(seed=2)
    student.requires_grad_()
    divergence = kl_divergence(teacher.log_softmax(-1), student.log_softmax(-1)).sum()
    expected = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.softmax(-1), reduction="sum"
    )
    torch.testing.assert_close(divergence.double(), expected, rtol=1e-4, atol=1e-5)
    got, wanted = (torch.autograd.grad(x, student)[0] for x in (divergence, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_teacher_gets_no_gradient():
    teacher, student = (x.requires_grad_() for x in random_logits())
    adaptive_alpha_divergence(
        teacher.log_softmax(-1), student.log_softmax(-1), -1.0, 1.0, 5.0
    ).sum().backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


@pytest.mark.parametrize("clip", [5.0, UNCLIPPED])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_extreme_logits_stay_finite(alpha, clip):
    teacher = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4], [50.0, -50.0, 0.0]])
    student = teacher.flip(-1).requires_grad_()
    value, surrogate = alpha_divergence(
        teacher.log_softmax(-1), student.log_softmax(-1), alpha, clip
    )
    surrogate.sum().backward()
    assert value.isfinite().all() and surrogate.isfinite().all() and student.grad.isfinite().all()
