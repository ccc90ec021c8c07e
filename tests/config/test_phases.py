"""Phases of a training as shares of its updates."""

import pytest

from todm.config.ineffective import ineffective
from todm.config.load import load, load_file
from todm.config.phases import in_updates, ramp
from todm.training.supernet_loss import Weights
from utils.conf import flatten, to_dict


def test_a_share_is_of_all_updates_and_a_number_is_itself():
    config = in_updates(
        load_file(
            None,
            [
                "train.updates=2000",
                "loss.ctc_weight=0.5",
                "loss.ctc_first=0.35",
                "loss.warmup=1",
                "method.subnets_from=700",
                "distill.start=0.5",
                "augment.start=0.2",
                "train.lr_batches=0.1",
            ],
        )
    )
    assert config.loss.ctc_first == 700
    assert config.loss.warmup == 1  # an update, not all of them
    assert config.method.subnets_from == 700
    assert config.distill.start == 1000
    assert config.augment.start == 400
    assert config.train.lr_batches == 200
    assert Weights.at(699, config.loss, config.distill).ctc_alone
    assert not Weights.at(700, config.loss, config.distill).ctc_alone


def test_more_updates_leave_the_phases_of_a_training_that_goes_on():
    conf = load_file(None, ["train.updates=4000", "distill.start=0.5"])
    assert in_updates(conf).distill.start == 2000
    assert in_updates(conf, updates=1000).distill.start == 500
    assert conf.distill.start == 0.5  # the conf itself is not touched


@pytest.mark.parametrize("name", ["mini", "commands", "small-corpus", "librispeech-960h"])
def test_what_is_in_updates_stays_so(name):
    once = in_updates(load(name, []))
    assert flatten(to_dict(in_updates(once))) == flatten(to_dict(once))


def test_a_ramp_is_0_then_linear_then_1():
    assert [ramp(u, 10, 20) for u in (0, 10, 15, 30, 99)] == [0, 0, 0.25, 1, 1]
    assert [ramp(u, 10, 0) for u in (9, 10)] == [0, 1]


def test_augmentation_that_never_begins_or_changes_nothing_is_warned_of():
    never = ineffective(load("mini", ["augment.warp=0.1", "augment.start=9999"]), set())
    assert any("augment.start is 9999" in line and "no utterance" in line for line in never)
    nothing = ineffective(load("mini", ["augment.prob=0.5"]), {"augment.prob"})
    assert any("augment.prob has no effect" in line for line in nothing)
    assert not ineffective(load("commands", ["data.root=/x"]), {"augment.prob"})
