"""The batches of a training on a GPU, of which one is copied ahead: a stand-in for the streams of a
GPU says in which order things are done."""

import contextlib
from pathlib import Path

import pytest
import torch

from tests.training.test_trainer import CPU, tiny_config
from todm.data.batches import Batch
from todm.data.loaders import copied_ahead
from todm.training.batch_stream import BatchStream

GPU = torch.device("cuda")


class StandInStream:
    """A GPU's stream; waiting for another one is written down."""

    def __init__(self, events: list[str]):
        self.events = events

    def wait_stream(self, other: "StandInStream") -> None:
        assert other is not self
        self.events.append("wait")


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """What is done on a pretended GPU, in order; its memory is the CPU's."""
    done: list[str] = []
    work = StandInStream(done)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: StandInStream(done))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: work)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)

    def to(self: Batch, device: torch.device) -> Batch:
        assert device == GPU
        done.append(f"copy {' '.join(self.ids)}")
        return self

    monkeypatch.setattr(Batch, "to", to)
    return done


def batch(name: str) -> Batch:
    return Batch(torch.zeros(1, 4, 80), torch.tensor([4]), ["TEXT"], [name])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_next_batch_is_copied_while_one_is_worked_on(events, count):
    """And the work on one does not wait for the copy of the next."""
    expected = ["copy 0"] if count else []
    for i in range(count):
        expected += ["wait", *([f"copy {i + 1}"] if i + 1 < count else []), f"work {i}"]
    for one in copied_ahead((batch(str(i)) for i in range(count)), GPU):
        events.append(f"work {one.ids[0]}")
    assert events == expected


def streams(tiny_run, folder: Path) -> tuple[BatchStream, BatchStream]:
    """The batches of one training on a CPU and on a GPU."""
    config = tiny_config(tiny_run, folder, "data.num_workers=1", "spec_augment.enabled=false")
    return BatchStream(config, 0, 1, CPU), BatchStream(config, 0, 1, GPU)


def test_a_batch_that_was_copied_ahead_is_not_counted_as_given(tiny_run, tmp_path, events):
    """Over the end of an epoch; a training that goes on from there gets the batches that follow."""
    plain, ahead = streams(tiny_run, tmp_path)
    given, expected = iter(ahead), iter(plain)
    while (ahead.epoch, ahead.batch) != (1, 2):
        assert next(given).ids == next(expected).ids
        position = (ahead.epoch, ahead.batch, ahead.batches_per_epoch)
        assert position == (plain.epoch, plain.batch, plain.batches_per_epoch)
    _, resumed = streams(tiny_run, tmp_path)
    resumed.epoch, resumed.batch, resumed.batches_per_epoch = position
    assert next(iter(resumed)).ids == next(expected).ids


def test_nothing_is_read_ahead_where_reading_draws_random_numbers_or_there_is_no_gpu(
    tiny_run, tmp_path
):
    config = tiny_config(tiny_run, tmp_path, "data.num_workers=0")
    assert BatchStream(config, 0, 1, GPU).ahead_on is None
    plain, ahead = streams(tiny_run, tmp_path)
    assert plain.ahead_on is None and ahead.ahead_on == GPU
