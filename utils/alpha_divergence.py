"""Alpha-divergence distillation (AlphaNet, arXiv 2102.07954), over the last dimension, in fp32 log
space.

D_a(p||q) = (sum_v q w^a - 1) / (a (a - 1)) with w = p/q, p the teacher, q the student; a -> 1 is
KL(p||q), a -> 0 is KL(q||p).  The gradient is taken through log q alone: G_a = -sum_v sg(q rho_a)
log q, rho_a = w^a / a + 1 / (a (a-1)), rho_1 = w, rho_0 = log w - 1, with w^a clipped to [0, beta]
both in the value and in rho (not for a = 1).
"""

import torch
from torch import Tensor

LARGEST_EXPONENT = 80.0  # exp() of more overflows fp32


def alpha_divergence(
    teacher: Tensor, student: Tensor, alpha: float, clip: float
) -> tuple[Tensor, Tensor]:
    """One alpha-divergence, D_a(p||q), and its surrogate.

    Args:
      teacher, student: log-probabilities (..., V), normalised.
      alpha: order; 1 and 0 are the limits KL(p||q) and KL(q||p).
      clip: beta.
    Returns:
      The value (...,), detached, and a surrogate (...,) whose gradient with respect to the student
      is G_a's.
    """
    p, q = teacher.detach().float(), student.float()
    log_w = p - q.detach()
    if alpha == 1:
        weight = p.exp()
        return (weight * log_w).sum(-1), -(weight * q).sum(-1)
    prob = q.detach().exp()
    if alpha == 0:
        weight, value = prob * (log_w - 1), -(prob * log_w).sum(-1)
    else:
        power = (alpha * log_w).clamp(max=LARGEST_EXPONENT).exp().clamp(max=clip)
        weight = prob * (power / alpha + 1 / (alpha * (alpha - 1)))
        value = ((prob * power).sum(-1) - 1) / (alpha * (alpha - 1))
    return value, -(weight * q).sum(-1)


def adaptive_alpha_divergence(
    teacher: Tensor, student: Tensor, alpha_minus: float, alpha_plus: float, clip: float
) -> Tensor:
    """The larger of D_{alpha_minus} and D_{alpha_plus} for every softmax: (..., V) twice -> (...,).

    The result has the value of the larger one and the gradient of its surrogate.
    """
    low_value, low = alpha_divergence(teacher, student, alpha_minus, clip)
    high_value, high = alpha_divergence(teacher, student, alpha_plus, clip)
    use_low = low_value > high_value
    surrogate = torch.where(use_low, low, high)
    return surrogate + (torch.where(use_low, low_value, high_value) - surrogate).detach()


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(p||q): (..., V) twice -> (...,), with its gradient with respect to the student."""
    value, surrogate = alpha_divergence(teacher, student, 1.0, 0.0)
    return surrogate + (value - surrogate).detach()
