"""ScaledAdam, as icefall's zipformer recipe uses it."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

# Steps at which a first threshold is guessed, from few norms, before a whole period has passed.
EARLY_STEPS = (10, 20, 40)


def rms(x: Tensor) -> Tensor:
    """The root mean square of every tensor of a stack: (n, ...) -> (n, 1, ...)."""
    return x.square().mean(dim=tuple(range(1, x.ndim)), keepdim=True).sqrt()


class ScaledAdam(Optimizer):
    """Adam whose steps are proportional to the size of each tensor, and which also learns that
    size.

    For a tensor p with gradient g after clipping, t counted from 0 (one-element tensors: lr *
    scalar_lr_scale, and no steps 2 and 3)::

        1. v = b2 v + (1 - b2) g^2
           d = -lr g / (sqrt(v_hat) + eps)
           with v_hat = v / (1 - b2^(t+1)) while that divisor is < 0.99, then v
        2. d *= max(rms(p), param_min_rms), the rms refreshed every size_update_period steps
        3. every size_update_period steps, from h = sum(p g) of each of those steps:
           w = b w + (1 - b) mean(h^2), b = b2^period
           s = -scalar_lr_scale lr sqrt(1 - b^k) sum(h) / (sqrt(w) + eps)
           d += p clamp(s, -0.1, 0.1), limited so that rms(p) stays at most param_max_rms
        4. m = b1 m + (1 - b1) d ;  p += m

    A missing gradient counts as zero.  Tensors of one shape are updated as one stack.

    Clipping, in every group by itself: the norm is sqrt(sum |g rms(p)|^2 + sum over one-element
    tensors (scalar_lr_scale g)^2). The first step's is not kept.  At every multiple of
    clipping_period, and at t = 10, 20 and 40 with a further factor of 2, the threshold becomes
    clipping_scale times the median of the norms of the last clipping_period (10, 20, 40) steps; the
    gradients are then scaled down to it.  Before t = 10 nothing is clipped.  A norm that is not
    finite zeroes the group's gradients, and counts in the median as a large one.

    Args:
      clipping_scale: the threshold in medians of recent norms; 0: never clip.
      scaled: a key of a group, by default True. False: plain Adam for tensors whose size is no
        scale to learn by: steps do not scale with the rms, a tensor without gradient waits, and
        gradients neither count in the norm nor are clipped.
      clipping_period: number of norms the median is taken from; also how often it is refreshed.

    Raises:
      FloatingPointError: by :meth:`step`, when the norms of half of the recent steps were not
        finite.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        scalar_lr_scale: float = 0.1,
        param_min_rms: float = 1e-5,
        param_max_rms: float = 3.0,
        scalar_max: float = 10.0,
        size_update_period: int = 4,
        clipping_scale: float = 2.0,
        clipping_period: int = 100,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "scalar_lr_scale": scalar_lr_scale,
                "param_min_rms": param_min_rms,
                "param_max_rms": param_max_rms,
                "scalar_max": scalar_max,
                "size_update_period": size_update_period,
                "scaled": True,
            },
        )
        self.clipping_scale, self.clipping_period = clipping_scale, clipping_period

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """Update every parameter."""
        if closure is not None:
            raise ValueError("ScaledAdam takes no closure")
        stacks = [
            [(params, *self._stack(params)) for params in _stacked(group)]
            for group in self.param_groups
        ]
        for group, of_group, factor in zip(self.param_groups, stacks, self._clip_factors(stacks)):
            for params, p, grad in of_group:
                # what is not finite would not become zero by a factor
                grad = grad * factor if factor else torch.zeros_like(grad)
                update = self._update(group, self._state(params, p), p, grad)
                for target, new in zip(params, update.unbind()):
                    target.copy_(new)

    def _stack(self, params: list[Tensor]) -> tuple[Tensor, Tensor]:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        return torch.stack([p.float() for p in params]), torch.stack([g.float() for g in grads])

    def _state(self, params: list[Tensor], p: Tensor) -> dict:
        state = self.state[params[0]]  # the state of a stack is kept under its first parameter
        if not state:
            state.update(step=0, momentum=torch.zeros_like(p), second_moment=torch.zeros_like(p))
            if params[0].numel() > 1:
                shape = (len(params),) + (1,) * (p.ndim - 1)
                state.update(
                    rms=rms(p),
                    size_grads=p.new_zeros(0, *shape),
                    size_second_moment=p.new_zeros(shape),
                )
        return state

    def _update(self, group: dict, state: dict, p: Tensor, grad: Tensor) -> Tensor:
        """The new values of a stack of tensors (n, ...)."""
        t, lr, eps, (beta1, beta2) = state["step"], group["lr"], group["eps"], group["betas"]
        scalar = p[0].numel() == 1
        state["step"] = t + 1
        v = state["second_moment"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        correction = 1 - beta2 ** (t + 1)
        v_hat = v / correction if correction < 0.99 else v
        delta = -lr * (group["scalar_lr_scale"] if scalar else 1.0) * grad / (v_hat.sqrt() + eps)
        if not scalar and group["scaled"]:
            period = group["size_update_period"]
            size_grad = (p * grad).sum(dim=tuple(range(1, p.ndim)), keepdim=True)
            state["size_grads"] = torch.cat([state["size_grads"], size_grad[None]])
            refresh = t % period == period - 1
            if refresh:
                state["rms"] = rms(p)
            delta = delta * state["rms"].clamp(min=group["param_min_rms"])
            if refresh:
                delta = delta + p * self._size_step(group, state, (t + 1) // period)
        p = p + state["momentum"].mul_(beta1).add_(delta, alpha=1 - beta1)
        return p.clamp(-group["scalar_max"], group["scalar_max"]) if scalar else p

    def _size_step(self, group: dict, state: dict, k: int) -> Tensor:
        """Step 3's s, the relative change of every tensor's size."""
        h, w, size = state["size_grads"], state["size_second_moment"], state["rms"]
        b = group["betas"][1] ** group["size_update_period"]
        w.mul_(b).add_(h.square().mean(0), alpha=1 - b)
        s = (
            -group["scalar_lr_scale"]
            * group["lr"]
            * math.sqrt(1 - b**k)
            * h.sum(0)
            / (w.sqrt() + group["eps"])
        )
        state["size_grads"] = h[:0]
        s = torch.where(size < group["param_min_rms"], 0.0, s).clamp(-0.1, 0.1)
        return torch.minimum(s, (group["param_max_rms"] - size) / size.clamp(min=1e-20))

    def _clip_factors(self, stacks: list[list[tuple[list[Tensor], Tensor, Tensor]]]) -> list[float]:
        """The factors that every group's gradients are multiplied by in this step; keeps the
        histories of norms."""
        squares = [
            sum((grad * self._weight(group, params)).square().sum() for params, _, grad in of_group)
            for group, of_group in zip(self.param_groups, stacks)
        ]
        # The other groups have nothing to step; one transfer from the device for all that have.
        present = [x for x in squares if isinstance(x, Tensor)]
        values = iter(torch.stack(present).tolist() if present else [])
        norms = [next(values) ** 0.5 if isinstance(x, Tensor) else 0.0 for x in squares]
        return [self._clip_factor(group, norm) for group, norm in zip(self.param_groups, norms)]

    def _clip_factor(self, group: dict, norm: float) -> float:
        """One group's factor, and its history in ``group["clipping"]``, where checkpoints have
        it."""
        finite = math.isfinite(norm)
        if not group["scaled"] or not self.clipping_scale:
            return float(finite)
        history = group.setdefault("clipping", {"step": 0, "norms": [], "threshold": math.inf})
        step, early = history["step"], [t for t in EARLY_STEPS if t < self.clipping_period]
        history["step"] = step + 1
        if step > 0:
            history["norms"] = (history["norms"] + [norm if finite else math.inf])[
                -self.clipping_period :
            ]
            if step % self.clipping_period == 0 or step in early:
                ordered = sorted(history["norms"])
                median = ordered[len(ordered) // 4 * 2]
                if not math.isfinite(median):
                    raise FloatingPointError(
                        f"half of the last {len(ordered)} steps had gradients that are not finite"
                    )
                history["threshold"] = (
                    self.clipping_scale * median * (2.0 if step in early else 1.0)
                )
        threshold = history["threshold"] if step >= EARLY_STEPS[0] else math.inf
        return min(1.0, threshold / (norm + 1e-20)) if finite else 0.0

    def _weight(self, group: dict, params: list[Tensor]) -> Tensor | float:
        if params[0].numel() == 1:
            return group["scalar_lr_scale"]
        state = self.state.get(params[0])
        return state["rms"] if state else rms(torch.stack([p.detach().float() for p in params]))

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state, as every optimiser does.

        Checkpoints that have one history of norms for all groups say nothing about any of them:
        every group then begins a new one, and clips again after ten steps.
        """
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "clipping"})
        for group in self.param_groups:
            # Checkpoints from before this key have groups without it.
            group.setdefault("scaled", True)


def _stacked(group: dict) -> list[list[Tensor]]:
    """A group's tensors by shape; those of an unscaled group one by one where they have a gradient,
    so that Adam's means begin with its first."""
    if not group["scaled"]:
        return [[p] for p in group["params"] if p.grad is not None]
    stacks: dict[torch.Size, list[Tensor]] = {}
    for p in group["params"]:
        stacks.setdefault(p.shape, []).append(p)
    return list(stacks.values())
