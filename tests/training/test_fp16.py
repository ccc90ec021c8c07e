"""Mixed precision in fp16: the scale of the gradients, on a CPU, where torch's scaler works as on a
GPU."""

import math

import pytest
import torch

from tests.training.test_trainer import CPU, poison, tiny_config
from todm.training.optimization import grow_scale, lower_scale, make_scaler
from todm.training.trainer import Trainer
from utils.checkpoint import load_newest
from utils.errors import UserError


def overflow(trainer: Trainer, calls: range) -> None:
    """Make one gradient infinite in some backward passes; the loss stays finite."""
    seen = []

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return gradient * math.inf if len(seen) - 1 in calls else gradient

    trainer.model.joiner.output.bias.register_hook(hook)


def fp16(tiny_run, tmp_path, *overrides: str):
    return tiny_config(
        tiny_run, tmp_path, "train.precision=fp16", "train.valid_every=100", *overrides
    )


def test_it_starts(tiny_run, tmp_path):
    trainer = Trainer(fp16(tiny_run, tmp_path), CPU)
    trainer.run()
    assert (
        trainer.update == 3 and trainer.bad_batches.total == 0 and trainer.scaler.get_scale() == 1.0
    )
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_overflows_with_a_finite_loss_are_no_bad_batches(tiny_run, tmp_path):
    """Twelve in a row, where ten bad batches would end the training."""
    trainer = Trainer(fp16(tiny_run, tmp_path), CPU)
    overflow(trainer, range(1, 13))
    trainer.run()
    assert (
        trainer.update == 3
        and trainer.bad_batches.total == 0
        and trainer.scaler.get_scale() == 0.5**12
    )
    assert not (tmp_path / "bad-batches").exists()


def test_a_scale_that_collapses_ends_with_a_message(tiny_run, tmp_path):
    trainer = Trainer(fp16(tiny_run, tmp_path, "train.updates=300"), CPU)
    overflow(trainer, range(1, 1000))
    with pytest.raises(
        UserError, match="update 1: the gradients overflow in fp16 at every scale.*bf16 or fp32"
    ):
        trainer.run()
    assert trainer.update == 1 and not (tmp_path / "bad-batches").exists()
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_loss_that_is_not_finite_is_a_bad_batch(tiny_run, tmp_path):
    trainer = Trainer(fp16(tiny_run, tmp_path), CPU)
    poison(trainer, range(1, 3))
    trainer.run()
    assert (
        trainer.update == 3 and trainer.bad_batches.total == 2 and trainer.scaler.get_scale() == 1.0
    )
    assert len(list((tmp_path / "bad-batches").glob("*.pt"))) == 2


@pytest.mark.parametrize("scale", [0.25, 65536.0])
def test_a_checkpoint_has_the_scale(tiny_run, tmp_path, scale):
    """65536: what older ones began with."""
    config = fp16(tiny_run, tmp_path)
    trainer = Trainer(config, CPU)
    trainer.run()
    state = load_newest(tmp_path / "checkpoints")[1]
    state["scaler"]["scale"] = scale
    resumed = Trainer(fp16(tiny_run, tmp_path, "train.updates=5"), CPU)
    resumed.load(state)
    resumed.run()
    assert (
        resumed.update == 5
        and resumed.bad_batches.total == 0
        and 0 < resumed.scaler.get_scale() <= scale
    )
    assert load_newest(tmp_path / "checkpoints")[1]["scaler"]["scale"] == resumed.scaler.get_scale()


@pytest.mark.parametrize("before, after", [("fp32", "fp16"), ("fp16", "fp32")])
def test_a_training_goes_on_in_another_precision(tiny_run, tmp_path, before, after):
    Trainer(fp16(tiny_run, tmp_path, f"train.precision={before}"), CPU).run()
    resumed = Trainer(fp16(tiny_run, tmp_path, f"train.precision={after}", "train.updates=5"), CPU)
    resumed.load(load_newest(tmp_path / "checkpoints")[1])
    resumed.run()
    assert (
        resumed.update == 5 and resumed.bad_batches.total == 0 and resumed.scaler.get_scale() == 1.0
    )


def scaler_of(scale: float) -> torch.amp.GradScaler:
    scaler = make_scaler(CPU, enabled=True)
    scaler.scale(torch.ones(()))  # which makes it begin
    scaler.update(scale)
    return scaler


@pytest.mark.parametrize(
    "scale, update, expected",
    [
        (1.0, 99, 1.0),
        (1.0, 100, 2.0),
        (4.0, 300, 8.0),
        (8.0, 300, 8.0),
        (8.0, 400, 16.0),
        (16.0, 800, 32.0),
        (32.0, 800, 32.0),
    ],
)
def test_a_small_scale_grows_sooner(scale, update, expected):
    scaler = scaler_of(scale)
    grow_scale(scaler, update)
    assert scaler.get_scale() == expected


def test_a_scale_is_halved_down_to_the_smallest():
    scaler = scaler_of(5e-5)
    lower_scale(scaler, 7)
    assert scaler.get_scale() == pytest.approx(2.5e-5)
    lower_scale(scaler, 7)
    with pytest.raises(UserError, match="update 7"):
        lower_scale(scaler, 7)


@pytest.mark.parametrize("scale", [math.inf, math.nan])
def test_a_scale_that_is_not_finite_begins_anew(scale):
    """Half of it would be the same, for ever."""
    scaler = scaler_of(1.0)
    scaler.update(scale)
    lower_scale(scaler, 7)
    assert scaler.get_scale() == 1.0


def test_fp32_has_no_scale():
    scaler = make_scaler(CPU, enabled=False)
    grow_scale(scaler, 100)
    assert scaler.get_scale() == 1.0 and not scaler.is_enabled()
