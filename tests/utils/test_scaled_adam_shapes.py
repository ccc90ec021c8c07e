"""ScaledAdam over tensors of many shapes, types and layouts, and the form of its checkpoints."""

import copy
import io
import math
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils import scaled_adam_chunk
from utils.scaled_adam import ScaledAdam

BETA1, BETA2, EPS, LR, PERIOD = 0.9, 0.98, 1e-8, 0.03, 4
# Above a piece on a CPU, near it, small ones of one size in two shapes, one element in three
# shapes, and nothing at all.
SHAPES = [
    [(300, 500), (7,), (3, 5), (90000,), (5, 3), (3, 5), (), (64, 65), (1,), (0, 4), (7,)],
    [(2, 2, 2), (1, 1), (131072 + 9,), (40, 50), (2, 2, 2)],
]


class SlowTensor:
    """The formulas of the class's docstring for one tensor, in float64 and with new arrays."""

    def __init__(self, p: Tensor, lr: float):
        self.p, self.lr, self.t = p.detach().double().clone(), lr, 0
        self.m, self.v = torch.zeros_like(self.p), torch.zeros_like(self.p)
        self.h: list[float] = []
        self.w, self.size = 0.0, self.rms()

    def rms(self) -> float:
        return self.p.square().sum().div(max(1, self.p.numel())).sqrt().item()

    def weight(self) -> float:
        return 0.1 if self.p.numel() == 1 else self.size

    def step(self, g: Tensor) -> None:
        self.v = BETA2 * self.v + (1 - BETA2) * g**2
        correction = 1 - BETA2 ** (self.t + 1)
        v_hat = self.v / correction if correction < 0.99 else self.v
        d = -self.lr * g / (v_hat.sqrt() + EPS)
        if self.p.numel() == 1:
            d = 0.1 * d
        else:
            self.h.append((self.p * g).sum().item())
            last = self.t % PERIOD == PERIOD - 1
            self.size = self.rms() if last else self.size
            d = d * max(self.size, 1e-5) + (self.p * self.growth() if last else 0.0)
        self.m = BETA1 * self.m + (1 - BETA1) * d
        self.p = self.p + self.m
        self.p = self.p.clamp(-10, 10) if self.p.numel() == 1 else self.p
        self.t += 1

    def growth(self) -> float:
        b, k = BETA2**PERIOD, (self.t + 1) // PERIOD
        self.w = b * self.w + (1 - b) * sum(h * h for h in self.h) / PERIOD
        s = -0.1 * self.lr * math.sqrt(1 - b**k) * sum(self.h) / (math.sqrt(self.w) + EPS)
        self.h = []
        if self.size < 1e-5:
            return 0.0
        return min(max(-0.1, min(s, 0.1)), (3.0 - self.size) / self.size)


class SlowGroup:
    """One group's tensors, and its clipping for at most 45 steps."""

    def __init__(self, params: list[nn.Parameter], lr: float):
        self.tensors = [SlowTensor(p, lr) for p in params]
        self.norms: list[float] = []
        self.threshold, self.clipped = math.inf, 0

    def step(self, grads: list[Tensor | None]) -> None:
        full = [
            torch.zeros_like(x.p) if g is None else g.double() for x, g in zip(self.tensors, grads)
        ]
        norm = math.sqrt(
            sum(((x.weight() * g) ** 2).sum().item() for x, g in zip(self.tensors, full))
        )
        norm = norm if math.isfinite(norm) else math.inf
        t = self.tensors[0].t
        self.norms += [norm] if t else []
        if t in (10, 20, 40):
            self.threshold = 4 * sorted(self.norms)[t // 4 * 2]
        factor = min(1.0, self.threshold / norm) if norm < math.inf else 0.0
        self.clipped += 0 < factor < 1
        for x, g in zip(self.tensors, full):
            x.step(g * factor if factor else torch.zeros_like(g))


def make_groups() -> list[list[nn.Parameter]]:
    """New parameters of all shapes; one is zero, and one is near the largest size."""
    generator = torch.Generator().manual_seed(0)
    groups = [
        [nn.Parameter(0.5 * torch.randn(shape, generator=generator)) for shape in shapes]
        for shapes in SHAPES
    ]
    with torch.no_grad():
        groups[0][1].zero_()
        groups[1][3].fill_(2.95)
    return groups


def make_gradient(p: Tensor, step: int, seed: int) -> Tensor | None:
    """A gradient with a drift; bursts now and then, and some are missing or not finite."""
    generator = torch.Generator().manual_seed(1000 * step + seed)
    if (step + seed) % 9 == 4:
        return None
    g = (torch.randn(p.shape, generator=generator) - 0.3) * (50 if step in (13, 29, 42) else 1)
    if step in (3, 17, 30) and p.numel() == 15:
        g.view(-1)[7] = (math.inf, math.nan, -math.inf)[step % 3]
    return g


def run(optimizer: ScaledAdam, groups: list[list[nn.Parameter]], steps: range) -> None:
    """Steps with gradients that are a function of the step alone."""
    for step in steps:
        for i, params in enumerate(groups):
            for j, p in enumerate(params):
                p.grad = make_gradient(p, step, 20 * i + j)
        optimizer.step()


def make_optimizer(groups: list[list[nn.Parameter]]) -> ScaledAdam:
    return ScaledAdam([{"params": groups[0]}, {"params": groups[1], "lr": LR / 2}], lr=LR)


@pytest.mark.parametrize("piece", [1 << 17, 1000])
def test_steps_are_those_of_the_formulas_for_all_shapes(piece, monkeypatch):
    """Over the first three thresholds of clipping, also where tensors have many pieces."""
    monkeypatch.setitem(scaled_adam_chunk.PIECE, "cpu", piece)
    groups = make_groups()
    slow = [SlowGroup(groups[0], LR), SlowGroup(groups[1], LR / 2)]
    optimizer = make_optimizer(groups)
    for step in range(45):
        run(optimizer, groups, range(step, step + 1))
        for params, group in zip(groups, slow):
            group.step([p.grad for p in params])
    for params, group in zip(groups, slow):
        assert group.clipped >= 2
        for p, x in zip(params, group.tensors):
            assert p.isfinite().all()
            error = (p.double() - x.p).norm() / (x.p.norm() + 1e-30)
            assert error < 2e-5, (tuple(p.shape), float(error))


def test_gradients_stay_as_they_were():
    groups = make_groups()
    optimizer = make_optimizer(groups)
    run(optimizer, groups, range(12))
    run(optimizer, groups, range(13, 14))  # clipped
    for i, params in enumerate(groups):
        for j, p in enumerate(params):
            expected = make_gradient(p, 13, 20 * i + j)
            assert p.grad is None if expected is None else torch.equal(p.grad, expected)


def test_the_memory_of_gradients_is_free_after_a_step():
    p = nn.Parameter(torch.ones(1 << 16))
    optimizer = ScaledAdam([p], lr=LR)
    for _ in range(3):
        values = np.ones(p.numel(), dtype=np.float32)
        memory = weakref.ref(values)
        p.grad = torch.from_numpy(values)
        del values
        optimizer.step()
        assert memory() is not None
        optimizer.zero_grad(set_to_none=True)
        assert memory() is None


def test_state_has_the_form_of_old_checkpoints():
    """By the number of the first parameter of every shape, with no more memory than it shows."""
    groups = make_groups()
    optimizer = make_optimizer(groups)
    run(optimizer, groups, range(6))
    states = optimizer.state_dict()["state"]
    assert sorted(states) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14]
    shapes = {k: tuple(v.shape) for k, v in states[2].items() if k != "step"}
    assert states[2]["step"] == 6 and shapes == {
        "momentum": (2, 3, 5),
        "second_moment": (2, 3, 5),
        "rms": (2, 1, 1),
        "size_second_moment": (2, 1, 1),
        "size_grads": (2, 2, 1, 1),
    }
    assert {k: v if k == "step" else tuple(v.shape) for k, v in states[6].items()} == {
        "step": 6,
        "momentum": (1,),
        "second_moment": (1,),
    }
    file = io.BytesIO()
    torch.save(states, file)
    elements = sum(p.numel() for params in groups for p in params)
    assert file.getbuffer().nbytes < 1.02 * 2 * 4 * elements + 30000


@pytest.mark.parametrize("stop", [1, 6, 8])
def test_an_old_checkpoint_goes_on(stop):
    """Old ones had every tensor of the state in memory of its own."""
    groups = make_groups()
    optimizer = make_optimizer(groups)
    run(optimizer, groups, range(stop))
    copies = [[nn.Parameter(p.detach().clone()) for p in params] for params in groups]
    saved = optimizer.state_dict()
    saved["state"] = {
        i: {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
        for i, state in saved["state"].items()
    }
    resumed = make_optimizer(copies)
    run(resumed, copies, range(2))  # with a state of its own, which the checkpoint replaces
    for params, originals in zip(copies, groups):
        for p, original in zip(params, originals):
            p.data = original.detach().clone()
    resumed.load_state_dict(saved)
    run(optimizer, groups, range(stop, 24))
    run(resumed, copies, range(stop, 24))
    for params, originals in zip(copies, groups):
        assert all(torch.equal(a, b) for a, b in zip(params, originals))


@pytest.mark.parametrize("shape", [(5, 3), (300, 500)])
def test_parameters_of_other_types_and_layouts_move_alike(shape):
    """Steps are made in float32, and rounded to the type of the parameter; small tensors are
    together, large ones alone."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    plain = [nn.Parameter(values.float()) for _ in range(2)]
    halves = [nn.Parameter(values.clone()) for _ in range(2)]
    turned = [nn.Parameter(values.float().T.contiguous().T) for _ in range(2)]
    for params in (plain, halves, turned):
        optimizer = ScaledAdam(params, lr=LR)
        for step in range(3):
            for p in params:
                generator = torch.Generator().manual_seed(step)
                g = torch.randn(shape, generator=generator).bfloat16()
                p.grad = g.to(p.dtype)
            optimizer.step()
            if params is halves:  # torch gives the state their type, and steps go on
                optimizer.load_state_dict(optimizer.state_dict())
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(plain, turned))
    for a, b in zip(plain, halves):
        assert b.dtype == torch.bfloat16 and torch.allclose(a, b.float(), atol=0.03)
        assert not torch.equal(b, values)


def test_a_copy_goes_on_alike_and_alone():
    """A copy of parameters and optimiser, from a step between two changes of sizes."""
    groups = make_groups()
    optimizer = make_optimizer(groups)
    run(optimizer, groups, range(22))
    copied, its_groups = copy.deepcopy((optimizer, groups))
    run(optimizer, groups, range(22, 45))
    run(copied, its_groups, range(22, 45))
    for a, b in zip(sum(groups, []), sum(its_groups, [])):
        assert a is not b and torch.equal(a, b)


def test_a_pickle_keeps_how_gradients_are_clipped():
    optimizer = ScaledAdam([nn.Parameter(torch.ones(3))], 0.1, clipping_scale=1.5)
    optimizer.step()
    read = pickle.loads(pickle.dumps(optimizer))
    read.step()
    assert (read.clipping_scale, read.clipping_period) == (1.5, 100)


@pytest.mark.parametrize("shape", [(3, 2), (4,)])
def test_a_group_whose_list_has_grown_is_refused(shape):
    """Of a shape that it has already, and of a new one; a group of its own is taken."""
    first, later = (torch.nn.Parameter(torch.randn(*s)) for s in ((3, 2), shape))
    optimizer = ScaledAdam([first], lr=0.1)
    for p in (first, later):
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.param_groups[0]["params"].append(later)
    with pytest.raises(ValueError, match="add_param_group"):
        optimizer.step()
    optimizer.param_groups[0]["params"].pop()
    optimizer.add_param_group({"params": [later]})
    before = later.detach().clone()
    optimizer.step()
    assert not torch.equal(later, before)
