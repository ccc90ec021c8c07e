"""What a training, a record or a kept score was made from: changes are noticed, what is the same is
not."""

import gzip
import json
import shutil
from dataclasses import replace

import pytest
import torch

from tests.conftest import tiny_arguments
from tests.helpers import VOCAB, tiny_config, tiny_model
from tests.tables.made_up import run_job
from todm.config.keys import Config
from todm.config.load import load
from todm.recipe.lineage import (
    data_changes,
    data_values,
    split_digest,
    training_data,
    weights_digest,
)
from todm.recipe.stages import STAGES
from todm.supernet.budget import check_budgets
from todm.supernet.search_space import SearchSpace
from todm.tables.record_run import record
from todm.tables.runs import differences
from todm.training.experiment import checkpoint_folder
from todm.training.train import reasons_to_begin_anew
from utils.checkpoint import list_checkpoints, load_checkpoint
from utils.errors import UserError


@pytest.fixture
def data(tiny_run, tmp_path) -> Config:
    """The tiny experiment's conf on a copy of its data that a test may change."""
    shutil.copytree(tiny_run[0] / "data", tmp_path / "data")
    return load("mini", [*tiny_arguments(tiny_run[0]), f"data.dir={tmp_path / 'data'}"])


def newest_state(tiny_run) -> dict:
    return load_checkpoint(list_checkpoints(checkpoint_folder(tiny_run[0] / "exp"))[-1][1])


def edit_cuts(config: Config, split: str, change) -> None:
    path = config.data_dir / "cuts" / f"{split}.jsonl.gz"
    with gzip.open(path, "rt") as file:
        cuts = [json.loads(line) for line in file]
    change(cuts)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(cut) + "\n" for cut in cuts)


def test_a_checkpoint_says_what_it_was_trained_on(tiny_run, data):
    """A copy of the data elsewhere is the same."""
    state = newest_state(tiny_run)
    assert state["data"] == training_data(data) and reasons_to_begin_anew(data, state) == []


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda cuts: cuts.pop(), "the train utterances are others"),
        (
            lambda cuts: cuts[0]["supervisions"][0].update(text="OTHER WORDS"),
            "the train utterances are others",
        ),
        (lambda cuts: cuts[0].update(duration=9.0), "the train utterances are others"),
        (lambda cuts: cuts.reverse(), "the train utterances are others"),
    ],
)
def test_other_train_utterances_are_noticed(tiny_run, data, change, reason):
    edit_cuts(data, "train", change)
    assert reasons_to_begin_anew(data, newest_state(tiny_run)) == [reason]


@pytest.mark.parametrize(
    "path, reason",
    [
        ("lang/bpe.model", "the BPE model is another"),
        ("cuts/statistics.json", "the features are others"),
    ],
)
def test_other_tokens_and_features_are_noticed(tiny_run, data, path, reason):
    with open(data.data_dir / path, "ab") as file:
        file.write(b" ")
    assert reasons_to_begin_anew(data, newest_state(tiny_run)) == [reason]


def test_other_dev_utterances_keep_the_training(tiny_run, data):
    before = split_digest(data, ["dev"])
    edit_cuts(data, "dev", lambda cuts: cuts.pop())
    assert (
        split_digest(data, ["dev"]) != before
        and reasons_to_begin_anew(data, newest_state(tiny_run)) == []
    )


@pytest.mark.parametrize(
    "override, continues",
    [
        ("bpe.vocab_size=50", False),
        ("synthetic.seed=5", False),
        ("data.max_seconds=9", False),
        ("data.speed_perturb=true", False),
        ("features.extractor=kaldifeat", False),
        ("train.lr=0.01", False),
        ("data.join_prob=0.5", False),
        ("loss.rnnt_type=regular", False),
        ("train.updates=20", True),
        ("train.updates=5", False),
        ("data.max_duration=6", True),
        ("data.num_buckets=3", True),
        ("train.precision=bf16", True),
        ("data.verify_audio=false", True),
        ("data.test=[dev2]", True),
        ("decode.beam=7", True),
        ("search.budgets=[0.7]", True),
        ("data.num_workers=1", True),
        ("train.log_every=1", True),
    ],
)
def test_which_keys_begin_a_training_anew(tiny_run, override, continues):
    config = load("mini", [*tiny_arguments(tiny_run[0]), override])
    assert (reasons_to_begin_anew(config, newest_state(tiny_run)) == []) == continues


def test_checkpoints_from_before_the_data_were_noted_go_on(tiny_run, data):
    """Their conf says what it can: it is compared, the rest is believed."""
    state = {key: value for key, value in newest_state(tiny_run).items() if key != "data"}
    assert (
        data_changes(None, training_data(data)) == [] and reasons_to_begin_anew(data, state) == []
    )
    other = replace(data, bpe=replace(data.bpe, vocab_size=50))
    assert reasons_to_begin_anew(other, state) == ["bpe.vocab_size was 60, is 50"]


def test_a_record_is_not_made_of_another_training(tiny_run, tmp_path):
    """Runs of stages 7 and 8: the record would be stamped with the new conf."""
    config = load("mini", [*tiny_arguments(tiny_run[0]), "bpe.model_type=bpe"])
    with pytest.raises(
        UserError,
        match="holds another training than this run's: bpe.model_type was 'unigram', is 'bpe'",
    ):
        record(config, run_job(tmp_path / "record.json", "h0-1f0-3 h0-1f0-3 h0-1f0-3"))
    assert not (tmp_path / "record.json").exists()


def test_records_know_their_data(data):
    """Transcripts corrected under the same conf make a record stale; a record from a place whose
    data are not here is believed."""
    before = data_values(data)
    assert set(before) == {"data.digest"} and data_values(data) == before
    edit_cuts(data, "test", lambda cuts: cuts[0]["supervisions"][0].update(text="CORRECTED"))
    after = data_values(data)
    assert differences({"train.lr": 1, **before}, {"train.lr": 1, **after}) == [
        f"data.digest was {before['data.digest']!r}, is {after['data.digest']!r}"
    ]
    assert (
        differences({"train.lr": 1}, {"train.lr": 1, **after}) == []
    )  # a record from before there was a digest
    (data.lang_dir / "bpe.model").unlink()
    assert data_values(data) == {}


def test_weights_have_a_digest_of_their_values():
    model, same = (tiny_model(tiny_config()) for _ in range(2))
    assert weights_digest(model) == weights_digest(same)
    with torch.no_grad():
        next(same.parameters()).view(-1)[0] += 1e-3
    assert weights_digest(model) != weights_digest(same)


def test_every_key_of_the_conf_is_accounted_for():
    """A key is in the table of what depends on what, or here among those on which no result
    depends."""
    from utils.conf import flatten, to_dict

    config = Config()
    nothing = (
        "name",
        "exp",
        "data.dir",
        "data.num_workers",
        "data.num_jobs",
        "tables",
        "synthetic",
        "learn",
        "search",
        "select.num_subnets",  # the last four where they count: see the table's functions
        "loss.backend",
        "train.log_every",
        "train.cpu_processes",
        "train.keep_last",
        "train.scan_batches",
        "decode.max_duration",
        "export.benchmark_seconds",
        "export.benchmark_rounds",
    )
    named = [key for stage in STAGES.values() for key in stage.keys]
    lost = [
        key
        for key in flatten(to_dict(config))
        if not any(key == n or key.startswith(n + ".") for n in (*named, *nothing))
    ]
    assert lost == []


@pytest.mark.parametrize("method", ["evolution", "random"])
def test_a_search_of_nothing_is_refused_before_training(method):
    config = tiny_config(
        f"select.method={method}", "supernet.min_blocks=3", "supernet.min_ffn_chunks=4"
    )
    with pytest.raises(UserError, match="nothing to search"):
        check_budgets(config, SearchSpace(config, VOCAB))
