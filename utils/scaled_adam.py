"""ScaledAdam, as icefall's zipformer recipe uses it."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from utils.scaled_adam_bundle import Bundle
from utils.scaled_adam_chunk import ElementStep

# Steps at which a first threshold is guessed, from few norms, before a whole period has passed.
EARLY_STEPS = (10, 20, 40)


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

    A missing gradient counts as zero.  The state of tensors of one shape is kept in one stack,
    under the first of them.

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
        self._bundles: dict[Tensor, Bundle] = {}

    def __getstate__(self) -> dict:
        """What copies and pickles of the optimiser have, besides all that every optimiser has."""
        own = {"clipping_scale": self.clipping_scale, "clipping_period": self.clipping_period}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict) -> None:
        """The inverse; :meth:`load_state_dict` uses it, too."""
        super().__setstate__(state)
        self._bundles = {}  # those of before have the state of before

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter."""
        if closure is not None:
            raise ValueError("ScaledAdam takes no closure")
        bundles = [
            [self._bundle(params) for params in _together(group)] for group in self.param_groups
        ]
        for group, of_group, factor in zip(self.param_groups, bundles, self._clip_factors(bundles)):
            for bundle in of_group:
                if not factor:
                    bundle.drop_gradients()
                self._update(group, bundle, factor)

    def _bundle(self, params: list[Tensor]) -> Bundle:
        """The bundle of these tensors, which is kept, with their present gradients."""
        bundle = self._bundles.get(params[0])
        if bundle is None or list(map(id, bundle.params)) != list(map(id, params)):
            bundle = self._bundles[params[0]] = Bundle(params, self.state)
        bundle.read()
        return bundle

    def _update(self, group: dict, bundle: Bundle, factor: float) -> None:
        """Updates tensors whose gradients clipping multiplies by a factor."""
        t, period = bundle.count_step(), group["size_update_period"]
        growth = None
        if group["scaled"] and not bundle.scalar:
            bundle.set_size_grads(torch.cat([bundle.size_grads, factor * bundle.products[None]]))
            if t % period == period - 1:
                bundle.rms.copy_(bundle.present_rms())
                bundle.sizes = []
                growth = self._size_step(group, bundle, (t + 1) // period)
        if not bundle.sizes:
            bundle.sizes = bundle.per_element(self._sizes(group, bundle))
        # Step 1 without an array v_hat: g / (sqrt(v / c) + eps) = root g / (sqrt(v) + root eps),
        # where c is the correction.
        correction = 1 - group["betas"][1] ** (t + 1)
        root = math.sqrt(correction) if correction < 0.99 else 1.0
        rate = -group["lr"] * factor * root
        bundle.move(ElementStep(rate, factor, group["betas"], group["eps"] * root), growth)
        if bundle.scalar:
            for p in bundle.params:
                p.clamp_(-group["scalar_max"], group["scalar_max"])

    def _sizes(self, group: dict, bundle: Bundle) -> Tensor:
        """What the step of every tensor is multiplied by besides the learning rate (N,)."""
        if bundle.scalar:
            return torch.full_like(bundle.grad_norms, group["scalar_lr_scale"])
        if not group["scaled"]:
            return torch.ones_like(bundle.grad_norms)
        return bundle.rms.clamp(min=group["param_min_rms"])

    def _size_step(self, group: dict, bundle: Bundle, k: int) -> Tensor:
        """Step 3's s, the relative change of every tensor's size (N,)."""
        h, w, size = bundle.size_grads, bundle.size_second_moment, bundle.rms
        b = group["betas"][1] ** group["size_update_period"]
        w.mul_(b).add_(h.square().mean(0), alpha=1 - b)
        s = (
            -group["scalar_lr_scale"]
            * group["lr"]
            * math.sqrt(1 - b**k)
            * h.sum(0)
            / (w.sqrt() + group["eps"])
        )
        bundle.set_size_grads(h[:0])
        s = torch.where(size < group["param_min_rms"], 0.0, s).clamp(-0.1, 0.1)
        return torch.minimum(s, (group["param_max_rms"] - size) / size.clamp(min=1e-20))

    def _clip_factors(self, bundles: list[list[Bundle]]) -> list[float]:
        """The factors that every group's gradients are multiplied by in this step; keeps the
        histories of norms."""
        norms = [
            torch.linalg.vector_norm(torch.cat([self._weighted_norms(group, x) for x in of_group]))
            for group, of_group in zip(self.param_groups, bundles)
            if of_group
        ]
        # The other groups have nothing to step; one transfer from the device for all that have.
        values = iter(torch.stack(norms).tolist() if norms else [])
        return [
            self._clip_factor(group, next(values) if of_group else 0.0)
            for group, of_group in zip(self.param_groups, bundles)
        ]

    def _weighted_norms(self, group: dict, bundle: Bundle) -> Tensor:
        """What every tensor adds to the norm that clipping looks at (N,)."""
        return bundle.grad_norms * (group["scalar_lr_scale"] if bundle.scalar else bundle.rms)

    def _clip_factor(self, group: dict, norm: float) -> float:
        """The factor of one group; keeps its history in ``group["clipping"]``, where checkpoints
        have it."""
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

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads a state, as every optimiser does.

        Checkpoints that have one history of norms for all groups say nothing about any of them:
        every group then begins a new one, and clips again after ten steps.
        """
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "clipping"})
        for group in self.param_groups:
            # Checkpoints from before this key have groups without it.
            group.setdefault("scaled", True)


def _together(group: dict) -> list[list[Tensor]]:
    """The tensors of a group that are updated together: those with more than one element, and those
    with one. The tensors of an unscaled group go one by one, and wait where they have no gradient,
    so that Adam's means begin with the first gradient."""
    if not group["scaled"]:
        return [[p] for p in group["params"] if p.grad is not None]
    scalars = [p for p in group["params"] if p.numel() == 1]
    others = [p for p in group["params"] if p.numel() != 1]
    return [tensors for tensors in (others, scalars) if tensors]
