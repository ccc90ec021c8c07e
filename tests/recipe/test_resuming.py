"""Trainings that are stopped and go on: to the same weights, the same averaging window, and the
right epochs."""

import logging
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, tiny_arguments
from tests.training.test_trainer import CPU, tiny_config
from todm.data.batches import GlobalRandom
from todm.data.loaders import train_loader
from todm.training import trainer as trainer_module
from todm.training import validation
from todm.training.batch_stream import count_batches
from todm.training.experiment import load_experiment
from todm.training.trainer import Trainer
from utils import interrupts
from utils.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    window_start,
)
from utils.eden import eden
from utils.interrupts import Stopped


def stop_at(trainer: Trainer, update: int, *numbers: int) -> None:
    """Send this process signals in the middle of an update: its forward pass is done, its step
    not."""
    forward = trainer.loss.forward

    def signalled(*arguments):
        result = forward(*arguments)
        if trainer.update == update and trainer.model.training:
            for number in numbers:
                os.kill(os.getpid(), number)
        return result

    trainer.loss.forward = signalled


def resumed(config) -> Trainer:
    trainer = Trainer(config, CPU)
    trainer.load(load_newest(config.exp_dir / "checkpoints")[1])
    return trainer


def updates(config) -> list[int]:
    return [update for update, _ in list_checkpoints(config.exp_dir / "checkpoints")]


def assert_same(a: Trainer, b: Trainer) -> None:
    values = [
        x.state()["average"]["values"] | {f"model {k}": v for k, v in x.model.state_dict().items()}
        for x in (a, b)
    ]
    assert all(torch.equal(values[1][name], value) for name, value in values[0].items())


LOOP = ("train.updates=10", "train.save_every=4", "train.valid_every=5")


@pytest.mark.parametrize("keep_last", [2, 10])
def test_interrupts_change_neither_weights_nor_the_window(tiny_run, tmp_path, keep_last):
    """Stopped in the middle of updates 2, 5 (before a validation is due) and 6; the files that are
    left are those of a training that never was."""
    more = (*LOOP, f"train.keep_last={keep_last}")
    whole = Trainer(tiny_config(tiny_run, tmp_path / "whole", *more), CPU)
    whole.run()
    config = tiny_config(tiny_run, tmp_path / "broken", *more)
    trainer = Trainer(config, CPU)
    for update, number, left in (
        (1, signal.SIGTERM, [2]),
        (4, signal.SIGINT, [4, 5]),
        (5, signal.SIGHUP, [4, 6]),
    ):
        stop_at(trainer, update, number)
        with pytest.raises(Stopped) as caught:
            trainer.run()
        assert (
            caught.value.signal == number
            and trainer.update == update + 1
            and updates(config) == left
        )
        assert load_experiment(config.exp_dir, "range", 1, CPU).weights == (
            "update 2" if left == [2] else f"mean over updates 5 to {update + 1}"
        )
        trainer = resumed(config)
    trainer.run()
    assert_same(whole, trainer)
    assert updates(config) == updates(whole.config) == [4, 8, 10]
    for count, words in ((1, "9"), (2, "5"), (3, "5")):
        for one in (whole.config, config):
            assert (
                load_experiment(one.exp_dir, "range", count, CPU).weights
                == f"mean over updates {words} to 10"
            )


def test_a_second_signal_saves_nothing(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupts, "SAME", -1.0)
    trainer = Trainer(tiny_config(tiny_run, tmp_path, *LOOP), CPU)
    stop_at(trainer, 5, signal.SIGINT, signal.SIGTERM)
    with pytest.raises(Stopped) as caught:
        trainer.run()
    assert (
        caught.value.signal == signal.SIGTERM
        and updates(trainer.config) == [4]
        and trainer.update == 5
    )


def test_a_stop_in_the_last_update_saves_and_stops(tiny_run, tmp_path):
    config = tiny_config(tiny_run, tmp_path, *LOOP)
    trainer = Trainer(config, CPU)
    stop_at(trainer, 9, signal.SIGTERM)
    with pytest.raises(Stopped):
        trainer.run()
    assert updates(config) == [4, 8, 10]
    trainer = resumed(config)
    trainer.run()
    assert updates(config) == [4, 8, 10]


def test_another_ranks_signal_stops_this_one(tiny_run, tmp_path, monkeypatch):
    """The sum over ranks says that one of them has got SIGTERM."""
    monkeypatch.setattr(
        trainer_module,
        "sum_over_ranks",
        lambda values, device: [*values[:-3], 0.0, 1.0, 0.0] if len(values) > 3 else values,
    )
    trainer = Trainer(tiny_config(tiny_run, tmp_path, *LOOP), CPU)
    with pytest.raises(Stopped) as caught:
        trainer.run()
    assert caught.value.signal == signal.SIGTERM and updates(trainer.config) == [1]


def test_a_validation_is_given_up(tiny_run, tmp_path, caplog, monkeypatch):
    trainer = Trainer(tiny_config(tiny_run, tmp_path, *LOOP, "train.valid_every=3"), CPU)
    read = []

    def batches(*_):
        for batch in ("first", "second"):
            read.append(batch)
            os.kill(os.getpid(), signal.SIGTERM)
            yield next(iter(trainer.stream.loader))

    monkeypatch.setattr(validation, "eval_loader", batches)
    with caplog.at_level(logging.INFO), pytest.raises(Stopped):
        trainer.run()
    assert read == ["first"] and updates(trainer.config) == [3] and "dev" not in caplog.text


# ---- windows


@pytest.mark.parametrize(
    "found, count, every, start",
    [
        ([1300, 1400, 1500, 1600], 3, 100, 1300),
        ([1300, 1400, 1500, 1512, 1533, 1600], 3, 100, 1300),  # left by interrupts
        ([1300, 1400, 1500, 1512], 3, 100, 1300),  # the last is one
        ([1400, 1500, 1600, 1650], 3, 100, 1400),  # as if 1650 were the last of four
        ([1400, 1500, 1600, 1650, 1700, 1800], 3, 100, 1500),  # an end that was moved
        ([1400, 1512, 1600], 3, 100, 1400),  # keep_last=2
        ([1389, 1400, 1600], 3, 100, 1400),
        ([100, 200, 300, 370, 440], 2, 70, 300),  # save_every was 100
        ([2, 4, 8], 4, 4, 4),
        ([1512], 3, 100, None),
    ],
)
def test_windows(tmp_path, found, count, every, start):
    result = window_start([(update, tmp_path / str(update)) for update in found], count, every)
    assert result == (None if start is None else (start, tmp_path / str(start)))


def test_interrupts_do_not_push_regular_checkpoints_out(tmp_path):
    for update in (10, 20, 30, 31, 32, 33, 40, 45):
        save_checkpoint(tmp_path, update, {}, keep_last=2, every=10)
    assert [update for update, _ in list_checkpoints(tmp_path)] == [30, 31, 32, 33, 40, 45]
    save_checkpoint(tmp_path, 50, {}, keep_last=2, every=10)
    assert [update for update, _ in list_checkpoints(tmp_path)] == [40, 45, 50]


def test_weights_that_were_never_averaged_are_not_the_first_ones(tiny_run, tmp_path, caplog):
    """train.average_every beyond the end: the mean would be the weights before training."""
    trainer = Trainer(
        tiny_config(tiny_run, tmp_path, "train.average_every=200", "train.save_every=2"), CPU
    )
    trainer.run()
    for weights in ("range", "running"):
        loaded = load_experiment(tmp_path, weights, 1, CPU)
        assert loaded.weights == "update 3" and "train.average_every is 200" in caplog.text
        assert all(
            torch.equal(value, loaded.model.state_dict()[name])
            for name, value in trainer.model.state_dict().items()
        )


# ---- other batches


def test_a_lower_max_duration_goes_on_with_the_next_epoch(tiny_run, tmp_path, caplog):
    """Also where the first epoch's length is not known yet: its share is what the old sampler had
    in all."""
    config = tiny_config(tiny_run, tmp_path, "train.updates=2", "spec_augment.enabled=false")
    trainer = Trainer(config, CPU)
    trainer.run()
    total = count_batches(config, 0, 1)
    lower = tiny_config(
        tiny_run,
        tmp_path,
        "train.updates=100",
        "data.max_duration=6",
        "train.save_every=100",
        "train.valid_every=100",
    )
    with caplog.at_level(logging.INFO):
        trainer = resumed(lower)
    stream = trainer.stream
    assert (stream.epoch, stream.batch, stream.batches_per_epoch) == (
        1,
        0,
        count_batches(lower, 1, 1),
    )
    assert stream.batches_per_epoch > total > 2 and stream.passes == 2 / total
    assert (
        f"data.max_duration was 12.0, is 6.0: going on after {2 / total:.2f} passes over the data "
        "with the sampler's epoch 1" in caplog.text
    )
    batches, seen = iter(stream), []
    for _ in range(stream.batches_per_epoch + 2):
        next(batches)
        seen.append(stream.passes)
    assert seen == sorted(seen) and seen[0] == pytest.approx(
        2 / total + 1 / count_batches(lower, 1, 1)
    )
    assert stream.epoch == 2 and stream.whole == 2 / total + 1


@pytest.mark.parametrize("world_size", [2, 4])
def test_another_number_of_processes_counts_anew(tiny_run, tmp_path, world_size):
    """A checkpoint of some processes in the middle of its third epoch, taken up by one; Eden sees
    2.5, and what follows."""
    config = tiny_config(tiny_run, tmp_path)
    trainer = Trainer(config, CPU)
    state = trainer.state() | {
        "epoch": 2,
        "batch_in_epoch": 3,
        "batches_per_epoch": 6,
        "world_size": world_size,
        "update": 20,
    }
    del state["passes_before_epoch"]  # as older checkpoints
    trainer.load(state)
    stream = trainer.stream
    assert (stream.epoch, stream.batch, stream.passes) == (3, 0, 2.5)
    _, sampler = train_loader(config)
    sampler.start(3, 0)
    assert stream.batches_per_epoch == len(list(sampler))
    for p in trainer.model.parameters():
        p.grad = torch.zeros_like(p)
    next(iter(stream))
    trainer.optimizer_step()
    t = config.train
    assert trainer.optimizer.param_groups[0]["lr"] == t.lr * eden(
        20, 2.5 + 1 / stream.batches_per_epoch, t.lr_batches, t.lr_epochs, t.lr_warmup
    )


def test_the_same_batches_go_on_in_mid_epoch(tiny_run, tmp_path):
    trainer = Trainer(tiny_config(tiny_run, tmp_path), CPU)
    trainer.load(
        trainer.state()
        | {"epoch": 2, "batch_in_epoch": 1, "batches_per_epoch": 4, "passes_before_epoch": 1.5}
    )
    assert (trainer.stream.epoch, trainer.stream.batch, trainer.stream.passes) == (2, 1, 1.75)


def test_an_epoch_longer_than_the_last_does_not_count_for_more(tiny_run, tmp_path):
    """The number of batches varies with the shuffling; the learning rate must not go up again when
    the epoch ends."""
    stream = Trainer(tiny_config(tiny_run, tmp_path), CPU).stream
    stream.batches_per_epoch, stream.batch = 5, 6
    assert stream.passes == 1.0


# ---- generators


def test_generators_differ_between_ranks_and_weights_do_not(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        trainer_module, "DistributedDataParallel", lambda module, device_ids: module
    )
    draws, models = [], []
    for rank in (0, 1):
        models.append(
            Trainer(tiny_config(tiny_run, tmp_path), CPU, rank, world_size=2).model.state_dict()
        )
        draws.append(
            (
                random.random(),
                np.random.rand(),
                torch.rand(()).item(),
                GlobalRandom().random(),
                GlobalRandom().choice(range(1000)),
            )
        )
    assert all(a != b for a, b in zip(*draws))
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_the_noise_of_musan_follows_the_global_generator():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    assert GlobalRandom(3).random() == expected
    random.seed(5)
    first = GlobalRandom(1).sample(range(100), 5)
    random.seed(5)
    assert GlobalRandom(2).sample(range(100), 5) == first


def test_an_older_checkpoint_has_the_first_ranks_generators_alone(tiny_run, tmp_path):
    trainer = Trainer(tiny_config(tiny_run, tmp_path), CPU)
    state = trainer.state()
    state["rng"] = state["rng"][0]
    trainer.load(state)
    assert trainer.stream.generators is state["rng"]
    trainer.stream.rank = 1
    trainer.stream.load(state)
    assert trainer.stream.generators is None


def torchrun(folder, data, *overrides: str) -> str:
    command = [
        sys.executable,
        "-m",
        "utils.torchrun",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "todm.training.train",
        *tiny_arguments(folder),
        f"data.dir={data}",
        "data.num_workers=0",
        "train.save_every=100",
        "data.max_duration=8",
        *overrides,
    ]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=500
    ).stderr


def test_two_processes_go_on_to_the_same_weights(tiny_run, tmp_path):
    """Stopped after 5 of 9 updates, in mid-epoch; every rank's dropout and augmentation go on where
    they were."""
    data = (tiny_run[0] / "data").resolve()
    torchrun(tmp_path / "whole", data, "train.updates=9")
    torchrun(tmp_path / "broken", data, "train.updates=5")
    assert "going on from update 5 (epoch 0, batch 5)" in torchrun(
        tmp_path / "broken", data, "train.updates=9"
    )
    states = [
        load_checkpoint(tmp_path / name / "exp/checkpoints/update-9.pt")
        for name in ("whole", "broken")
    ]
    assert all(
        torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items()
    )
    for kind in ("torch", "python", "numpy"):
        first, second = (state["rng"][1][kind] for state in states)
        assert torch.equal(first, second) if kind == "torch" else first == second
        assert str(states[0]["rng"][0][kind]) != str(states[0]["rng"][1][kind])
