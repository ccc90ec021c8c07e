"""A training that starts from another one's weights."""

import logging
from argparse import Namespace

import pytest
import torch

from tests.conftest import tiny_arguments
from tests.helpers import tiny_config, tiny_model
from todm.config.load import load
from todm.training.initial import take, token_values
from todm.training.train import planned_updates, previous_state, train
from todm.training.trainer import Trainer
from utils.checkpoint import load_newest
from utils.errors import ConfigError, UserError
from utils.tokens import Tokenizer

CPU = torch.device("cpu")


class Tokens:
    """A stand-in for a tokenizer: its symbols are all that is asked of it."""

    def __init__(self, *symbols: str):
        self.symbols, self.vocab_size = list(symbols), len(symbols)


def test_every_value_with_a_row_for_each_token_is_known():
    """What changes its shape with the vocabulary, and nothing else."""
    config = tiny_config("loss.ctc_weight=0.5")
    small, large = (tiny_model(config, vocab_size=v).state_dict() for v in (11, 13))
    changed = {name for name in small if small[name].shape != large[name].shape}
    assert token_values(tiny_model(config, vocab_size=11)) == changed


def test_tokens_take_their_rows_by_their_text():
    config = tiny_config("loss.ctc_weight=0.5")
    ours, theirs = tiny_model(config, 5, seed=1), tiny_model(config, 4, seed=2)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    given = theirs.state_dict()
    taken = take(
        ours, Tokens("<blk>", "<sos/eos>", "<unk>", "A", "B"), given, Tokens("<blk>", "B", "C", "A")
    )
    now = ours.state_dict()
    assert (taken.tokens, taken.of, taken.missing) == (3, 5, [])
    for name in token_values(ours):
        assert torch.equal(now[name][[0, 3, 4]], given[name][[0, 3, 1]])
        assert torch.equal(now[name][[1, 2]], before[name][[1, 2]])
    for name in now:
        if name.endswith(("frontend.mean", "frontend.std")):
            assert torch.equal(now[name], before[name])
        elif name not in token_values(ours):
            assert torch.equal(now[name], given[name])


def test_what_does_not_fit_is_named_and_the_rest_taken():
    ours = tiny_model(tiny_config("model.predictor_dim=16", "loss.ctc_weight=0.5"), 5)
    theirs = tiny_model(tiny_config(), 5)
    same = Tokens("<blk>", "<sos/eos>", "<unk>", "A", "B")
    taken = take(ours, same, theirs.state_dict(), same)
    missing = {".".join(name.split(".")[:2]) for name in taken.missing}
    assert missing == {
        "predictor.embedding",
        "predictor.conv",
        "joiner.predictor_proj",
        "heads.simple_lm",
        "heads.ctc",
    }
    blocks = {n for n in ours.state_dict() if n.startswith("encoder.blocks")}
    assert blocks and blocks <= set(taken.whole)


def fresh(tiny_run, tmp_path, *overrides: str) -> Trainer:
    config = load(
        "conf/mini.yaml",
        [*tiny_arguments(tiny_run[0]), f"exp={tmp_path}", "train.seed=77", *overrides],
    )
    return Trainer(config, CPU)


def test_a_training_starts_with_the_weights_of_an_experiment(tiny_run, tmp_path, caplog):
    """Those that it is decoded with; the averages and the optimiser begin anew."""
    trainer = fresh(tiny_run, tmp_path)
    with caplog.at_level(logging.INFO):
        trainer.start_from(tiny_run[0] / "exp")
    assert "tokens" in caplog.text and "untrained" not in caplog.text
    from todm.training.experiment import load_experiment

    other = load_experiment(tiny_run[0] / "exp", None, None, CPU)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
        if name in trainer.average.values:
            assert torch.equal(trainer.average.values[name].float(), value)
    assert trainer.average.weight == 0 and trainer.update == 0
    trainer.config.train.updates = 1
    trainer.run()


def test_frozen_modules_stay_as_they_are(tiny_run, tmp_path, caplog):
    frozen = ["encoder.frontend", "encoder.blocks.1", "predictor.embedding.weight"]
    with caplog.at_level(logging.INFO):
        trainer = fresh(tiny_run, tmp_path, f"train.freeze=[{','.join(frozen)}]", "train.updates=3")
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.run()
    assert f"frozen: {', '.join(frozen)}" in caplog.text
    for name, p in trainer.model.named_parameters():
        stays = any(f"{name}.".startswith(f"{module}.") for module in frozen)
        assert torch.equal(p, before[name]) == stays, name
    trainer.save()
    again = fresh(tiny_run, tmp_path, f"train.freeze=[{','.join(frozen)}]", "train.updates=4")
    again.load(load_newest(again.config.exp_dir / "checkpoints")[1])
    again.run()
    assert again.update == 4


@pytest.mark.parametrize(
    "modules, said",
    [
        ("encoder.block.1", "no 'encoder.block.1'; it has encoder.frontend.*encoder.blocks.0 to"),
        ("encoder.blocks.9", "no 'encoder.blocks.9'"),
        ("encod", "no 'encod'"),
        ("encoder,predictor,joiner,heads", "leaves nothing to train$"),
        ("encoder,heads", "nothing to train while CTC trains alone; loss.ctc_first=0"),
    ],
)
def test_what_can_not_be_frozen(tiny_run, tmp_path, modules, said):
    with pytest.raises(UserError, match=said):
        fresh(tiny_run, tmp_path, f"train.freeze=[{modules}]", "loss.ctc_first=1")


def test_a_folder_without_a_model_is_refused(tiny_run, tmp_path):
    with pytest.raises(UserError, match="train.init=.*stage 4 makes them"):
        fresh(tiny_run, tmp_path).start_from(tmp_path / "nothing")


def test_a_model_of_another_width_is_refused(tiny_run, tmp_path):
    trainer = fresh(
        tiny_run,
        tmp_path,
        "model.dim=20",
        "model.ssm_dim=20",
        "model.heads=2",
        "model.ffn_dim=12",
        "supernet.ffn_chunks=3",
        "model.predictor_dim=12",
        "model.joiner_dim=9",
        "model.frontend_channels=3",
        "model.modes=5",
    )
    with pytest.raises(UserError, match="no block of that model's encoder fits"):
        trainer.start_from(tiny_run[0] / "exp")
    assert isinstance(trainer.tokenizer, Tokenizer)


def run_stage(config, caplog) -> str:
    """What stage 4 logs."""
    with caplog.at_level(logging.INFO):
        caplog.clear()
        try:
            train(config, Namespace(force=False))
        finally:
            # the log file of the experiment is closed with the test
            for handler in logging.getLogger().handlers[:]:
                if isinstance(handler, logging.FileHandler):
                    logging.getLogger().removeHandler(handler)
    return caplog.text


def test_stage_4_begins_with_the_other_model_once_and_keeps_its_phases(
    tiny_run, tmp_path, caplog, monkeypatch
):
    """With more updates it goes on, with the shares of those that it began with."""
    monkeypatch.setattr("todm.training.train.setup_logging", lambda path: None)
    overrides = [
        *tiny_arguments(tiny_run[0]),
        f"exp={tmp_path / 'new'}",
        f"train.init={tiny_run[0] / 'exp'}/",
        "train.save_every=2",
        "train.valid_every=100",
        "distill.start=0.5",
        "augment.warp=0.1",
        "augment.start=0.5",
        "augment.ramp=1",
    ]
    first = run_stage(load("conf/mini.yaml", [*overrides, "train.updates=4"]), caplog)
    assert first.count("starting from") == 1
    longer = load("conf/mini.yaml", [*overrides, "train.updates=6"])
    second = run_stage(longer, caplog)
    assert "going on from update 4" in second and "starting from" not in second
    assert "shares are of 4 updates" in second
    state = load_newest(tmp_path / "new" / "checkpoints")[1]
    assert state["planned"] == 4 and state["batches_given"] == 6 and state["update"] == 6
    trainer = Trainer(longer, CPU, planned=planned_updates(longer, state))
    assert trainer.config.distill.start == 2
    trainer.load(state)
    trainer.stream.sampler.start(0, 0, trainer.stream.given)
    assert next(iter(trainer.stream.sampler)).update == 6
    # with fewer updates than it was planned for, no phase may lie beyond the end
    fewer = load("conf/mini.yaml", [*overrides, "train.updates=2"])
    assert planned_updates(fewer, state | {"update": 1}) == 2


def test_a_wrong_init_leaves_a_finished_training_where_it_is(tiny_run, tmp_path, caplog):
    overrides = [*tiny_arguments(tiny_run[0]), f"exp={tmp_path / 'e'}"]
    config = load("conf/mini.yaml", overrides)
    trainer = Trainer(config, CPU)
    trainer.save()
    wrong = load("conf/mini.yaml", [*overrides, f"train.init={tmp_path / 'typo'}"])
    with pytest.raises(UserError, match="train.init=.*typo"):
        previous_state(wrong, force=False)
    assert (
        list((tmp_path / "e" / "checkpoints").glob("*")) and not (tmp_path / "e/earlier").exists()
    )
    with pytest.raises(ConfigError, match="is the folder that the training writes into"):
        load("conf/mini.yaml", [*overrides, f"train.init={tmp_path / 'e'}"])
