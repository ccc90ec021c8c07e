import io
import math
import statistics

import pytest
import torch
from torch import Tensor, nn

from utils.scaled_adam import ScaledAdam

BETA1, BETA2, EPS, SCALAR_LR, MIN_RMS, MAX_RMS, SCALAR_MAX, PERIOD = (
    0.9,
    0.98,
    1e-8,
    0.1,
    1e-5,
    3.0,
    10.0,
    4,
)
Numbers = list[float]


class PlainTensor:
    """One tensor's ScaledAdam, number by number in float64."""

    def __init__(self, values: Numbers, lr: float):
        self.p, self.lr, self.t = list(values), lr, 0
        self.m, self.v = [0.0] * len(values), [0.0] * len(values)
        self.h, self.w = [], 0.0
        self.rms = self.present_rms()

    @property
    def scalar(self) -> bool:
        return len(self.p) == 1

    def present_rms(self) -> float:
        return math.sqrt(sum(x * x for x in self.p) / len(self.p))

    def weighted_square(self, g: Numbers) -> float:
        """The tensor's part of the squared norm that clipping looks at."""
        weight = SCALAR_LR if self.scalar else self.rms
        return sum((weight * x) ** 2 for x in g)

    def step(self, g: Numbers) -> None:
        refresh = self.t % PERIOD == PERIOD - 1
        if refresh:
            self.rms = self.present_rms()
        self.h.append(sum(x * y for x, y in zip(self.p, g)))
        growth = self.growth() if refresh and not self.scalar else 0.0
        correction = 1 - BETA2 ** (self.t + 1)
        for i, x in enumerate(g):
            self.v[i] = BETA2 * self.v[i] + (1 - BETA2) * x * x
            v_hat = self.v[i] / correction if correction < 0.99 else self.v[i]
            d = -self.lr * x / (math.sqrt(v_hat) + EPS)
            d = d * SCALAR_LR if self.scalar else d * max(self.rms, MIN_RMS) + self.p[i] * growth
            self.m[i] = BETA1 * self.m[i] + (1 - BETA1) * d
        self.p = [x + m for x, m in zip(self.p, self.m)]
        if self.scalar:
            self.p = [min(max(self.p[0], -SCALAR_MAX), SCALAR_MAX)]
        self.t += 1

    def growth(self) -> float:
        """The relative change of the tensor's size."""
        b, k = BETA2**PERIOD, (self.t + 1) // PERIOD
        self.w = b * self.w + (1 - b) * statistics.fmean(h * h for h in self.h)
        s = -0.1 * self.lr * math.sqrt(1 - b**k) * sum(self.h) / (math.sqrt(self.w) + EPS)
        self.h = []
        if self.rms < MIN_RMS:
            return 0.0
        return min(max(min(s, 0.1), -0.1), (MAX_RMS - self.rms) / self.rms)


class PlainScaledAdam:
    """One parameter group: its clipping, and one PlainTensor for each tensor."""

    def __init__(self, tensors: list[PlainTensor], period: int = 100):
        self.tensors, self.period, self.t = tensors, period, 0
        self.ring, self.threshold = [0.0] * period, math.inf  # of norms; zeros where none was yet
        self.factors = []

    def step(self, grads: list[Numbers | None]) -> None:
        grads = [g or [0.0] * len(x.p) for x, g in zip(self.tensors, grads)]
        factor = (
            self.clip_factor(
                math.sqrt(sum(x.weighted_square(g) for x, g in zip(self.tensors, grads)))
            )
            if self.t
            else 1.0
        )
        self.factors.append(factor)
        self.t += 1
        for tensor, g in zip(self.tensors, grads):
            tensor.step([x * factor for x in g])

    def clip_factor(self, norm: float) -> float:
        self.ring[self.t % self.period] = norm
        guess = self.t in (10, 20, 40) and self.t < self.period
        if guess or self.t % self.period == 0:
            norms = sorted(self.ring)
            if guess:
                norms = norms[-self.t :]  # without the zeros
            self.threshold = (
                2.0 * norms[min(len(norms) - 1, len(norms) // 4 * 2)] * (2.0 if guess else 1.0)
            )
        return 1.0 if self.t < 10 else min(1.0, self.threshold / (norm + 1e-20))


def parameters() -> list[nn.Parameter]:
    """Two stacked 2 x 3 tensors, a vector of zeros, one near the largest size, and scalars, one of
    them near its bound."""
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.randn(2, 3, generator=generator),
        0.1 * torch.randn(2, 3, generator=generator),
        torch.zeros(4),
        torch.full((5,), 2.95),
        torch.tensor([0.5]),
        torch.tensor([9.9]),
    ]
    return [nn.Parameter(v) for v in values]


def gradients(step: int) -> list[Tensor | None]:
    """A function of the step alone, with bursts that clipping must catch (the last two's at other
    steps) and one that is missing now and then."""
    generator = torch.Generator().manual_seed(step)
    bursts = [30.0 if step % 17 == 16 else 1.0] * 4 + [300.0 if step % 11 in (0, 1) else 10.0] * 2
    drift = [
        0.0,
        0.5,
        0.3,
        -0.5,
        0.0,
        -1.0,
    ]  # the last but two grows to its bound, the last one too
    grads = [
        burst * (torch.randn(p.shape, generator=generator) * (0.5 + 0.01 * step) + d)
        for p, d, burst in zip(parameters(), drift, bursts)
    ]
    return [None if i == 1 and step % 5 == 3 else g for i, g in enumerate(grads)]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    for p, g in zip(params, gradients(step)):
        p.grad = g


def make_optimizer(params: list[nn.Parameter], lr: float) -> ScaledAdam:
    return ScaledAdam([{"params": params[:4]}, {"params": params[4:], "lr": lr / 2}], lr=lr)


@pytest.mark.parametrize("lr, steps", [(0.03, 270), (0.5, 24)])
def test_steps_against_a_scalar_loop(lr, steps):
    """Two groups, of which the second's gradients are bigger and burst at other steps: each clips
    by its own norms."""
    params = parameters()
    optimizer = make_optimizer(params, lr)
    tensors = [
        PlainTensor(p.flatten().tolist(), lr if i < 4 else lr / 2) for i, p in enumerate(params)
    ]
    plain = [PlainScaledAdam(tensors[:4]), PlainScaledAdam(tensors[4:])]
    for step in range(steps):
        grads = gradients(step)
        for p, g in zip(params, grads):
            p.grad = g
        optimizer.step()
        values = [None if g is None else g.flatten().tolist() for g in grads]
        plain[0].step(values[:4])
        plain[1].step(values[4:])
        for p, tensor in zip(params, tensors):
            assert p.flatten().tolist() == pytest.approx(tensor.p, rel=1e-4, abs=3e-5), (
                f"step {step}"
            )
    clipped = [{t for t, factor in enumerate(group.factors) if factor < 1} for group in plain]
    assert all(len(x) >= steps // 30 for x in clipped) and clipped[0] != clipped[1]


@pytest.mark.parametrize("period", [1, 3, 7, 10, 15, 45, 100])
def test_thresholds_against_a_ring_of_norms(period):
    """Also where a period ends before or with the early steps, and has no middle."""
    p, q = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = ScaledAdam([{"params": [p]}, {"params": [q]}], lr=1e-6, clipping_period=period)
    plain = [PlainScaledAdam([PlainTensor(x.tolist(), 1e-6)], period) for x in (p, q)]
    generator = torch.Generator().manual_seed(period)
    factors: list[list[float]] = []
    clip_factors = optimizer._clip_factors
    optimizer._clip_factors = lambda stacks: factors.append(clip_factors(stacks)) or factors[-1]
    for step in range(230):
        for x, group in zip((p, q), plain):
            x.grad = torch.randn(x.shape, generator=generator).exp() * (
                10 if step % 9 == len(x) else 1
            )
            group.step([x.grad.tolist()])
        optimizer.step()
    assert torch.tensor(factors).T.tolist() == [
        pytest.approx(group.factors, rel=1e-5) for group in plain
    ]
    assert period == 1 or all(min(group.factors[11:]) < 0.9 for group in plain)


def test_learned_scores_are_neither_counted_nor_clipped():
    """An unscaled group, however large its gradients, changes nothing for the others, and moves as
    if alone."""
    results = []
    for names in (["p"], ["p", "scores"], ["scores"]):
        tensors = {"p": nn.Parameter(torch.ones(3)), "scores": nn.Parameter(torch.ones(3))}
        optimizer = ScaledAdam(
            [{"params": [tensors[n]], "scaled": n == "p"} for n in names], lr=0.01
        )
        for step in range(60):
            for p, size in ((tensors["p"], 1), (tensors["scores"], 1e6)):
                p.grad = (
                    size * (50 if step % 7 == 6 else 1) * torch.tensor([1.0, -2.0, 0.5 + step % 3])
                )
            optimizer.step()
        results.append(tensors)
    assert torch.equal(results[0]["p"], results[1]["p"]) and torch.equal(
        results[1]["scores"], results[2]["scores"]
    )


def test_a_parameter_group_may_lift_the_size_bound():
    """As the trainer does for the imaginary parts of A, whose size is far above 3."""
    bounded, free = (nn.Parameter(torch.full((4,), 8.0)) for _ in range(2))
    optimizer = ScaledAdam(
        [{"params": [bounded]}, {"params": [free], "param_max_rms": math.inf}], lr=0.01
    )
    for _ in range(4):
        bounded.grad, free.grad = -torch.ones(4), -torch.ones(4)
        optimizer.step()
    assert (bounded < 8.0).all() and (free > 8.0).all()


@pytest.mark.parametrize("shapes", [[(), (1,)], [(1, 1), (1,), ()]])
def test_one_element_tensors_of_any_shape_go_together(shapes):
    params = [nn.Parameter(torch.full(shape, 2.0)) for shape in shapes]
    plain = PlainTensor([2.0], 0.1)
    optimizer = ScaledAdam(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    plain.step([1.0])
    assert [p.item() for p in params] == pytest.approx(plain.p * len(shapes))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_gradients_are_as_if_missing_in_their_group(bad):
    """And the other group goes on."""
    results = []
    for broken in (True, False):
        params = parameters()
        optimizer = make_optimizer(params, 0.03)
        for step in range(8):
            set_gradients(params, step)
            if step in (0, 5):
                for p in params[:4]:
                    p.grad = None
                params[0].grad = torch.full((2, 3), bad) if broken else None
            optimizer.step()
        results.append(params)
    for a, b in zip(*results):
        assert a.isfinite().all() and torch.equal(a, b)


def test_a_norm_that_is_not_finite_counts_as_a_large_one():
    p = nn.Parameter(torch.ones(2))
    optimizer = ScaledAdam([p], lr=0.01)
    for step in range(11):
        p.grad = torch.full(
            (2,), math.inf if step % 3 == 1 else 1.0 + step
        )  # 4 of the ten norms that step 10 looks at
        optimizer.step()
    norms = optimizer.param_groups[0]["clipping"]["norms"]
    assert optimizer.param_groups[0]["clipping"]["threshold"] == 4 * sorted(norms)[4] < math.inf
    with pytest.raises(FloatingPointError, match="half of the last 20 steps"):
        for _ in range(10):
            p.grad = torch.full((2,), math.nan)
            optimizer.step()
    assert p.isfinite().all()


def test_state_survives_a_checkpoint():
    """Saved and read without running code, it goes on as if nothing had happened, clipping
    included."""
    params = parameters()
    optimizer = make_optimizer(params, 0.03)
    copies = None
    for step in range(60):
        if step == 18:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            copies = [nn.Parameter(p.detach().clone()) for p in params]
            resumed = make_optimizer(copies, 1.0)
            resumed.load_state_dict(torch.load(file, weights_only=True))
        set_gradients(params, step)
        optimizer.step()
        if copies:
            set_gradients(copies, step)
            resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(params, copies))


def test_a_checkpoint_from_before_unscaled_groups_goes_on():
    p = torch.nn.Parameter(torch.ones(3, 2))
    made = ScaledAdam([p], lr=0.01)
    p.grad = torch.ones(3, 2)
    made.step()
    state = made.state_dict()
    for group in state["param_groups"]:
        del group["scaled"]
    again = ScaledAdam([p], lr=0.01)
    again.load_state_dict(state)
    before = p.detach().clone()
    again.step()
    assert not torch.equal(p, before)


def test_a_checkpoint_with_one_history_for_all_groups_begins_one_for_each():
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = ScaledAdam([{"params": [p]}, {"params": [q]}], lr=0.01)
    p.grad, q.grad = torch.ones(3), torch.ones(3)
    optimizer.step()
    state = optimizer.state_dict() | {
        "clipping": {"step": 250, "norms": [7.0] * 100, "threshold": 1e-9}
    }
    for group in state["param_groups"]:
        del group["clipping"]
    again = ScaledAdam([{"params": [p]}, {"params": [q]}], lr=0.01)
    again.load_state_dict(state)
    for step in range(11):
        assert (
            again.param_groups[0].get("clipping", {"threshold": math.inf})["threshold"] == math.inf
        )
        p.grad, q.grad = torch.ones(3), 10 * torch.ones(3)
        again.step()
    for group, size in zip(again.param_groups, (1, 10)):
        assert group["clipping"]["step"] == 11
        assert group["clipping"]["threshold"] == pytest.approx(4 * math.sqrt(3) * size, rel=0.2)
