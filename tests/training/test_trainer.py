"""The training loop: ablations by conf alone, non-finite batches, what a checkpoint holds."""

import logging

import pytest
import torch
from torch.overrides import TorchFunctionMode

from tests.conftest import tiny_arguments
from todm.config.keys import Config
from todm.config.load import load
from todm.training import train
from todm.training import trainer as trainer_module
from todm.training.experiment import load_experiment
from todm.training.memory_check import try_steps
from todm.training.supernet_loss import make_targets
from todm.training.trainer import Trainer
from utils import pruned_rnnt_torch as transducer_loss_torch
from utils.checkpoint import list_checkpoints, load_checkpoint
from utils.errors import UserError
from utils.pruned_rnnt import TransducerLoss

CPU = torch.device("cpu")


def tiny_config(tiny_run, tmp_path, *overrides: str) -> Config:
    """The tiny experiment's data, another experiment folder, three updates."""
    folder = tiny_run[0]
    return load(
        "conf/mini.yaml",
        [
            *tiny_arguments(folder),
            f"exp={tmp_path}",
            "train.updates=3",
            "train.valid_every=3",
            *overrides,
        ],
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.distill=kl", "method.lattice=collapsed"],
        ["method.distill=none", "method.dropout=constant", "train.accumulate=2"],
        ["method.optimizer=adam", "train.lr=0.002", "train.precision=bf16"],
        [
            "method.subnets_per_step=0",
            "method.smallest=false",
            "loss.ctc_weight=0",
            "loss.ctc_first=0",
        ],
        [
            "method.subnets_per_step=2",
            "method.smallest=false",
            "supernet.elastic_heads=true",
            "supernet.min_heads=1",
        ],
        ["model.direction=causal", "model.stack=2", "loss.backend=torch"],
        ["model.gating=false", "spec_augment.enabled=false"],
        ["model.architecture=h0-1f0-1 - h0f0"],
        ["supernet.min_blocks=3", "supernet.min_ffn_chunks=4"],
    ],
)
def test_every_ablation_is_the_same_loop_with_another_conf(tiny_run, tmp_path, overrides):
    config = tiny_config(tiny_run, tmp_path, *overrides)
    trainer = Trainer(config, CPU)
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    trainer.run()
    assert trainer.update == 3 and trainer.bad_batches.total == 0
    assert [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])] == []
    assert load_experiment(tmp_path, "last", 0, CPU).model.full == trainer.model.full


def test_joined_utterances_go_on_where_they_stopped(tiny_run, tmp_path):
    """Which utterances are joined and with what pauses is drawn; a resumed training draws the
    same."""

    def trainer(name: str, updates: int) -> Trainer:
        config = tiny_config(
            tiny_run,
            tmp_path / name,
            "data.join_prob=0.5",
            "data.join_pause=[0,0.5]",
            "data.num_workers=0",
            f"train.updates={updates}",
        )
        return Trainer(config, CPU)

    joined: list[list[str]] = []

    def watched(run: Trainer) -> Trainer:
        step = run.train_update
        run.train_update = lambda batches: step(
            joined.append(batch.ids) or batch for batch in batches
        )
        return run

    whole = watched(trainer("whole", 6))  # a trainer sets the generators' seeds when it is made
    whole.run()
    first = watched(trainer("parts", 3))
    first.run()
    state = first.state()
    second = watched(trainer("parts", 6))
    second.load(state)
    second.run()
    assert (
        len(joined) == 12
        and joined[:6] == joined[6:]
        and any("+" in name for ids in joined for name in ids)
    )
    for (name, a), (_, b) in zip(whole.model.named_parameters(), second.model.named_parameters()):
        torch.testing.assert_close(a, b, msg=name)


def poison(trainer: Trainer, calls: range) -> list[int]:
    """Make the loss NaN in some calls; returns the list that counts them."""
    seen: list[int] = []
    forward = trainer.loss.forward

    def poisoned(*arguments):
        loss, losses = forward(*arguments)
        seen.append(len(seen))
        return (loss * float("nan") if seen[-1] in calls else loss), losses

    trainer.loss.forward = poisoned
    return seen


def test_a_non_finite_loss_is_skipped_counted_and_kept(tiny_run, tmp_path, caplog):
    trainer = Trainer(tiny_config(tiny_run, tmp_path), CPU)
    poison(trainer, range(1, 3))
    with caplog.at_level(logging.WARNING):
        trainer.run()
    assert trainer.update == 3 and trainer.bad_batches.total == 2
    kept = sorted((tmp_path / "bad-batches").glob("*.pt"))
    batch = torch.load(kept[0], weights_only=True)[0]
    assert len(kept) == 2 and f"{kept[0]} ({', '.join(batch['ids'][:10])}" in caplog.text
    assert batch["features"].shape[0] == len(batch["ids"]) == len(batch["texts"])
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_too_many_bad_batches_in_a_row_stop_with_a_message(tiny_run, tmp_path):
    trainer = Trainer(tiny_config(tiny_run, tmp_path, "train.max_bad_batches=3"), CPU)
    seen = poison(trainer, range(1000))
    with pytest.raises(UserError, match="3 batches in a row.*Lower train.lr"):
        trainer.run()
    assert len(seen) == 3


def test_weights_that_are_not_finite_are_not_saved(tmp_path, tiny_run):
    """The training ends at once; the checkpoint before is there."""
    trainer = Trainer(tiny_config(tiny_run, tmp_path, "train.save_every=1"), CPU)
    step = trainer.optimizer_step

    def broken() -> None:
        step()
        if trainer.update == 2:
            with torch.no_grad():
                trainer.model.joiner.output.bias[0] = float("inf")

    trainer.optimizer_step = broken
    with pytest.raises(UserError, match=r"update 2: .*diverged: model\.joiner\.output\.bias"):
        trainer.run()
    assert [update for update, _ in list_checkpoints(tmp_path / "checkpoints")] == [1]
    with pytest.raises(UserError, match="diverged"):
        trainer.train_update(iter(trainer.stream))
    assert trainer.bad_batches.total == 0


def test_an_optimiser_that_gives_up_ends_with_a_message(tiny_run, tmp_path):
    trainer = Trainer(tiny_config(tiny_run, tmp_path), CPU)

    def give_up(optimizer: torch.optim.Optimizer) -> None:
        raise FloatingPointError("half of the last 10 steps had gradients that are not finite")

    trainer.scaler.step = give_up
    with pytest.raises(UserError, match="update 0: half of the last 10 steps .*Lower train.lr"):
        trainer.run()


def test_a_dev_that_can_not_be_read_costs_no_update(tiny_run, tmp_path, monkeypatch):
    trainer = Trainer(tiny_config(tiny_run, tmp_path, "train.save_every=100"), CPU)

    def unreadable(*arguments) -> dict:
        raise UserError("dev is gone")

    monkeypatch.setattr(trainer_module, "dev_losses", unreadable)
    with pytest.raises(UserError, match="dev is gone"):
        trainer.run()
    assert [update for update, _ in list_checkpoints(tmp_path / "checkpoints")] == [3]


def test_non_finite_gradients_change_nothing(tiny_run, tmp_path):
    """The batch is kept, and the update is made from the next one."""
    trainer = Trainer(tiny_config(tiny_run, tmp_path), CPU)
    calls, after_bad = [], []

    def infinite_once(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * float("inf") if len(calls) == 1 else gradient

    trainer.model.joiner.output.bias.register_hook(infinite_once)
    keep = trainer.bad_batches.keep

    def watched(update: int, group: list) -> None:
        after_bad.append([p.clone() for p in trainer.model.parameters()])
        assert all(p.grad is None for p in trainer.model.parameters())
        keep(update, group)

    trainer.bad_batches.keep = watched
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.train_update(iter(trainer.stream))
    assert trainer.update == 1 and trainer.bad_batches.total == 1 and len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(before, after_bad[0]))


def test_a_group_ends_with_a_batch_whose_loss_is_not_finite(tiny_run, tmp_path):
    """Its other batches are not computed, and all of them are replaced."""
    trainer = Trainer(tiny_config(tiny_run, tmp_path, "train.accumulate=3"), CPU)
    seen = poison(trainer, range(1, 2))
    trainer.train_update(iter(trainer.stream))
    assert len(seen) == 2 + 3 and trainer.bad_batches.total == 1 and trainer.stream.batch == 6


def test_a_bad_loss_or_gradient_of_another_rank_is_one_of_this_rank(
    tiny_run, tmp_path, monkeypatch
):
    """All ranks skip the batch, or none."""
    trainer = Trainer(tiny_config(tiny_run, tmp_path), CPU)
    others = iter([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])  # loss and gradients of the other rank

    def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
        bad = next(others)
        return [a + b for a, b in zip(values, [*bad, *values[2:]])]

    monkeypatch.setattr(trainer_module, "sum_over_ranks", sum_over_ranks)
    trainer.train_update(iter(trainer.stream))
    assert trainer.update == 1 and trainer.bad_batches.total == 2


class DeviceReads(TorchFunctionMode):
    """Counts the reads of numbers that a GPU has computed, for each of which the program would wait
    until the GPU has done all its work.

    On a CPU those of floating point stand for them: token ids, lengths and counts, which are
    integers, are on the host in both.
    """

    reading = (
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.Tensor.cpu,
        torch.Tensor.__bool__,
        torch.Tensor.__float__,
        torch.Tensor.__int__,
        torch.Tensor.nonzero,
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function in self.reading:
            read = arguments[0]
            self.count += read.is_floating_point() or read.dtype == torch.bool
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize(
    "overrides, reads", [([], 2), (["train.accumulate=2"], 3), (["method.subnets_per_step=3"], 2)]
)
def test_an_update_reads_once_from_the_device(tiny_run, tmp_path, overrides, reads):
    """Losses and what is finite together, between the batches of a group that the next may begin;
    and ScaledAdam the norms that it clips by."""
    config = tiny_config(tiny_run, tmp_path, "loss.backend=torch", "loss.ctc_first=0", *overrides)
    trainer = Trainer(config, CPU)
    batches = iter(trainer.stream)
    group = [next(batches) for _ in range(config.train.accumulate)]
    with DeviceReads() as mode:
        trainer.train_update(iter(group))
    assert trainer.update == 1 and 0 < mode.count <= reads


def test_weights_last_running_and_range(tiny_run):
    folder = tiny_run[0] / "exp"
    (_, first), *_, (_, last) = list_checkpoints(folder / "checkpoints")
    first, last = load_checkpoint(first), load_checkpoint(last)
    name = "joiner.output.weight"
    for weights, expected in {
        "last": last["model"][name],
        "running": last["average"]["values"][name].float(),
        # updates 4 to 12 were averaged one by one, the first checkpoint stands at 4: the mean over
        #   5 to 12
        "range": (
            (last["average"]["values"][name] * 12 - first["average"]["values"][name] * 4) / 8
        ).float(),
    }.items():
        model = load_experiment(folder, weights, 2, CPU).model
        torch.testing.assert_close(model.state_dict()[name], expected)


@pytest.mark.parametrize(
    "overrides, nets",
    [
        (["method.subnets_from=100"], [3]),
        (["method.subnets_per_step=2", "method.smallest=false"], [3]),
        (["method.subnets_per_step=0", "method.smallest=false"], [1]),
        (["select.method=orthosoftmax", "train.updates=30"], [3, 2]),
        (
            [
                "select.method=simple-topk",
                "train.updates=30",
                "loss.objective=ctc",
                "method.subnets_per_step=2",
            ],
            [4, 2],
        ),
    ],
)
def test_the_largest_steps_are_tried_before_they_come(tiny_run, tmp_path, overrides, nets):
    """On a GPU, of the largest batches; here that all nets of a step run, also those that join
    later, and leave nothing behind."""
    trainer = Trainer(tiny_config(tiny_run, tmp_path, *overrides), CPU)
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    trainer.stream.sampler.start(0, 0)
    batch, steps = next(iter(trainer.stream.loader)), trainer.nets.largest_steps()
    assert try_steps(trainer.loss, batch, trainer.tokenizer, steps) == nets
    assert all(
        torch.equal(p, before[n]) and p.grad is None for n, p in trainer.model.named_parameters()
    )


def test_what_is_trained_is_what_the_conf_names(tiny_run, tmp_path):
    """Lattice, delay penalty and tail reach an update: its loss is that of the batch, computed
    apart from the trainer."""
    overrides = [
        "loss.rnnt_type=modified",
        "loss.delay_penalty=0.02",
        "model.tail_frames=24",
        "loss.backend=torch",
        "loss.ctc_first=0",
    ]
    trainer = Trainer(tiny_config(tiny_run, tmp_path, *overrides), CPU)
    trainer.model.eval()  # no dropout
    batch = next(iter(trainer.stream))
    plain = TransducerLoss(transducer_loss_torch, 5, 0.25, 0.0, "modified", 0.02)
    encoded, frames = trainer.model.encoder(batch.features, batch.lengths)
    targets = make_targets(batch, trainer.tokenizer, 24)
    predicted = trainer.model.predictor.teacher_forced(targets.symbols)
    heads, joiner = trainer.model.heads, trainer.model.joiner
    _, ranges = plain.simple(heads.simple_am(encoded), heads.simple_lm(predicted), targets)
    nodes = plain.prune(joiner.encoder_proj(encoded), joiner.predictor_proj(predicted), ranges)
    expected = plain.pruned(joiner(*nodes), ranges, targets).item()
    losses, seconds, count = trainer.train_update(iter([batch]))
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert (
        count == int(frames.sum()) == int(((batch.lengths + 24 - 3) // 4).sum())
        and seconds == batch.seconds
    )


@pytest.mark.parametrize("optimizer", ["scaled_adam", "adam"])
def test_scores_wait_for_step_1_and_rest_after_it(tiny_run, tmp_path, optimizer):
    """Before: 3 updates without them. Then updates 3 to 7 move them, each by an optimiser that
    starts with them."""
    overrides = [
        "select.method=simple-topk",
        "train.updates=12",
        "learn.share=0.67",
        "method.subnets_from=3",
        f"method.optimizer={optimizer}",
    ]
    trainer = Trainer(tiny_config(tiny_run, tmp_path, *overrides), CPU)
    seen, scores = [], trainer.nets.selector.scores
    step = trainer.optimizer_step

    def watched() -> bool:
        before = scores.detach().clone()
        done = step()
        seen.append(not torch.equal(scores, before))
        return done

    trainer.optimizer_step = watched
    trainer.run()
    assert seen == [False] * 3 + [True] * 5 + [False] * 4
    assert int(trainer.optimizer.state[scores]["step"]) == 5


def test_a_seed_gives_the_same_net_under_every_selection(tiny_run, tmp_path):
    """Runs of a table are then compared from one start."""
    plain, *learned = (
        Trainer(tiny_config(tiny_run, tmp_path, "train.updates=30", f"select.method={method}"), CPU)
        for method in ("uniform", "simple-topk", "orthosoftmax")
    )
    for other in learned:
        state = other.model.state_dict()
        assert all(
            torch.equal(value, state[name]) for name, value in plain.model.state_dict().items()
        )


@pytest.mark.parametrize(
    "precision, ratio, warned", [("bf16", 20.0, True), ("bf16", 0.7, False), ("fp32", 20.0, False)]
)
def test_a_slow_precision_is_named(monkeypatch, caplog, precision, ratio, warned):
    monkeypatch.setattr(train, "slower_than_fp32", lambda _: ratio)
    with caplog.at_level(logging.WARNING):
        train.warn_of_slow_precision(precision, CPU)
    assert (
        ("20 times slower" in caplog.text and "train.precision=fp32" in caplog.text)
        == warned
        == bool(caplog.records)
    )
