import pickle

import pytest
import torch
from torch import nn

from utils.checkpoint import (
    CheckpointError,
    RunningAverage,
    average_between,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    load_finite,
    load_newest,
    not_finite,
    save_checkpoint,
)


class Code:
    """Unpickling this would run code."""

    def __reduce__(self):
        return print, ("run",)


def make_model(value: float) -> nn.Module:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)
    return model


def mean_of(average: RunningAverage) -> float:
    values = torch.cat([v.flatten() for v in average.values.values()])
    assert values.dtype == torch.float64 and (values == values[0]).all()
    return values[0].item()


def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 5, {"x": 1}, keep_last=3)

    def failing(state, path):
        path.write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 5, {"x": 2}, keep_last=3)
    assert load_checkpoint(checkpoint_path(tmp_path, 5)) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["update-5.pt"]


def test_only_the_newest_are_kept(tmp_path):
    for update in (8, 9, 10, 100):
        save_checkpoint(tmp_path, update, {"update": update}, keep_last=2)
    assert [(n, p.name) for n, p in list_checkpoints(tmp_path)] == [
        (10, "update-10.pt"),
        (100, "update-100.pt"),
    ]
    assert load_newest(tmp_path) == (100, {"update": 100})


def test_a_damaged_newest_is_passed_over(tmp_path, caplog):
    for update in (1, 2, 3):
        save_checkpoint(tmp_path, update, {"x": torch.ones(1000) * update}, keep_last=5)
    whole = checkpoint_path(tmp_path, 3).read_bytes()
    checkpoint_path(tmp_path, 3).write_bytes(whole[: len(whole) // 2])
    checkpoint_path(tmp_path, 2).write_bytes(b"")
    update, state = load_newest(tmp_path)
    assert update == 1 and (state["x"] == 1).all()
    assert "update-3.pt is damaged" in caplog.text and "update-2.pt is damaged" in caplog.text


def test_weights_that_are_not_finite_are_passed_over(tmp_path, caplog):
    good, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    for update, state in (
        (1, {"model": {"w": good}}),
        (2, {"model": {"w": bad}}),
        (3, {"model": {"w": good}, "average": {"weight": 3.0, "values": {"w": bad / 0}}}),
    ):
        save_checkpoint(tmp_path, update, state, keep_last=3)
    assert load_newest(tmp_path)[0] == 1
    assert "update-3.pt holds weights that are not finite (average.values.w)" in caplog.text
    with pytest.raises(CheckpointError, match=r"update-2\.pt .*\(model\.w\)"):
        load_finite(checkpoint_path(tmp_path, 2))


def test_what_is_not_finite_is_named():
    inf = torch.tensor(float("inf"))
    state = {"a": [torch.ones(2), {"b": inf}], 3: inf.half(), "c": torch.arange(3), "d": "inf"}
    assert list(not_finite(state)) == ["a.1.b", "3"]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_one_bit_of_a_tensor_is_enough_to_be_damaged(tmp_path, share):
    """torch itself would load the other value."""
    path = save_checkpoint(tmp_path, 1, {"x": torch.ones(10_000)}, keep_last=1)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 4
    path.write_bytes(content)
    assert not (torch.load(path, weights_only=True)["x"] == 1).all()
    with pytest.raises(CheckpointError, match=r"update-1\.pt is damaged .*check sum"):
        load_checkpoint(path)


def test_a_folder_is_no_checkpoint(tmp_path):
    checkpoint_path(tmp_path, 1).mkdir()
    with pytest.raises(CheckpointError, match=r"update-1\.pt is a folder"):
        load_checkpoint(checkpoint_path(tmp_path, 1))


def test_an_empty_folder_has_no_newest(tmp_path):
    assert load_newest(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"no checkpoint .*update-7\.pt"):
        load_checkpoint(checkpoint_path(tmp_path, 7))


def test_no_code_is_run(tmp_path, capsys):
    with open(checkpoint_path(tmp_path, 1), "wb") as file:
        pickle.dump(Code(), file, protocol=2)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(checkpoint_path(tmp_path, 1))
    torch.save({"x": Code()}, checkpoint_path(tmp_path, 2))
    assert load_newest(tmp_path) is None and capsys.readouterr().out == ""


def test_running_average_is_the_mean_over_updates():
    """Values 1, 4, 10 that stand for 2, 3 and 5 updates; the initial parameters count for
    nothing."""
    average = RunningAverage(make_model(99.0))
    for value, updates in ((1.0, 2), (4.0, 3), (10.0, 5)):
        average.add(make_model(value), updates)
    assert mean_of(average) == pytest.approx((2 * 1 + 3 * 4 + 5 * 10) / 10) and average.weight == 10


def test_running_average_of_random_parameters_is_their_mean():
    models = [nn.Linear(3, 2) for _ in range(50)]
    average = RunningAverage(models[0])
    for model in models:
        average.add(model, 1)
    expected = torch.stack([m.weight for m in models]).double().mean(0)
    torch.testing.assert_close(average.values["weight"], expected, rtol=1e-12, atol=1e-12)


def test_running_average_survives_a_checkpoint(tmp_path):
    average, resumed = RunningAverage(make_model(0.0)), RunningAverage(make_model(7.0))
    average.add(make_model(2.0), 4)
    save_checkpoint(tmp_path, 4, average.state_dict(), keep_last=1)
    resumed.load_state_dict(load_newest(tmp_path)[1])
    resumed.add(make_model(6.0), 12)
    assert mean_of(resumed) == pytest.approx((4 * 2 + 12 * 6) / 16)


def test_average_between_by_hand():
    """Mean 1 over 2 updates, mean 3 over 6: the four between have mean (18 - 2) / 4."""
    start, end = (
        {"weight": w, "values": {"p": torch.tensor([m], dtype=torch.float64)}}
        for w, m in ((2.0, 1.0), (6.0, 3.0))
    )
    between = average_between(start, end)
    assert between["p"].tolist() == [4.0] and between["p"].dtype == torch.float32
    assert average_between(None, end)["p"].tolist() == [3.0]
    assert average_between(start | {"weight": 0.0}, end)["p"].tolist() == [3.0]


def test_average_over_nothing_is_an_error():
    state = {"weight": 2.0, "values": {"p": torch.ones(1)}}
    with pytest.raises(CheckpointError, match="holds no update"):
        average_between(state, state)
