from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.helpers import make_targets, plain_pruned_loss, plain_simple_loss
from utils import pruned_rnnt as transducer_loss
from utils import pruned_rnnt_torch as transducer_loss_torch
from utils.pruned_rnnt import Targets, TransducerLoss, choose_backend

VOCAB = 6
SYMBOLS, FRAMES = [[3, 1, 4, 1, 5, 2, 3], [2, 2, 4, 1], [5]], [10, 7, 3]
BACKENDS = ("torch", "fast_rnnt", "k2")
LATTICES = [
    {"rnnt_type": kind, "delay_penalty": penalty}
    for kind in ("regular", "modified", "constrained")
    for penalty in (0.0, 0.3)
]
each_lattice = pytest.mark.parametrize(
    "lattice", LATTICES, ids=lambda lattice: f"{lattice['rnnt_type']}-{lattice['delay_penalty']}"
)


def backend(name: str):
    return transducer_loss_torch if name == "torch" else pytest.importorskip(name)


def random_inputs(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for shape in shapes
    ]


def simple_inputs(seed: int = 0) -> list[Tensor]:
    """am (B, T, V) and lm (B, S+1, V)."""
    return random_inputs((3, 10, VOCAB), (3, 8, VOCAB), seed=seed)


def assert_same_loss(got: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Equal in value and in the gradient with respect to the inputs."""
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
    for a, b in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def real_ranges(targets: Targets, prune_range: int, seed: int = 0, **lattice) -> Tensor:
    am, lm = simple_inputs(seed)
    return TransducerLoss(transducer_loss_torch, prune_range, 0.0, 0.0, **lattice).simple(
        am, lm, targets
    )[1]


def random_occupation(
    seed: int, one_a_frame: bool = False, symbols: int = 7, frames: int = 10
) -> tuple[Tensor, Tensor]:
    """Of a symbol's arcs, with one frame more than there are where a frame emits any number of
    them, and of blank's."""
    generator = torch.Generator().manual_seed(seed)
    px, py = (
        torch.rand(3, symbols, frames + 1, generator=generator),
        torch.rand(3, symbols + 1, frames, generator=generator),
    )
    px[:, :, -1] = 0
    return px[:, :, :frames] if one_a_frame else px, py


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("lm_scale, am_scale", [(0.0, 0.0), (0.25, 0.0), (0.0, 0.3), (0.25, 0.1)])
@each_lattice
def test_simple_loss_against_plain_lattice(name, lm_scale, am_scale, lattice):
    targets, (am, lm) = make_targets(SYMBOLS, FRAMES), simple_inputs()
    loss, _ = TransducerLoss(backend(name), 5, lm_scale, am_scale, **lattice).simple(
        am, lm, targets
    )
    assert_same_loss(
        loss, plain_simple_loss(am, lm, targets, lm_scale, am_scale, **lattice), [am, lm]
    )


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("prune_range", [2, 3, 5])
@each_lattice
def test_pruned_loss_against_plain_lattice_of_the_kept_nodes(name, prune_range, lattice):
    targets = make_targets(SYMBOLS, FRAMES)
    ranges = real_ranges(targets, prune_range, **lattice)
    (logits,) = random_inputs((3, 10, prune_range, VOCAB), seed=1)
    loss = TransducerLoss(backend(name), prune_range, 0.0, 0.0, **lattice).pruned(
        logits, ranges, targets
    )
    assert_same_loss(loss, plain_pruned_loss(logits, ranges, targets, **lattice), [logits])


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kind", ["modified", "constrained"])
def test_as_many_tokens_as_frames(name, kind):
    """One path is left then, through windows of any width: its loss is finite, and so are the
    gradients."""
    for frames in ([7, 4, 1], [8, 5, 2]):
        for seed, prune_range in enumerate((2, 3, 5, 8)):
            targets = make_targets(SYMBOLS, frames)
            am, lm, logits = random_inputs(
                (3, max(frames), VOCAB),
                (3, 8, VOCAB),
                (3, max(frames), prune_range, VOCAB),
                seed=seed,
            )
            loss = TransducerLoss(backend(name), prune_range, 0.25, 0.0, kind)
            simple, ranges = loss.simple(am, lm, targets)
            assert_same_loss(
                simple, plain_simple_loss(am, lm, targets, 0.25, 0.0, rnnt_type=kind), [am, lm]
            )
            pruned = loss.pruned(logits, ranges, targets)
            assert_same_loss(
                pruned, plain_pruned_loss(logits, ranges, targets, rnnt_type=kind), [logits]
            )


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kind", ["modified", "constrained"])
def test_no_window_loses_all_paths(name, kind):
    """Whatever the occupation says: with tokens <= frames some path stays inside the windows, and
    its loss is finite."""
    for seed in range(3):
        for symbols, frames in ((1, 1), (2, 2), (3, 4), (6, 6), (6, 7)):
            targets = make_targets(
                [[1] * n for n in (symbols, max(1, symbols - 1), 1)],
                [frames, max(1, frames - 1), frames],
            )
            for s_range in (2, 3, 5):
                occupation = random_occupation(seed, True, symbols, frames)
                ranges = backend(name).get_rnnt_prune_ranges(*occupation, targets.boundary, s_range)
                (logits,) = random_inputs((*ranges.shape, VOCAB), seed=seed)
                loss = TransducerLoss(backend(name), s_range, 0.0, 0.0, kind).pruned(
                    logits, ranges, targets
                )
                assert_same_loss(
                    loss, plain_pruned_loss(logits, ranges, targets, rnnt_type=kind), [logits]
                )


def test_the_modified_lattice_by_hand():
    """One token, two frames: it is emitted in the first and blank in the second, or the other way
    round."""
    (logits,) = random_inputs((1, 2, 2, VOCAB))
    p = logits.softmax(-1)[0]  # (frame, tokens before, V)
    targets, ranges = make_targets([[4]], [2]), torch.arange(2).expand(1, 2, 2)
    expected = {
        "modified": p[0, 0, 4] * p[1, 1, 0] + p[0, 0, 0] * p[1, 0, 4],
        "constrained": p[0, 0, 4] * p[0, 1, 0] * p[1, 1, 0] + p[0, 0, 0] * p[1, 0, 4] * p[1, 1, 0],
    }
    expected["regular"] = expected["constrained"]  # the same paths, as long as no frame emits two
    for kind, probability in expected.items():
        loss = TransducerLoss(transducer_loss_torch, 2, 0.0, 0.0, kind).pruned(
            logits, ranges, targets
        )
        torch.testing.assert_close(loss.double(), -probability.log(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BACKENDS)
@each_lattice
def test_pruned_loss_of_a_wide_window_is_the_full_lattice_s(name, lattice):
    """On the trivial joiner's logits it must give the simple loss."""
    targets, (am, lm) = make_targets(SYMBOLS, FRAMES), simple_inputs()
    loss = TransducerLoss(backend(name), 20, 0.0, 0.0, **lattice)
    _, ranges = loss.simple(am, lm, targets)
    assert ranges.shape == (3, 10, 8)
    pruned_am, pruned_lm = loss.prune(am, lm, ranges)
    got = loss.pruned(pruned_am + pruned_lm, ranges, targets)
    assert_same_loss(got, plain_simple_loss(am, lm, targets, 0.0, 0.0, **lattice), [am, lm])


@pytest.mark.parametrize("requires_grad", [True, False])
@each_lattice
def test_occupation_is_the_gradient_of_the_lattice_score(requires_grad, lattice):
    fast_rnnt = pytest.importorskip("fast_rnnt")
    targets, (am, lm) = make_targets(SYMBOLS, FRAMES), simple_inputs()
    am, lm = am.detach().requires_grad_(requires_grad), lm.detach().requires_grad_(requires_grad)
    arguments = dict(
        lm=lm,
        am=am,
        symbols=targets.symbols,
        termination_symbol=0,
        lm_only_scale=0.25,
        am_only_scale=0.1,
        boundary=targets.boundary,
        reduction="none",
        return_grad=True,
        **lattice,
    )
    (loss, occupation), (expected_loss, expected) = (
        m.rnnt_loss_smoothed(**arguments) for m in (transducer_loss_torch, fast_rnnt)
    )
    torch.testing.assert_close(loss, expected_loss)
    assert occupation[0].shape[2] == 10 + (lattice["rnnt_type"] == "regular")
    for got, wanted in zip(occupation, expected):
        torch.testing.assert_close(got, wanted)


@each_lattice
def test_every_symbol_and_every_frame_is_passed_once(lattice):
    """The occupations of the arcs that leave a row, and of those that leave a column, sum to 1;
    symbols may do the latter."""
    targets, (am, lm) = make_targets(SYMBOLS, FRAMES), simple_inputs()
    _, (px, py) = transducer_loss_torch.rnnt_loss_smoothed(
        lm=lm,
        am=am,
        symbols=targets.symbols,
        termination_symbol=0,
        lm_only_scale=0.0,
        am_only_scale=0.0,
        boundary=targets.boundary,
        return_grad=True,
        **lattice,
    )
    for b, (symbols, frames) in enumerate(zip(SYMBOLS, FRAMES)):
        torch.testing.assert_close(px[b].sum(1), (torch.arange(7) < len(symbols)).double())
        ends = py[b].sum(0) + (0 if lattice["rnnt_type"] == "regular" else px[b].sum(0))
        torch.testing.assert_close(ends, (torch.arange(10) < frames).double())


@pytest.mark.parametrize("one_a_frame", [False, True])
@pytest.mark.parametrize("s_range", [2, 3, 5, 7, 8, 20])
def test_prune_ranges_are_fast_rnnt_s(s_range, one_a_frame):
    fast_rnnt = pytest.importorskip("fast_rnnt")
    boundary = make_targets(SYMBOLS, FRAMES).boundary
    for seed in range(20):
        px, py = random_occupation(seed, one_a_frame)
        got, expected = (
            m.get_rnnt_prune_ranges(px, py, boundary, s_range)
            for m in (transducer_loss_torch, fast_rnnt)
        )
        assert torch.equal(got, expected)


@pytest.mark.parametrize("s_range", [2, 3, 5, 7])
@each_lattice
def test_prune_ranges_of_real_occupations(s_range, lattice):
    """The same in both for the same occupations; the last bits of these decide between windows that
    are equally good."""
    fast_rnnt = pytest.importorskip("fast_rnnt")
    targets = make_targets(SYMBOLS, FRAMES)
    for seed in range(10):
        am, lm = simple_inputs(seed)
        for module in (transducer_loss_torch, fast_rnnt):
            _, occupation = module.rnnt_loss_smoothed(
                lm=lm.detach().float(),
                am=am.detach().float(),
                symbols=targets.symbols,
                termination_symbol=0,
                lm_only_scale=0.0,
                am_only_scale=0.0,
                boundary=targets.boundary,
                reduction="sum",
                return_grad=True,
                **lattice,
            )
            got, expected = (
                m.get_rnnt_prune_ranges(*occupation, targets.boundary, s_range)
                for m in (transducer_loss_torch, fast_rnnt)
            )
            assert torch.equal(got, expected)


@pytest.mark.parametrize("one_a_frame", [False, True])
@pytest.mark.parametrize("s_range", [2, 3, 5, 8])
def test_prune_ranges_are_feasible(s_range, one_a_frame):
    """They start at 0, never fall, skip no symbol, and hold the last symbol at the last frame."""
    targets = make_targets(SYMBOLS, FRAMES)
    for seed in range(20):
        ranges = transducer_loss_torch.get_rnnt_prune_ranges(
            *random_occupation(seed, one_a_frame), targets.boundary, s_range
        )
        low, rise = ranges[..., 0], ranges[..., 0].diff(dim=1)
        assert (ranges - low[..., None] == torch.arange(s_range)).all()
        assert (
            (low[:, 0] == 0).all()
            and (rise >= 0).all()
            and (rise < (2 if one_a_frame else s_range)).all()
        )
        assert (ranges <= 7).all()
        for b, (symbols, frames) in enumerate(zip(SYMBOLS, FRAMES)):
            assert len(symbols) in ranges[b, frames - 1]


def test_prune_ranges_follow_the_occupation():
    """All of the occupation on one staircase: the windows must hold it."""
    row = [0, 0, 1, 2, 2, 3, 4, 5, 6, 7]  # the symbol whose blank leaves each of 10 frames
    py, px = torch.zeros(1, 8, 10), torch.zeros(1, 7, 11)
    py[0, row, range(10)] = 1
    for s in range(7):
        px[0, s, row.index(s + 1)] = 1
    ranges = transducer_loss_torch.get_rnnt_prune_ranges(px, py, torch.tensor([[0, 0, 7, 10]]), 3)
    assert all(row[t] in ranges[0, t] for t in range(10))


def test_pruning_gathers_the_kept_nodes():
    am, lm = random_inputs((2, 4, 3), (2, 6, 3))
    ranges = torch.tensor([[0, 0, 2, 3], [0, 1, 1, 3]])[..., None] + torch.arange(3)
    kept_am, kept_lm = transducer_loss_torch.do_rnnt_pruning(am, lm, ranges)
    for b, t, r in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(3)).tolist():
        assert torch.equal(kept_am[b, t, r], am[b, t]) and torch.equal(
            kept_lm[b, t, r], lm[b, ranges[b, t, r]]
        )


@pytest.mark.parametrize("reduction", ["none", "mean"])
@each_lattice
def test_reductions(reduction, lattice):
    fast_rnnt = pytest.importorskip("fast_rnnt")
    targets, (logits,) = make_targets(SYMBOLS, FRAMES), random_inputs((3, 10, 8, VOCAB))
    arguments = dict(
        logits=logits,
        symbols=targets.symbols,
        ranges=torch.arange(8).expand(3, 10, 8),
        termination_symbol=0,
        boundary=targets.boundary,
        reduction=reduction,
        **lattice,
    )
    torch.testing.assert_close(
        *(m.rnnt_loss_pruned(**arguments) for m in (transducer_loss_torch, fast_rnnt))
    )


def test_check_names_utterances_that_the_lattice_can_not_hold():
    targets = make_targets([[1, 2], [3, 4, 5], [1]], [2, 2, 1])
    with pytest.raises(ValueError, match=r"long-one \(3 tokens, 2 frames\)") as error:
        targets.check(["fits", "long-one", "fits-too"])
    assert "fits" not in str(error.value)


def test_check_names_utterances_without_tokens():
    with pytest.raises(ValueError, match=r"silent \(0 tokens, 4 frames\)"):
        Targets(torch.tensor([[0]]), torch.tensor([0]), torch.tensor([4])).check(["silent"])


@pytest.mark.parametrize("name", ["k2", "unheard-of"])
def test_a_backend_that_is_not_there_is_an_error_when_asked_for(name, monkeypatch):
    monkeypatch.setitem(transducer_loss.MODULES, "k2", "no_such_module")
    with pytest.raises(RuntimeError, match=rf"loss\.backend={name} can not be used on cpu.*auto"):
        choose_backend(name, torch.device("cpu"))


def test_auto_passes_over_what_is_missing_or_broken(monkeypatch):
    monkeypatch.setitem(transducer_loss.MODULES, "k2", "no_such_module")
    monkeypatch.setitem(
        transducer_loss.MODULES, "fast_rnnt", "math"
    )  # imports well, and has no loss
    assert choose_backend("auto", torch.device("cpu")) is transducer_loss_torch


@pytest.mark.parametrize("name", ["fast_rnnt", "torch"])
def test_a_backend_that_is_there_is_taken(name):
    module = backend(name)
    assert choose_backend(name, torch.device("cpu")) is module


# ---- targets


def test_targets_on_a_device_keep_those_on_the_host():
    """What is counted and checked there waits for no GPU; the meta device stands in for one."""
    host = make_targets(SYMBOLS, FRAMES)
    host = replace(host, heard=torch.tensor([4 * n for n in FRAMES]))
    assert host.to(torch.device("cpu")) is host.host is host
    moved = host.to(torch.device("meta"))
    assert moved.host is host and moved.to(torch.device("meta")).host is host
    for field in ("symbols", "lengths", "frames", "heard"):
        there, here = getattr(moved, field), getattr(host, field)
        assert there.device.type == "meta" and there.shape == here.shape
    assert make_targets(SYMBOLS, FRAMES).to(torch.device("meta")).heard is None


def test_the_check_of_targets_reads_those_on_the_host():
    moved = make_targets([[1, 2], []], [2, 5]).to(torch.device("meta"))
    with pytest.raises(ValueError, match=r"second \(0 tokens, 5 frames\)$"):
        moved.check(["first", "second"])
