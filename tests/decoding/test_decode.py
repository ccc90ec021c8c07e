"""Stage 6 beside its WER: lists of hypotheses, confidences, hotwords."""

import pytest
import torch

from tests.conftest import tiny_arguments
from todm.config.load import load
from todm.decoding.decode import decode_subnets, oracle_wer
from todm.results.subnets import read_subnets
from todm.training.experiment import load_experiment
from utils.text import TextForm

CPU = torch.device("cpu")


def test_the_oracle_takes_the_best_of_every_list():
    """0 of 2 words are wrong in a, 1 of 3 in b, and the first ones have 1 and 2."""
    references = {"a": "one two", "b": "three four five"}
    nbest = {"a": ["one too", "one two"], "b": ["tree for five", "three for five", "x"]}
    assert oracle_wer(references, nbest, TextForm()) == 20.0
    first = {name: texts[:1] for name, texts in nbest.items()}
    assert oracle_wer(references, first, TextForm()) == 60.0
    assert oracle_wer(references, {}, TextForm()) is None


def test_the_oracle_compares_in_the_form_that_is_scored():
    nbest = {"a": ["ONE, two!", "one"]}
    assert oracle_wer({"a": "one two"}, nbest, TextForm("lower", True)) == 0.0


def test_stage_6_writes_oracle_rates_and_confidences_where_there_are_any(tiny_run, tmp_path):
    folder = tiny_run[0]
    (tmp_path / "hotwords.txt").write_text("THE :3\n")
    config = load(
        "mini",
        [
            *tiny_arguments(folder),
            f"exp={tmp_path}",
            "decode.methods=[greedy,beam]",
            "decode.nbest=3",
        ],
    )
    experiment = load_experiment(folder / "exp", "range", config.decode.range, CPU)
    (entry, *_) = read_subnets(folder / "exp" / "subnets.json", baselines=False)
    results = decode_subnets(config, experiment, [entry], CPU, tmp_path / "decode")
    for row in results.rows:
        has = row.method == "greedy" and row.role == "dev"
        assert (row.calibration is not None) == has
        name = f"calibration-{row.split}-{entry.name}-{row.method}.md"
        assert (tmp_path / "decode" / name).is_file() == has
        if row.method == "beam":
            assert 0 <= row.oracle_wer <= row.wer
        else:
            assert row.oracle_wer is None
    text = (tmp_path / "decode" / "oracle-wer-dev.txt").read_text()
    assert text.startswith("settings\tWER\toracle") and f"{entry.name}-beam\t" in text
    config.decode.methods, config.decode.nbest = ["beam"], 0
    config.decode.hotwords_file = str(tmp_path / "hotwords.txt")
    (row, *_) = decode_subnets(config, experiment, [entry], CPU, tmp_path / "decode").rows
    assert row.oracle_wer is None and not (tmp_path / "decode" / "oracle-wer-dev.txt").exists()
    (tmp_path / "hotwords.txt").write_text("\u017bUK\n")
    with pytest.raises(Exception, match="hotwords.txt, line 1"):
        decode_subnets(config, experiment, [entry], CPU, tmp_path / "decode")
