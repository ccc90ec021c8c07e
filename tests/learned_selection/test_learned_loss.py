"""Learned selection inside the loss and the optimiser."""

import math

import pytest
import torch
from torch import Tensor

from tests.helpers import VOCAB, tiny_config, tiny_model
from tests.learned import (
    FRAMES,
    FULL,
    LENGTHS,
    METHODS,
    TARGETS,
    cached_config,
    expected_share,
    features,
    learned,
    prefix_counts,
    rank_scores,
    row_scores,
    set_scores,
    shuffled,
    sigmoid,
)
from todm.config.keys import Config
from todm.learned_selection.methods import make_selector
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.training.optimization import make_optimizer
from todm.training.supernet_loss import SupernetLoss, Weights
from utils import pruned_rnnt_torch as transducer_loss_torch
from utils.pruned_rnnt import TransducerLoss

WEIGHTS = Weights(simple=0.7, pruned=0.9, distill=0.3)
WIDE = ("loss.prune_range=20", "loss.subnet_weight=0.6")  # keeps every node of the lattice
SUBNETS = [Subnet.parse("h0-2f0-1 - h0-2f0-2"), Subnet.parse("h0,2f1 f0 h0-2f0")]
ORDER, MODULES = shuffled(21, seed=10), [1, 0, 3, 5, 4, 2]  # best first


def make_loss(config: Config) -> SupernetLoss:
    """Of a tiny model, whose scores, if it has any, say ``ORDER`` or ``MODULES``."""
    selector = make_selector(config, VOCAB)
    model = tiny_model(config)
    if selector is not None:
        order = ORDER if len(selector.units) == 21 else MODULES
        set_scores(
            selector,
            row_scores(order) / 5
            if config.select.method == "orthosoftmax"
            else rank_scores(order, best=0.5),
        )
    return SupernetLoss(
        model,
        config,
        TransducerLoss(
            transducer_loss_torch,
            config.loss.prune_range,
            config.loss.lm_scale,
            config.loss.am_scale,
        ),
        selector,
    )


def gradients(loss: Tensor, model: torch.nn.Module) -> dict[str, Tensor]:
    """By name; zero where there is none."""
    named = list(model.named_parameters())
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named, found)}


def assert_same(
    got: Tensor, model: torch.nn.Module, expected: Tensor, other: torch.nn.Module
) -> None:
    """Equal in value and in every parameter's gradient."""
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    wanted = gradients(expected, other)
    for name, gradient in gradients(got, model).items():
        torch.testing.assert_close(
            gradient,
            wanted[name],
            rtol=1e-3,
            atol=1e-4 + 1e-4 * wanted[name].abs().max().item(),
            msg=name,
        )


@pytest.mark.parametrize("update, share", [(10, 0.9), (59, 0.5)])
def test_step_1_trains_the_gated_net_as_a_subnet(update, share):
    """With the hard gates of Simple-Top-k it is the subnet of the best units; nothing else is added
    to the loss."""
    loss = make_loss(learned("simple-topk", *WIDE))
    count = prefix_counts(loss.selector, ORDER, [9684 * share])[0]
    got, (largest, gated) = loss(features(), TARGETS, [], WEIGHTS, update)
    expected, losses = loss(
        features(), TARGETS, [loss.selector.units.subnet(ORDER[:count])], WEIGHTS
    )
    torch.testing.assert_close(
        torch.stack([largest, gated]), torch.stack(losses), rtol=1e-5, atol=1e-4
    )
    assert abs(largest - gated) > 0.1
    assert_same(got, loss.model, expected, loss.model)
    (found,) = torch.autograd.grad(got, loss.selector.scores)
    assert (found.abs() > 1e-4).sum() > 15  # from the loss: this method has no penalty


def test_the_gated_net_sees_the_whole_batch():
    """Whatever share of it the subnets see."""
    found = []
    for share in (1.0, 0.5):
        torch.manual_seed(0)
        loss = make_loss(learned("simple-topk", *WIDE, f"method.subnet_share={share}")).train()
        found.append(loss(features(), TARGETS, SUBNETS, WEIGHTS, 59)[1])
    (largest, first, _, gated), (same_largest, other_first, _, same_gated) = found
    torch.testing.assert_close(
        torch.stack([largest, gated]), torch.stack([same_largest, same_gated])
    )
    assert abs(first - other_first) > 0.1


def test_gated_net_comes_after_all_subnets():
    loss = make_loss(learned("simple-topk", *WIDE))
    count = prefix_counts(loss.selector, ORDER, [9684 * 0.5])[0]
    losses = loss(features(), TARGETS, SUBNETS, WEIGHTS, 59)[1]
    expected = loss(
        features(), TARGETS, [*SUBNETS, loss.selector.units.subnet(ORDER[:count])], WEIGHTS
    )[1]
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-5, atol=1e-4)
    assert len({round(float(x), 2) for x in losses}) == 4


@pytest.mark.parametrize("method", METHODS)
def test_scores_learn_from_the_loss_and_not_only_from_the_penalty(method):
    loss = make_loss(learned(method, *WIDE, "learn.penalty=0"))
    scores = loss.selector.scores
    total, _ = loss(features(), TARGETS, [], WEIGHTS, 30)
    (found,) = torch.autograd.grad(total, scores)
    assert found.abs().max() > 0.05
    frozen, _ = loss(features(), TARGETS, [], WEIGHTS, 9)  # before step 1
    assert torch.autograd.grad(frozen, scores)[0].abs().max() == 0


def test_gradient_of_the_scores_by_finite_differences():
    loss = make_loss(learned("iterative-zero-out", *WIDE, "learn.penalty=3"))
    scores = loss.selector.scores
    set_scores(loss.selector, 0.05 * torch.randn(21, generator=torch.Generator().manual_seed(12)))
    (found,) = torch.autograd.grad(loss(features(), TARGETS, [], WEIGHTS, 25)[0], scores)
    before, values = scores.detach().clone(), []
    for i in (0, 4, 9, 20):
        for step in (0.01, -0.01):
            with torch.no_grad():
                scores.copy_(before).view(-1)[i] += step
                values.append(loss(features(), TARGETS, [], WEIGHTS, 25)[0].item())
        assert found[i].item() == pytest.approx(
            (values[-2] - values[-1]) / 0.02, rel=0.03, abs=0.02
        )


@pytest.mark.parametrize(
    "method, by_hand",
    [
        (
            "iterative-zero-out",
            lambda: abs(
                expected_share([sigmoid(10 * s) for s in rank_scores(ORDER, best=0.5).tolist()])
                - 0.7
            ),
        ),
        ("orthosoftmax", None),
    ],
)
def test_penalty_counts_per_frame(method, by_hand):
    totals = {}
    for penalty in (0, 2):
        loss = make_loss(learned(method, *WIDE, f"learn.penalty={penalty}"))
        totals[penalty], losses = loss(features(), TARGETS, [], WEIGHTS, 35)
        assert len(losses) == 2
    expected = by_hand() if by_hand else loss.selector.gates(35)[1].item() / 2
    assert (totals[2] - totals[0]).item() == pytest.approx(
        FRAMES * 2 * expected, rel=1e-3
    ) and expected > 0.001


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["before step 1", "step 2", "not training"])
def test_without_gates_the_loss_is_that_of_a_model_without_scores(method, when):
    loss, plain = make_loss(learned(method, *WIDE)), make_loss(learned("uniform", *WIDE))
    if when == "step 2":
        loss.selector.after_update(60)
    subnets = [] if when == "before step 1" else SUBNETS
    update = {"before step 1": 9, "step 2": 60, "not training": None}[when]
    got, losses = loss(features(), TARGETS, subnets, WEIGHTS, update)
    expected, others = plain(features(), TARGETS, subnets, WEIGHTS)
    assert len(losses) == len(others) == 1 + len(subnets)
    assert_same(got, loss.model, expected, plain.model)
    (found,) = torch.autograd.grad(got, loss.selector.scores)  # there is one, for DDP
    assert (found == 0).all()


def test_every_parameter_has_a_gradient_in_both_steps():
    """As DDP wants it, also while CTC trains alone."""
    for weights in (WEIGHTS, Weights.of_ctc()):
        for update in (5, 20, 60):
            loss = make_loss(learned("orthosoftmax", *WIDE, "loss.ctc_weight=0.4"))
            loss.selector.after_update(update)
            loss(features(), TARGETS, [], weights, update)[0].backward()
            assert all(p.grad is not None for p in loss.parameters())


@pytest.mark.parametrize("objective", [(), ("loss.objective=ctc", "loss.ctc_weight=0.5")])
def test_stochastic_depth_is_of_the_largest_net_in_step_2_alone(objective, monkeypatch):
    config = learned(
        "simple-topk",
        *WIDE,
        *objective,
        "learn.stochastic_depth=0.3",
        "learn.granularity=module",
        "method.distill=none",
    )
    loss = make_loss(
        learned("simple-topk", *WIDE, *objective, "learn.granularity=module", "method.distill=none")
    )
    loss.config = loss.selector.config = config
    weights = WEIGHTS if not objective else Weights.of_ctc()
    monkeypatch.setattr(
        torch, "rand", lambda *size: torch.zeros(*size)
    )  # everything that may be dropped is dropped
    subnet = Subnet.parse("h0-2f0-3 f0-3 -")
    plain = {
        net: loss(features(), TARGETS, [Subnet.parse(net)], weights)[1][1]
        for net in (FULL, "f0-3 - -", str(subnet))
    }
    before = loss(features(), TARGETS, [], weights, 20)[1]
    loss.selector.after_update(60)
    assert str(loss.selector.subnets()["0.5"]) == "f0-3 - -"
    after = loss(features(), TARGETS, [subnet], weights, 60)[1]
    scored = loss(features(), TARGETS, [subnet], weights)[1]
    torch.testing.assert_close(before[0], plain[FULL], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after[1], plain[str(subnet)], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scored[0], plain[FULL], rtol=1e-4, atol=1e-4)
    if objective:  # the transducer's pruning ranges follow the largest net's output
        torch.testing.assert_close(after[0], plain["f0-3 - -"], rtol=1e-4, atol=1e-4)
    assert abs(after[0] - plain[FULL]) > 0.1


@pytest.mark.parametrize("objective", [(), ("loss.objective=ctc", "loss.ctc_weight=0.5")])
def test_saturating_weight_is_a_number_without_gradient(objective):
    """1 - exp(-loss per frame) of the net itself: the same gradients as with that number as a
    constant."""
    weights = WEIGHTS if not objective else Weights.of_ctc()
    for subnet in SUBNETS:
        loss = make_loss(tiny_config(*WIDE, *objective, "loss.subnet_weighting=saturating"))
        got, (_, raw) = loss(features(), TARGETS, [subnet], weights)
        number = 0.6 * (1 - math.exp(-float(raw) / FRAMES))
        assert 0.05 < number < 0.59
        plain = make_loss(tiny_config(*WIDE[:1], *objective, f"loss.subnet_weight={number!r}"))
        assert_same(got, loss.model, plain(features(), TARGETS, [subnet], weights)[0], plain.model)


def plain_ctc(model: Transducer, encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Frame posteriors (B, T, V), and the loss utterance by utterance."""
    log_probs = model.heads.ctc(encoded).log_softmax(-1)
    return log_probs, sum(
        torch.nn.functional.ctc_loss(
            log_probs[b, :t], TARGETS.symbols[b, :s], (t,), (s,), reduction="sum"
        )
        for b, (s, t) in enumerate(zip(TARGETS.lengths.tolist(), TARGETS.frames.tolist()))
    )


@pytest.mark.parametrize("distill", [0.0, 0.3])
def test_ctc_objective_is_ctc_of_every_net_and_distillation_of_frame_posteriors(distill):
    config = tiny_config(*WIDE, "loss.objective=ctc", "loss.ctc_weight=0.5", "method.distill=kl")
    loss = make_loss(config)
    got, losses = loss(features(), TARGETS, SUBNETS, Weights.of_ctc(distill))
    (teacher, largest), *others = (
        plain_ctc(loss.model, loss.model.encoder(features(), LENGTHS, net)[0])
        for net in (None, *SUBNETS)
    )
    expected = 0.5 * (largest + 0.6 * sum(ctc for _, ctc in others))
    for student, _ in others:
        for b, frames in enumerate(TARGETS.frames.tolist()):
            p = teacher[b, :frames].detach()
            expected = expected + distill * (p.exp() * (p - student[b, :frames])).sum()
    torch.testing.assert_close(
        torch.stack(losses),
        torch.stack([largest, *(ctc for _, ctc in others)]).detach(),
        rtol=1e-5,
        atol=1e-4,
    )
    assert_same(got, loss.model, expected, loss.model)
    assert distill == 0 or abs(got - 0.5 * (largest + 0.6 * sum(ctc for _, ctc in others))) > 0.01


def test_ctc_objective_without_distillation():
    loss = make_loss(
        tiny_config(*WIDE, "loss.objective=ctc", "loss.ctc_weight=0.5", "method.distill=none")
    )
    with_weight, without = (
        loss(features(), TARGETS, SUBNETS, Weights.of_ctc(w))[0] for w in (5.0, 0.0)
    )
    assert with_weight == without


@pytest.mark.parametrize("update, distill", [(0, 0.0), (500, 0.0), (1000, 1.0), (5000, 2.0)])
def test_weights_of_a_ctc_model_by_hand(update, distill):
    config = cached_config(
        "loss.objective=ctc",
        "loss.ctc_weight=1",
        "distill.start=500",
        "distill.ramp=1000",
        "distill.weight=2",
    )
    assert Weights.at(update, config.loss, config.distill) == Weights.of_ctc(distill)
    assert Weights.scoring(config.loss) == Weights.of_ctc()
    assert Weights.scoring(cached_config().loss) == Weights(1.0, 1.0, 0.0)


def test_gated_net_of_a_ctc_model():
    loss = make_loss(
        learned(
            "simple-topk", *WIDE, "loss.objective=ctc", "loss.ctc_weight=0.5", "method.distill=none"
        )
    )
    count = prefix_counts(loss.selector, ORDER, [9684 * 0.5])[0]
    got, losses = loss(features(), TARGETS, [], Weights.of_ctc(), 59)
    nets = loss.model.full, loss.selector.units.subnet(ORDER[:count])
    largest, smallest = (
        plain_ctc(loss.model, loss.model.encoder(features(), LENGTHS, net)[0])[1] for net in nets
    )
    torch.testing.assert_close(
        torch.stack(losses), torch.stack([largest, smallest]).detach(), rtol=1e-4, atol=1e-3
    )
    assert_same(got, loss.model, 0.5 * (largest + 0.6 * smallest), loss.model)


@pytest.mark.parametrize("optimizer", ["scaled_adam", "adam"])
@pytest.mark.parametrize("size", [0.01, 0.5, 1.0, 5.0])
def test_scores_move_by_the_learning_rate_whatever_their_size(optimizer, size):
    config = learned("orthosoftmax", f"method.optimizer={optimizer}", "train.lr=0.02")
    model, selector = Transducer(config, VOCAB), make_selector(config, VOCAB)
    scores = selector.scores
    signs = torch.sign(torch.randn(21, 21, generator=torch.Generator().manual_seed(13)))
    with torch.no_grad():
        scores.copy_(
            size * torch.sign(torch.randn(21, 21, generator=torch.Generator().manual_seed(14)))
        )
    made = make_optimizer(config, model, selector)
    moved = torch.zeros(21, 21)
    for update in range(60):
        before = scores.detach().clone()
        scores.grad = 0.3 * signs
        made.step()
        if update >= 50:  # by then momentum has built up
            moved += scores.detach() - before
    torch.testing.assert_close(moved, -10 * 0.02 * signs, rtol=0.2, atol=0)


def test_scores_are_a_group_of_their_own_without_weight_decay():
    for optimizer in ("scaled_adam", "adam"):
        config = learned("orthosoftmax", f"method.optimizer={optimizer}", "learn.lr_scale=3")
        model, selector = Transducer(config, VOCAB), make_selector(config, VOCAB)
        groups = make_optimizer(config, model, selector).param_groups
        assert len(groups) == 3 and [p is selector.scores for p in groups[2]["params"]] == [True]
        assert groups[2]["lr_scale"] == 3 and groups[2].get("weight_decay", 0.0) == 0.0
        assert sum(len(g["params"]) for g in groups) == 1 + len(list(model.parameters()))
    assert len(make_optimizer(cached_config(), tiny_model(cached_config())).param_groups) == 2


@pytest.mark.parametrize("optimizer", ["scaled_adam", "adam"])
def test_the_first_step_of_scores_is_no_longer_than_the_learning_rate(optimizer):
    """Adam's means begin when the scores do: 200 updates of the largest net alone must not make the
    first ones seven times as long."""
    config = learned("orthosoftmax", f"method.optimizer={optimizer}", "train.lr=0.02")
    model, selector = Transducer(config, VOCAB), make_selector(config, VOCAB)
    made, scores = make_optimizer(config, model, selector), selector.scores
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    scores.grad, before = None, scores.detach().clone()
    for _ in range(100):
        made.step()
    assert torch.equal(scores, before)
    scores.grad = torch.randn(21, 21, generator=torch.Generator().manual_seed(15))
    made.step()
    first = 0.02 * (
        0.1 if optimizer == "scaled_adam" else 1.0
    )  # ScaledAdam's momentum is not corrected for its start
    torch.testing.assert_close(
        (scores - before).detach(), -first * scores.grad.sign(), rtol=1e-3, atol=1e-5
    )


def test_large_gradients_of_scores_do_not_clip_the_model():
    """A penalty that closes all gates at once is not a reason for the net to learn less."""
    weights = []
    for size in (1e-3, 1e4):
        config = learned("orthosoftmax", "train.lr=0.02")
        torch.manual_seed(0)
        model, selector = Transducer(config, VOCAB), make_selector(config, VOCAB)
        made = make_optimizer(config, model, selector)
        rng = torch.Generator().manual_seed(16)
        for update in range(45):
            for p in (*model.parameters(), selector.scores):
                p.grad = torch.randn(p.shape, generator=rng) * (
                    size if p is selector.scores and update == 42 else 1
                )
            made.step()
        weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
