"""Checkpoints that are damaged when a training goes on, or would."""

import pytest

from tests.helpers import tiny_config
from todm.training.experiment import checkpoint_folder
from todm.training.train import judge_earlier
from utils.checkpoint import checkpoint_path, save_checkpoint
from utils.errors import UserError


@pytest.fixture
def config(tmp_path):
    """Of a training of 3 updates, with a checkpoint after each, the first of which is damaged."""
    config = tiny_config(f"exp={tmp_path}", "train.updates=3")
    folder = checkpoint_folder(config.exp_dir)
    for update in (1, 2, 3):
        save_checkpoint(folder, update, {}, keep_last=5)
    checkpoint_path(folder, 1).write_bytes(b"")
    return config


def test_a_training_that_is_over_is_refused_where_the_mean_may_begin_at_damage(config):
    with pytest.raises(UserError, match=r"update-1\.pt is damaged.*\n.*decode\.range.* Move it"):
        judge_earlier(config, 3)


def test_a_training_that_goes_on_only_warns(config, caplog):
    judge_earlier(config, 2)
    assert "update-1.pt is damaged" in caplog.text
