"""The picture of a training shows what its events say."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from todm.results.decode_results import RunFacts
from todm.tables import table_pictures

RUN = cast(RunFacts, SimpleNamespace(name="mine", updates=2000, audio_hours_trained=3.5))


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The axes of the next picture, which is drawn and not saved."""
    figure = Figure()
    one = figure.subplots()
    monkeypatch.setattr(table_pictures, "picture", lambda path: contextlib.nullcontext([one]))
    return one


def lines(axes: Any) -> dict[str, list[tuple[int, float]]]:
    """The points of every line by its label."""
    return {
        line.get_label(): [(x, round(y, 4)) for x, y in zip(line.get_xdata(), line.get_ydata())]
        for line in axes.get_lines()
    }


def test_every_loss_of_the_training_is_a_line(axes: Any, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path)
    for update, loss in ((100, 0.9), (200, 0.5)):
        writer.add_scalar("train loss per frame/largest", loss, update)
        writer.add_scalar("dev loss per frame/smallest", 2 * loss, update)
    writer.add_scalar("dev CTC loss per frame/largest", 0.25, 50)
    writer.add_scalar("learning rate", 1.0, 50)
    writer.close()
    assert table_pictures.draw_training(RUN, tmp_path, tmp_path / "none.png")
    assert axes.get_title() == "mine: 2,000 updates, 3.5 h of audio"
    assert axes.get_yscale() == "log"
    assert lines(axes) == {
        "train, largest net": [(100, 0.9), (200, 0.5)],
        "dev, smallest net": [(100, 1.8), (200, 1.0)],
        "dev CTC, largest net": [(50, 0.25)],
    }


def test_a_long_curve_keeps_its_ends(axes: Any, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path)
    for update in range(1000):
        writer.add_scalar("dev loss per frame/largest", 1.0, update)
    writer.close()
    assert table_pictures.draw_training(RUN, tmp_path, tmp_path / "none.png")
    line = lines(axes)["dev, largest net"]
    assert line[0][0] == 0 and line[-1][0] == 999 and len(line) <= 201


def test_without_events_there_is_no_picture(tmp_path: Path) -> None:
    picture = tmp_path / "loss.png"
    assert not table_pictures.draw_training(RUN, tmp_path / "none", picture)
    assert not picture.exists()
