"""Attacks on the numbers of a training: what they change, and what is asked of a training under
them."""

import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from todm.data.batches import Batch
from todm.training.trainer import Trainer
from utils.errors import UserError

UPDATES = 6
WORST = 10.0  # times the largest weight of a training without attack that one may have with it


@dataclass(frozen=True)
class OnLoss:
    """A factor on the loss, or on one gradient, in some of a rank's steps.

    Attributes:
      factor: NaN, infinity or a large number.
      calls: the numbers of the steps from 0; None: all.
      rank: whose.
      gradient: the factor is on a gradient, and the loss stays as it is.
    """

    factor: float
    calls: tuple[int, ...] | None
    rank: int = 0
    gradient: bool = False

    def __call__(self, trainer: Trainer) -> None:
        """Lays the attack on a training that has not begun."""
        if trainer.rank != self.rank:
            return
        count = -1
        forward = trainer.loss.forward

        def hit() -> bool:
            return self.calls is None or count in self.calls

        def attacked(*arguments):
            nonlocal count
            count += 1
            loss, losses = forward(*arguments)
            return (loss * self.factor if hit() and not self.gradient else loss), losses

        trainer.loss.forward = attacked
        if self.gradient:
            weight = trainer.model.encoder.frontend.project.weight
            weight.register_hook(lambda g: g * self.factor if hit() else g)


@dataclass(frozen=True)
class OnScale:
    """A value of fp16's gradient scale from the first step on."""

    scale: float

    def __call__(self, trainer: Trainer) -> None:
        """Lays the attack on a training that has not begun."""
        trainer.scaler.scale(torch.ones(()))  # which makes it begin
        trainer.scaler.update(self.scale)


@dataclass
class Outcome:
    """What became of a training.

    Attributes:
      error: why it ended; empty: it went on to the end.
      fault: the type of an error that is none of a user; empty: there is none.
      given: the ids of every batch that it was given.
      trainer: None where it has not begun.
    """

    error: str = ""
    fault: str = ""
    log: list[str] = field(default_factory=list)
    given: list[list[str]] = field(default_factory=list)
    trainer: Trainer | None = None

    @property
    def skipped(self) -> int:
        """The bad batches that the training has counted."""
        return self.trainer.bad_batches.total if self.trainer else 0

    @property
    def warnings(self) -> list[str]:
        """What it said of every batch that it left out."""
        return [line for line in self.log if re.search("skipped the batch", line)]


def run(make: Callable[[], Trainer], *attacks: Callable[[Trainer], None]) -> Outcome:
    """Trains under attacks to the end, whichever that is."""
    outcome = Outcome()
    with logged(outcome.log):
        try:
            trainer = outcome.trainer = make()
            for attack in attacks:
                attack(trainer)
            step = trainer.train_update

            def watched(batches: Iterator[Batch]) -> tuple[list[float], float, int]:
                return step(outcome.given.append(b.ids) or b for b in batches)

            trainer.train_update = watched
            trainer.run()
        except UserError as error:
            outcome.error = str(error)
        except Exception as error:
            outcome.fault = f"{type(error).__name__}: {error}"
    return outcome


@contextmanager
def logged(lines: list[str]) -> Iterator[None]:
    """Collects what is logged in the block."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    root, collector = logging.getLogger(), Collector()
    before = root.level
    root.addHandler(collector)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(collector)
        root.setLevel(before)


def largest_weight(folder: Path) -> float:
    """The largest absolute weight in all checkpoints of an experiment; infinity where some number
    that was learnt, or its mean, or the optimiser's state is not finite."""
    largest = 0.0
    for path in sorted((folder / "checkpoints").glob("update-*.pt")):
        state = torch.load(path, weights_only=True)
        for part in ("model", "average", "optimizer", "selector"):
            for tensor in tensors(state[part]):
                if not torch.isfinite(tensor).all():
                    return math.inf
        largest = max(largest, *(t.abs().max().item() for t in tensors(state["model"])))
    return largest


def tensors(state: object) -> Iterator[torch.Tensor]:
    """Yields the tensors of floating point in a state."""
    if isinstance(state, torch.Tensor) and state.is_floating_point() and state.numel():
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
