import pytest
import torch
from torch import Tensor

from tests.helpers import make_targets, plain_pruned_loss, plain_simple_loss
from utils import transducer_loss, transducer_loss_torch
from utils.transducer_loss import Targets, TransducerLoss, choose_backend

VOCAB = 6
SYMBOLS, FRAMES = [[3, 1, 4, 1, 5, 2, 3], [2, 2, 4, 1], [5]], [10, 7, 3]
BACKENDS = ("torch", "fast_rnnt", "k2")


def backend(name: str):
    return transducer_loss_torch if name == "torch" else pytest.importorskip(name)


def random_inputs(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(2 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_() for shape in shapes]


def simple_inputs(seed: int = 0) -> list[Tensor]:
    """am (B, T, V) and lm (B, S+1, V)."""
    return random_inputs((3, 10, VOCAB), (3, 8, VOCAB), seed=seed)


def assert_same_loss(got: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Equal in value and in the gradient with respect to the inputs."""
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
    for a, b in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def real_ranges(targets: Targets, prune_range: int, seed: int = 0) -> Tensor:
    am, lm = simple_inputs(seed)
    return TransducerLoss(transducer_loss_torch, prune_range, 0.0, 0.0).simple(am, lm, targets)[1]


def random_occupation(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    px, py = torch.rand(3, 7, 11, generator=generator), torch.rand(3, 8, 10, generator=generator)
    px[:, :, -1] = 0
    return px, py


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("lm_scale, am_scale", [(0.0, 0.0), (0.25, 0.0), (0.0, 0.3), (0.25, 0.1)])
def test_simple_loss_against_plain_lattice(name, lm_scale, am_scale):
    targets, (am, lm) = make_targets(SYMBOLS, FRAMES), simple_inputs()
    loss, _ = TransducerLoss(backend(name), 5, lm_scale, am_scale).simple(am, lm, targets)
    assert_same_loss(loss, plain_simple_loss(am, lm, targets, lm_scale, am_scale), [am, lm])


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("prune_range", [2, 3, 5])
def test_pruned_loss_against_plain_lattice_of_the_kept_nodes(name, prune_range):
    targets = make_targets(SYMBOLS, FRAMES)
    ranges = real_ranges(targets, prune_range)
    (logits,) = random_inputs((3, 10, prune_range, VOCAB), seed=1)
    loss = TransducerLoss(backend(name), prune_range, 0.0, 0.0).pruned(logits, ranges, targets)
    assert_same_loss(loss, plain_pruned_loss(logits, ranges, targets), [logits])


@pytest.mark.parametrize("name", BACKENDS)
def test_pruned_loss_of_a_wide_window_is_the_full_lattice_s(name):
    """On the trivial joiner's logits it must give the simple loss."""
    targets, (am, lm) = make_targets(SYMBOLS, FRAMES), simple_inputs()
    loss = TransducerLoss(backend(name), 20, 0.0, 0.0)
    _, ranges = loss.simple(am, lm, targets)
    assert ranges.shape == (3, 10, 8)
    pruned_am, pruned_lm = loss.prune(am, lm, ranges)
    got = loss.pruned(pruned_am + pruned_lm, ranges, targets)
    assert_same_loss(got, plain_simple_loss(am, lm, targets, 0.0, 0.0), [am, lm])


@pytest.mark.parametrize("requires_grad", [True, False])
def test_occupation_is_the_gradient_of_the_lattice_score(requires_grad):
    fast_rnnt = pytest.importorskip("fast_rnnt")
    targets, (am, lm) = make_targets(SYMBOLS, FRAMES), simple_inputs()
    am, lm = am.detach().requires_grad_(requires_grad), lm.detach().requires_grad_(requires_grad)
    arguments = dict(lm=lm, am=am, symbols=targets.symbols, termination_symbol=0, lm_only_scale=0.25, am_only_scale=0.1,
                     boundary=targets.boundary, reduction="none", return_grad=True)
    (loss, occupation), (expected_loss, expected) = (m.rnnt_loss_smoothed(**arguments) for m in (transducer_loss_torch, fast_rnnt))
    torch.testing.assert_close(loss, expected_loss)
    for got, wanted in zip(occupation, expected):
        torch.testing.assert_close(got, wanted)


def test_every_symbol_and_every_frame_is_passed_once():
    """The occupations of the arcs that leave a row, and of those that leave a column, sum to 1."""
    targets, (am, lm) = make_targets(SYMBOLS, FRAMES), simple_inputs()
    _, (px, py) = transducer_loss_torch.rnnt_loss_smoothed(
        lm=lm, am=am, symbols=targets.symbols, termination_symbol=0, lm_only_scale=0.0, am_only_scale=0.0,
        boundary=targets.boundary, return_grad=True)
    for b, (symbols, frames) in enumerate(zip(SYMBOLS, FRAMES)):
        torch.testing.assert_close(px[b].sum(1), (torch.arange(7) < len(symbols)).double())
        torch.testing.assert_close(py[b].sum(0), (torch.arange(10) < frames).double())


@pytest.mark.parametrize("s_range", [2, 3, 5, 20])
def test_prune_ranges_are_fast_rnnt_s(s_range):
    fast_rnnt = pytest.importorskip("fast_rnnt")
    boundary = make_targets(SYMBOLS, FRAMES).boundary
    for seed in range(20):
        px, py = random_occupation(seed)
        got, expected = (m.get_rnnt_prune_ranges(px, py, boundary, s_range) for m in (transducer_loss_torch, fast_rnnt))
        assert torch.equal(got, expected)


@pytest.mark.parametrize("s_range", [2, 3, 5])
def test_prune_ranges_of_real_occupations(s_range):
    fast_rnnt = pytest.importorskip("fast_rnnt")
    targets = make_targets(SYMBOLS, FRAMES)
    for seed in range(10):
        am, lm = simple_inputs(seed)
        _, expected = TransducerLoss(fast_rnnt, s_range, 0.0, 0.0).simple(am, lm, targets)
        assert torch.equal(real_ranges(targets, s_range, seed), expected)


@pytest.mark.parametrize("s_range", [2, 3, 5, 8])
def test_prune_ranges_are_feasible(s_range):
    """They start at 0, never fall, skip no symbol, and hold the last symbol at the last frame."""
    targets = make_targets(SYMBOLS, FRAMES)
    for seed in range(20):
        ranges = transducer_loss_torch.get_rnnt_prune_ranges(*random_occupation(seed), targets.boundary, s_range)
        low, rise = ranges[..., 0], ranges[..., 0].diff(dim=1)
        assert (ranges - low[..., None] == torch.arange(s_range)).all()
        assert (low[:, 0] == 0).all() and (rise >= 0).all() and (rise < s_range).all()
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
        assert torch.equal(kept_am[b, t, r], am[b, t]) and torch.equal(kept_lm[b, t, r], lm[b, ranges[b, t, r]])


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_reductions(reduction):
    fast_rnnt = pytest.importorskip("fast_rnnt")
    targets, (logits,) = make_targets(SYMBOLS, FRAMES), random_inputs((3, 10, 8, VOCAB))
    arguments = dict(logits=logits, symbols=targets.symbols, ranges=torch.arange(8).expand(3, 10, 8), termination_symbol=0,
                     boundary=targets.boundary, reduction=reduction)
    torch.testing.assert_close(*(m.rnnt_loss_pruned(**arguments) for m in (transducer_loss_torch, fast_rnnt)))


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
    monkeypatch.setitem(transducer_loss.MODULES, "fast_rnnt", "math")  # imports well, and has no loss
    assert choose_backend("auto", torch.device("cpu")) is transducer_loss_torch


@pytest.mark.parametrize("name", ["fast_rnnt", "torch"])
def test_a_backend_that_is_there_is_taken(name):
    module = backend(name)
    assert choose_backend(name, torch.device("cpu")) is module
