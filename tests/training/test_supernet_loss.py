from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import (
    make_targets,
    plain_pruned_loss,
    plain_simple_loss,
    tiny_config,
    tiny_model,
)
from todm.config.keys import Config, DistillConfig, LossConfig
from todm.data.batches import Batch
from todm.data.frames import SILENCE
from todm.model import feed_forward, mhssm
from todm.subnet import Subnet
from todm.training import supernet_loss
from todm.training.distillation import LatticeDistillation
from todm.training.supernet_loss import SupernetLoss, Weights, make_transducer_loss
from utils.pruned_rnnt import TransducerLoss

LENGTHS = torch.tensor([75, 43])
TARGETS = make_targets([[3, 5, 4, 3], [7, 8]], [18, 10])
WEIGHTS = Weights(simple=0.7, pruned=0.9, distill=0.3)
SUBNETS = [Subnet.parse("h0-2f0-1 - h0-2f0-2"), Subnet.parse("h0,2f1 f0 h0-2f0")]
WIDE = 20  # prune_range that keeps every node


def make_loss(config: Config) -> SupernetLoss:
    return SupernetLoss(
        tiny_model(config), config, make_transducer_loss(config.loss, "torch", torch.device("cpu"))
    )


def make_features() -> Tensor:
    return torch.randn(2, 75, 80, generator=torch.Generator().manual_seed(1))


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """By name; zero where there is none."""
    names, parameters = zip(*model.named_parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found)}


def assert_same(got: Tensor, expected: Tensor, model: nn.Module) -> None:
    """Equal in value and in every parameter's gradient."""
    torch.testing.assert_close(got.double(), expected.double(), rtol=1e-5, atol=1e-4)
    wanted = gradients(expected, model)
    for name, gradient in gradients(got, model).items():
        torch.testing.assert_close(
            gradient,
            wanted[name],
            rtol=1e-3,
            atol=1e-4 + 1e-4 * wanted[name].abs().max().item(),
            msg=name,
        )


def plain_ctc(model: nn.Module, encoded: Tensor) -> Tensor:
    if model.heads.ctc is None:
        return torch.zeros(())
    log_probs = model.heads.ctc(encoded).log_softmax(-1)
    return sum(
        nn.functional.ctc_loss(
            log_probs[b, :t], TARGETS.symbols[b, :s], (t,), (s,), reduction="sum"
        )
        for b, (s, t) in enumerate(zip(TARGETS.lengths.tolist(), TARGETS.frames.tolist()))
    )


def plain_net(
    model: nn.Module, features: Tensor, subnet: Subnet | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One net alone: encoder output, predictor output, logits of the full lattice (B, T, S+1,
    V)."""
    encoded, _ = model.encoder(features, LENGTHS, subnet)
    predicted = model.predictor.teacher_forced(TARGETS.symbols)
    joiner = model.joiner
    return (
        encoded,
        predicted,
        joiner(joiner.encoder_proj(encoded)[:, :, None], joiner.predictor_proj(predicted)[:, None]),
    )


def plain_supernet_loss(
    model: nn.Module, config: Config, features: Tensor, subnets: list[Subnet], weights: Weights
) -> Tensor:
    """Every net by itself on the full lattice, node by node."""
    ranges = torch.arange(5).expand(2, 18, 5)
    encoded, predicted, teacher = plain_net(model, features, None)
    lattice = {"rnnt_type": config.loss.rnnt_type, "delay_penalty": config.loss.delay_penalty}
    simple = plain_simple_loss(
        model.heads.simple_am(encoded).double(),
        model.heads.simple_lm(predicted).double(),
        TARGETS,
        config.loss.lm_scale,
        config.loss.am_scale,
        **lattice,
    )
    total = (
        weights.simple * simple
        + weights.pruned * plain_pruned_loss(teacher.double(), ranges, TARGETS, **lattice)
        + config.loss.ctc_weight * plain_ctc(model, encoded)
    )
    distillation = LatticeDistillation(
        config.method, config.distill, ranges, TARGETS, config.loss.rnnt_type
    )
    for subnet in subnets:
        encoded, _, student = plain_net(model, features, subnet)
        hard = weights.pruned * plain_pruned_loss(student.double(), ranges, TARGETS, **lattice)
        soft = distillation(
            distillation.log_probs(teacher.detach()), distillation.log_probs(student)
        )
        total = total + config.loss.subnet_weight * hard + weights.distill * soft
    return total


@pytest.mark.parametrize("ctc_weight", [0.0, 0.4])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_total_is_the_sum_of_parts_computed_separately(count, ctc_weight):
    config = tiny_config(
        f"loss.prune_range={WIDE}",
        f"loss.ctc_weight={ctc_weight}",
        "loss.subnet_weight=0.6",
        "loss.am_scale=0.1",
    )
    loss, features = make_loss(config), make_features()
    total, losses = loss(features, TARGETS, SUBNETS[:count], WEIGHTS)
    assert_same(
        total,
        plain_supernet_loss(loss.model, config, features, SUBNETS[:count], WEIGHTS),
        loss.model,
    )
    assert len(losses) == count + 1 and not any(x.requires_grad for x in losses)


@pytest.mark.parametrize("rnnt_type", ["modified", "constrained"])
@pytest.mark.parametrize("delay_penalty", [0.0, 0.2])
def test_all_parts_are_of_the_lattice_that_the_conf_names(rnnt_type, delay_penalty):
    config = tiny_config(
        f"loss.prune_range={WIDE}",
        f"loss.rnnt_type={rnnt_type}",
        f"loss.delay_penalty={delay_penalty}",
    )
    loss, features = make_loss(config), make_features()
    total, losses = loss(features, TARGETS, SUBNETS, WEIGHTS)
    assert_same(
        total, plain_supernet_loss(loss.model, config, features, SUBNETS, WEIGHTS), loss.model
    )
    regular = make_loss(tiny_config(f"loss.prune_range={WIDE}"))(
        features, TARGETS, SUBNETS, WEIGHTS
    )[1]
    assert all(abs(a - b) > 0.1 for a, b in zip(losses, regular))


@pytest.mark.parametrize("weights", [WEIGHTS, Weights.of_ctc()])
def test_a_model_with_a_tail_learns_on_silence_behind_every_utterance(weights):
    """The losses are those of a model without one on features with the silence; what the batch is
    padded with does not matter."""
    tail = 21
    with_tail, plain = (
        make_loss(tiny_config(f"model.tail_frames={n}", "loss.ctc_weight=0.4")) for n in (tail, 0)
    )
    padded = torch.full((2, 75 + tail, 80), SILENCE)
    for b, length in enumerate(LENGTHS.tolist()):
        padded[b, :length] = make_features()[b, :length]
    batches = [
        Batch(make_features(), LENGTHS, ["cecc", "ef"], ["x", "y"]),
        Batch(padded, LENGTHS + tail, ["cecc", "ef"], ["x", "y"]),
    ]
    got, expected = (
        supernet_loss.make_targets(batch, Letters(), n) for batch, n in zip(batches, (tail, 0))
    )
    assert got.frames.tolist() == expected.frames.tolist() == [23, 15]
    total, losses = with_tail(batches[0].features, got, SUBNETS, weights)
    wanted, others = plain(padded, expected, SUBNETS, weights)
    torch.testing.assert_close(
        torch.stack([total, *losses]), torch.stack([wanted, *others]), rtol=1e-5, atol=1e-4
    )
    with pytest.raises(ValueError, match="model.tail_frames"):
        with_tail(make_features(), TARGETS, SUBNETS, weights)


def test_subnets_share_the_pruning_ranges_of_the_largest():
    fast_rnnt = pytest.importorskip("fast_rnnt")
    config = tiny_config("loss.prune_range=3", "loss.simple_scale=0", "distill.weight=0")
    model, features = tiny_model(config), make_features()
    transducer_loss = TransducerLoss(fast_rnnt, 3, config.loss.lm_scale, config.loss.am_scale)
    _, losses = SupernetLoss(model, config, transducer_loss)(features, TARGETS, SUBNETS, WEIGHTS)
    encoded, predicted, _ = plain_net(model, features, None)
    _, ranges = transducer_loss.simple(
        model.heads.simple_am(encoded), model.heads.simple_lm(predicted), TARGETS
    )
    index = ranges[..., None].expand(-1, -1, -1, model.vocab_size)
    for subnet, got in zip([None, *SUBNETS], losses):
        expected = plain_pruned_loss(
            plain_net(model, features, subnet)[2].gather(2, index).double(), ranges, TARGETS
        )
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)


def test_the_teacher_learns_nothing_from_distillation():
    """What only the largest net has gets no gradient, what the subnet has does."""
    loss = make_loss(tiny_config(f"loss.prune_range={WIDE}", "loss.subnet_weight=0"))
    total, _ = loss(
        make_features(), TARGETS, SUBNETS[:1], Weights(simple=0.0, pruned=0.0, distill=1.0)
    )
    found = gradients(total, loss.model)
    of_the_largest_alone = [
        g for name, g in found.items() if name.startswith(("encoder.blocks.1.", "heads."))
    ]
    up = found["encoder.blocks.0.ffn.up.weight"]
    assert all(g.abs().max() < 1e-20 for g in [*of_the_largest_alone, up[12:]])
    assert (up[:12].abs().amax(1) > 1e-6).all()


@pytest.mark.parametrize("overrides, distill", [(("method.distill=none",), 0.3), ((), 0.0)])
def test_no_distillation_when_it_is_off(overrides, distill):
    config = tiny_config(f"loss.prune_range={WIDE}", *overrides)
    loss, features = make_loss(config), make_features()
    got, _ = loss(features, TARGETS, SUBNETS, replace(WEIGHTS, distill=distill))
    expected = plain_supernet_loss(
        loss.model, config, features, SUBNETS, replace(WEIGHTS, distill=0.0)
    )
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "update, expected",
    [
        (0, (1.0, 0.1, 0.0)),
        (500, (0.875, 0.325, 0.0)),
        (1000, (0.75, 0.55, 1.0)),
        (1500, (0.625, 0.775, 2.0)),
        (9000, (0.5, 1.0, 2.0)),
    ],
)
def test_weights_by_hand(update, expected):
    weights = Weights.at(
        update,
        LossConfig(warmup=2000, simple_scale=0.5),
        DistillConfig(weight=2.0, start=500, ramp=1000),
    )
    assert (weights.simple, weights.pruned, weights.distill) == pytest.approx(expected)


@pytest.mark.parametrize(
    "update, expected", [(0, (0.5, 1.0, 0.0)), (9, (0.5, 1.0, 0.0)), (10, (0.5, 1.0, 2.0))]
)
def test_weights_without_warm_up_and_ramp(update, expected):
    weights = Weights.at(
        update, LossConfig(warmup=0, simple_scale=0.5), DistillConfig(weight=2.0, start=10, ramp=0)
    )
    assert (weights.simple, weights.pruned, weights.distill) == pytest.approx(expected)


@pytest.mark.parametrize(
    "update, expected",
    [
        (0, (0.0, 0.0, 0.0)),
        (99, (0.0, 0.0, 0.0)),
        (100, (1.0, 0.1, 2.0)),
        (600, (0.75, 0.55, 2.0)),
        (1100, (0.5, 1.0, 2.0)),
    ],
)
def test_warm_up_begins_after_the_updates_of_ctc_alone(update, expected):
    loss = LossConfig(warmup=1000, simple_scale=0.5, ctc_weight=0.3, ctc_first=100)
    weights = Weights.at(update, loss, DistillConfig(weight=2.0, start=0, ramp=0))
    assert (weights.simple, weights.pruned, weights.distill) == pytest.approx(expected)
    assert weights.ctc_alone == (update < 100)


@pytest.mark.parametrize("subnet_weight", [1.0, 0.6])
def test_ctc_alone_trains_every_net_and_nothing_of_the_transducer(subnet_weight):
    config = tiny_config("loss.ctc_weight=0.4", f"loss.subnet_weight={subnet_weight}")
    loss, features = make_loss(config), make_features()
    total, losses = loss(features, TARGETS, SUBNETS, Weights.of_ctc())
    parts = [
        plain_ctc(loss.model, loss.model.encoder(features, LENGTHS, net)[0])
        for net in (None, *SUBNETS)
    ]
    torch.testing.assert_close(torch.stack(losses), torch.stack(parts), rtol=1e-5, atol=1e-4)
    assert_same(total, 0.4 * (parts[0] + subnet_weight * sum(parts[1:])), loss.model)


@pytest.mark.parametrize(
    "kind, ffn, ssm",
    [
        ("adaptive", [0.2] * 3 + [0.1, 0.15], [0.2] * 3 + [0.2 * 2 / 3, 0.2]),
        ("constant", [0.2] * 5, [0.2] * 5),
    ],
)
def test_dropout_follows_the_width_that_runs(monkeypatch, kind, ffn, ssm):
    """p_c = p_max c / c_max: the largest net, then 2 and 3 of 4 chunks, 2 and 3 of 3 head
    groups."""
    seen = {feed_forward: [], mhssm: []}

    def recording(module):
        def dropout(x: Tensor, p: float, training: bool) -> Tensor:
            seen[module].append((p, training))
            return x

        return dropout

    for module in seen:
        monkeypatch.setattr(module, "dropout", recording(module))
    loss = make_loss(tiny_config("model.dropout=0.2", f"method.dropout={kind}"))
    loss(make_features(), TARGETS, [Subnet.parse("h0,2f0-1 - h0-2f0,2-3")], WEIGHTS)
    for module, expected in ((feed_forward, ffn), (mhssm, ssm)):
        assert [p for p, _ in seen[module]] == pytest.approx(expected)
        assert all(training for _, training in seen[module])


class Letters:
    def encode(self, text: str) -> list[int]:
        return [ord(c) - ord("a") + 3 for c in text]


def test_targets_of_a_batch():
    batch = Batch(torch.zeros(2, 75, 80), torch.tensor([75, 40]), ["abc", "d"], ["x", "y"])
    targets = supernet_loss.make_targets(batch, Letters(), 0)
    assert targets.symbols.tolist() == [[3, 4, 5], [6, 0, 0]] and targets.lengths.tolist() == [3, 1]
    assert targets.frames.tolist() == [18, 9]
    assert targets.boundary.tolist() == [
        [0, 0, 3, 18],
        [0, 0, 1, 9],
    ] and targets.heard.tolist() == [75, 40]
    batch = Batch(
        torch.zeros(3, 75, 80), torch.tensor([75, 40, 6]), ["abc", "d", "e"], ["x", "y", "z"]
    )
    assert supernet_loss.make_targets(batch, Letters(), 20).frames.tolist() == [23, 14, 0]
