"""Synthetic speech of a small vocabulary, added to train."""

import json

import pytest
import soundfile
from lhotse import CutSet

from local import spoken_words
from local.compute_features import compute
from local.prepare_manifests import prepare
from local.train_bpe import train as train_stage
from tests.conftest import write_utterance
from tests.local.test_data_stages import make_config
from todm.config.keys import Config
from todm.config.load import load
from todm.data.loaders import load_cuts, train_loader
from todm.recipe.lineage import training_data
from todm.training.batch_stream import BatchStream
from utils.errors import ConfigError, UserError

VOICES = ["f2", "m3", "Mike"]


@pytest.fixture(autouse=True)
def few_voices(monkeypatch):
    monkeypatch.setattr(spoken_words, "VARIANTS", VOICES)


def corpus(root):
    """Two utterances of train by one talker, and one of dev."""
    for split, texts in (("train", ["STOP GO", "GO ' LEFT STOP"]), ("dev", ["RIGHT"])):
        for i, text in enumerate(texts):
            write_utterance(root / "corpus" / split / "7" / "1", f"7-1-{i:04d}", text, seconds=2.0)


def test_the_words_of_train_are_spoken_by_every_voice(tmp_path):
    texts = ["STOP GO", "GO ' LEFT STOP"]
    hours = spoken_words.make_spoken_words(texts, 0.02, "en", tmp_path / "a", jobs=2)
    lines = [
        line.split()
        for path in sorted((tmp_path / "a").rglob("*.trans.txt"))
        for line in path.read_text().splitlines()
    ]
    assert {word for _, *words in lines for word in words} == {"STOP", "GO", "LEFT"}
    assert {len(words) for _, *words in lines} == set(range(1, 7))
    assert len({name.split("-")[0] for name, *_ in lines}) == len(VOICES)
    seconds = [soundfile.info(p).duration for p in (tmp_path / "a").rglob("*.flac")]
    assert len(seconds) == len(lines) == round(0.02 * 3600 / spoken_words.SECONDS_EACH)
    assert hours == pytest.approx(sum(seconds) / 3600)
    assert hours == pytest.approx(0.02, rel=0.4)  # what was asked for is about that


def test_the_same_words_are_the_same_utterances(tmp_path):
    for name in ("a", "b"):
        spoken_words.make_spoken_words(["A B", "C"], 0.001, "en", tmp_path / name, jobs=1)
    a, b = (
        {p.name: p.read_text() for p in (tmp_path / name).rglob("*.trans.txt")} for name in "ab"
    )
    assert a == b


def test_another_language_and_one_that_espeak_lacks(tmp_path):
    spoken_words.make_spoken_words(["EINS ZWEI"], 0.001, "de", tmp_path / "de", jobs=1)
    assert len(list((tmp_path / "de").rglob("*.flac"))) == len(VOICES)
    with pytest.raises(UserError, match="data.spoken_language=qqq: espeak-ng has no voice"):
        spoken_words.make_spoken_words(["A"], 0.001, "qqq", tmp_path / "no", jobs=1)
    with pytest.raises(UserError, match="no train transcript has a word"):
        spoken_words.make_spoken_words(["' -"], 0.001, "en", tmp_path / "no", jobs=1)


def test_they_are_trained_on_beside_the_corpus_and_only_there(tmp_path):
    corpus(tmp_path)
    config = make_config(tmp_path, splits=("train", "dev"), spoken_words=0.003)
    config.bpe.vocab_size, config.bpe.model_type = 40, "bpe"
    prepare(config, None)
    compute(config, None)
    train_stage(config, None)
    loader, sampler = train_loader(config)
    sampler.start(0, 0)
    ids = {i for batch in loader for i in batch.ids}
    assert {"7-1-0000", "7-1-0001"} <= ids
    assert len(ids) > 5 and all(i[:3] in ("7-1", "900") for i in ids)
    assert [c.id for c in CutSet.from_file(config.data_dir / "cuts/dev.jsonl.gz")] == ["7-1-0000"]
    # what features are normalised by is of the corpus alone, whatever is spoken beside it
    alone = make_config(tmp_path, splits=("train", "dev"))
    alone.data.dir = str(tmp_path / "alone")
    prepare(alone, None)
    compute(alone, None)
    mean, expected = (
        json.loads((c.data_dir / "features" / "statistics.json").read_text())["mean"]
        for c in (config, alone)
    )
    assert mean == pytest.approx(expected)
    # and a training knows that they have changed
    before = training_data(config)["train"]
    config.data.spoken_words = 0.0
    assert training_data(config)["train"] != before


def prepared(tmp_path) -> Config:
    """A corpus with spoken words, through stages 1 to 3, of which a training of 20 updates begins
    with a quarter of the words alone."""
    corpus(tmp_path)
    config = make_config(
        tmp_path, splits=("train", "dev"), spoken_words=0.003, spoken_words_first=0.25
    )
    config.bpe.vocab_size, config.bpe.model_type = 40, "bpe"
    config.train.updates, config.data.max_duration = 20, 4.0
    for stage in (prepare, compute, train_stage):
        stage(config, None)
    return config


def test_a_training_begins_with_them_alone(tmp_path):
    """Epochs that begin before update 5 of 20 are of synthetic speech, later ones of both; a
    training that goes on in the middle of one stays in it."""
    config = prepared(tmp_path)
    _, sampler = train_loader(config)

    def ids(update: float, skip: int = 0) -> list[set[str]]:
        sampler.start(0, skip, update)
        return [{cut.id for cut in asked.cuts} for asked in sampler]

    def synthetic(batches) -> bool:
        return all(name.startswith("900") for batch in batches for name in batch)

    alone, both = ids(4.9), ids(5.0)
    assert synthetic(alone) and not synthetic(both)
    assert {"7-1-0000", "7-1-0001"} <= set.union(*both)
    assert ids(6.0, skip=2) == alone[2:] and ids(7.0, skip=2) == both[2:]
    spoken, whole = (
        sum(cut.duration for split in splits for cut in load_cuts(config, [split]))
        for splits in (["spoken-words"], ["spoken-words", "train"])
    )
    sampler.start(0, 0, 0.0)
    assert sampler.share == pytest.approx(spoken / whole) and sampler.share < 0.9


def test_passes_over_the_data_count_what_was_heard(tmp_path):
    """An epoch of the words alone is a part of a pass, by its seconds."""
    stream = BatchStream(prepared(tmp_path), 0, 1)
    share, before = None, 0.0
    for _ in stream:
        share = share or stream.sampler.share
        assert stream.passes >= before
        before = stream.passes
        if stream.sampler.share == 1.0:
            break
    assert stream.epoch >= 1 and stream.whole == pytest.approx(stream.epoch * share)
    assert stream.passes == pytest.approx(stream.whole)  # the length of a whole epoch is not known


def test_a_split_of_that_name_is_refused():
    with pytest.raises(ConfigError, match="rename the folder"):
        load("commands", ["data.root=/x", "data.train=[spoken-words]"])


def test_words_without_a_sound_are_left_out_and_named(tmp_path, caplog):
    """espeak-ng says nothing for this letter: its utterances would be noise divided by nothing."""
    spoken_words.make_spoken_words(["STOP \ua9b2"], 0.001, "en", tmp_path / "a", jobs=1)
    texts = " ".join(p.read_text() for p in (tmp_path / "a").rglob("*.trans.txt"))
    assert "STOP" in texts and "\ua9b2" not in texts
    assert "1 of 2 words, which are left out" in caplog.text
    with pytest.raises(UserError, match="no train transcript has a word"):
        spoken_words.make_spoken_words(["\ua9b2"], 0.001, "en", tmp_path / "b", jobs=1)


def test_words_of_another_script_are_warned_of(caplog):
    spoken_words.warn_of_words(["\u0441\u0442\u043e\u043f"], ["\u0441\u0442\u043e\u043f"], "en")
    assert "letters that English lacks" in caplog.text
    caplog.clear()
    spoken_words.warn_of_words(["CAF\u00c9", "7"], ["CAF\u00c9", "7"], "en")
    spoken_words.warn_of_words(["\u0441\u0442\u043e\u043f"], ["\u0441\u0442\u043e\u043f"], "ru")
    assert not caplog.text
