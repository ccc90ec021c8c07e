"""What a checkpoint holds: learned selection under a key of its own, and older checkpoints, which
have it among the model's values."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.training.test_trainer import CPU, tiny_config
from todm.learned_selection.methods import restore_selector
from todm.training.experiment import in_present_form, load_experiment
from todm.training.trainer import Trainer
from utils.checkpoint import list_checkpoints, load_checkpoint, load_newest

LEARNED = (
    "select.method=simple-topk",
    "search.budgets=[0.6,0.8,1.0]",
    "learn.iterations=2",
    "learn.share=0.5",
    "train.average_every=1",
    "train.valid_every=100",
    "train.save_every=2",
)


def in_old_form(state: dict) -> dict:
    """A checkpoint as it was written before the selector had a key of its own."""
    selector = {f"selector.{name}": value for name, value in state["selector"].items()}
    averaged = {
        name: value.double() for name, value in selector.items() if value.is_floating_point()
    }
    average = state["average"]
    old = state | {
        "model": state["model"] | selector,
        "average": average | {"values": average["values"] | averaged},
    }
    del old["selector"]
    return old


@pytest.fixture
def trained(tiny_run, tmp_path) -> Trainer:
    """A training of 8 updates, whose masks were frozen after 4."""
    trainer = Trainer(tiny_config(tiny_run, tmp_path / "exp", *LEARNED, "train.updates=8"), CPU)
    trainer.run()
    return trainer


def make_old(exp: Path) -> None:
    for _, path in list_checkpoints(exp / "checkpoints"):
        torch.save(in_old_form(load_checkpoint(path)), path)


def test_the_selector_has_a_key_of_its_own(trained):
    state = load_newest(trained.config.exp_dir / "checkpoints")[1]
    assert set(state["selector"]) == {"scores", "order"} and min(state["selector"]["order"]) == 0
    names = {*state["model"], *state["average"]["values"]}
    assert not any(name.startswith("selector.") for name in names)


@pytest.mark.parametrize("weights", ["last", "running", "range"])
def test_an_older_checkpoint_gives_the_same_experiment(trained, weights):
    exp = trained.config.exp_dir
    new = load_experiment(exp, weights, 2, CPU)
    make_old(exp)
    old = load_experiment(exp, weights, 2, CPU)
    assert old.weights == new.weights
    state = new.model.state_dict()
    assert set(state) == set(old.model.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in old.model.state_dict().items())
    nets = [
        restore_selector(one.config, one.tokenizer.vocab_size, one.selector).subnets()
        for one in (new, old)
    ]
    assert nets[0] == nets[1] and len(set(nets[0].values())) == 3


@pytest.mark.parametrize("stop", [2, 6])
def test_a_training_goes_on_from_an_older_checkpoint(tiny_run, tmp_path, trained, stop):
    """From one in step 1, whose scores still learn, and from one in step 2."""
    checkpoints = dict(list_checkpoints(trained.config.exp_dir / "checkpoints"))
    state = in_old_form(load_checkpoint(checkpoints[stop]))
    config = tiny_config(tiny_run, tmp_path / "on", *LEARNED, "train.updates=8")
    resumed = Trainer(config, CPU)
    resumed.load(state)
    assert resumed.update == stop
    resumed.run()
    for name, value in trained.loss.state_dict().items():
        torch.testing.assert_close(value, resumed.loss.state_dict()[name], rtol=0, atol=0, msg=name)
    average = resumed.average.state_dict()["values"]
    assert all(
        torch.equal(v, average[n]) for n, v in trained.average.state_dict()["values"].items()
    )


def test_the_present_form_is_left_as_it_is(trained):
    state = trained.state()
    assert in_present_form(state) is state
    again = in_present_form(in_old_form(state))
    assert set(again) == set(state)
    for key in ("model", "selector"):
        assert set(again[key]) == set(state[key])
        assert all(torch.equal(value, state[key][name]) for name, value in again[key].items())


def test_without_learned_selection_there_is_no_selector(tiny_run):
    exp = tiny_run[0] / "exp"
    assert load_newest(exp / "checkpoints")[1]["selector"] is None
    assert load_experiment(exp, "last", 0, CPU).selector is None


def test_opening_an_experiment_imports_no_budgets():
    program = (
        "import sys, todm.training.experiment\n"
        "print(sorted(m for m in sys.modules if m.startswith(('todm.learned', 'todm.supernet'))))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"
