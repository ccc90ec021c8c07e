"""Stages 0 to 4 on data and disks as they come: channels, files that can not be read, files that
can not be written, few utterances."""

import logging
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, NumpyFilesWriter

from local.compute_features import compute
from local.make_corpus import check_names
from local.prepare_manifests import prepare
from local.train_bpe import train as train_stage
from tests.conftest import ROOT, TINY, run_sh, tiny_arguments, write_utterance
from tests.local.corpora import scanned
from todm.config.keys import Config, DataConfig, FeatureConfig
from todm.config.load import load
from todm.data.features import make_extractor
from todm.data.loaders import eval_loader, load_cuts, train_loader
from todm.deploy.split_audio import audio_batches
from utils.audio import read_pieces
from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.files import WriteError, atomic_path, describe, read_json, write_text_atomic


def make_config(
    root: Path, on_the_fly: bool = False, splits: tuple[str, ...] = ("train",), **keys
) -> Config:
    """A configuration of a corpus below ``root / "corpus"``, whose first split is train, the second
    dev."""
    data = DataConfig(
        root=str(root / "corpus"),
        dir=str(root / "data"),
        train=[splits[0]],
        dev=list(splits[1:]),
        test=[],
        num_jobs=1,
        num_workers=0,
        **keys,
    )
    return Config(name="x", data=data, features=FeatureConfig(on_the_fly=on_the_fly))


def rows(path: Path) -> list[list[str]]:
    """Split, id and reason of a list of what is dropped."""
    return [line.split("\t")[:3] for line in path.read_text().splitlines()[1:]]


def limited(kilobytes: int, *command: str) -> subprocess.CompletedProcess:
    """A command whose files may not be longer; output and errors together."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    return subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit,
        timeout=600,
        env=os.environ | {"TODM_VENV": str(Path(sys.prefix))},
    )


# ---- channels


@pytest.mark.parametrize("channels, rate", [(2, 16000), (2, 8000), (5, 16000), (8, 44100)])
def test_several_channels_are_their_mean_everywhere(tmp_path, caplog, channels, rate):
    """Speech on one channel alone, as recorders with one microphone make it: what transcribe.sh
    hears is what is trained on."""
    path = write_utterance(tmp_path / "corpus/train", "1-1-0000", "A B")
    write_utterance(tmp_path / "corpus/train", "1-1-0001", "A B")
    samples = np.zeros((round(1.3 * rate), channels))
    time = np.arange(len(samples)) / rate
    samples[:, -1] = 0.3 * np.sin(2 * np.pi * 300 * time) + 0.2 * np.sin(2 * np.pi * 1100 * time)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    heard = np.concatenate(list(read_pieces(path)))
    for on_the_fly in (False, True):
        config = make_config(tmp_path, on_the_fly, speed_perturb=True)
        with caplog.at_level(logging.INFO):
            prepare(config, None)
        assert "1 of more than one channel, whose mean is taken" in caplog.text
        compute(config, None)
        train_stage(config, None)
        cuts = {c.id: c for c in load_cuts(config, ["train"])}
        assert set(cuts) == {
            "1-1-0000",
            "1-1-0001",
            *(f"1-1-000{i}_sp{s}" for i in range(2) for s in (0.9, 1.1)),
        }
        audio = cuts["1-1-0000"].load_audio()
        assert audio.shape[0] == 1
        np.testing.assert_allclose(
            audio[0][200:-200],
            heard[200 : len(audio[0]) - 200],
            atol=1e-3 if rate != 16000 else 1e-5,
        )
        assert abs(cuts["1-1-0000_sp0.9"].load_audio()[0].std() / audio[0].std() - 1) < 0.15
        batches = {
            n: (b.features[i, : b.lengths[i]].numpy())
            for b in eval_loader(config, ["train"], 100)
            for i, n in enumerate(b.ids)
        }
        expected = make_extractor(config.features).extract(audio, 16000)
        # Stored features are lossy; on the fly the last frames see the batch's padding.
        np.testing.assert_allclose(batches["1-1-0000"][:-2], expected[:-2], atol=0.1)
        assert batches["1-1-0000_sp0.9"].max() > 0  # no silence
    proof = {
        name: samples for batch in audio_batches(config, "train") for name, samples, _ in batch
    }
    np.testing.assert_array_equal(proof["1-1-0000"], audio[0])


# ---- files that can not be read


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_what_stage_1_has_not_decoded_stage_2_finds(tmp_path, on_the_fly):
    for i in range(4):
        path = write_utterance(tmp_path / "corpus/train", f"1-1-000{i}", "A B", seconds=2.0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    tiny = write_utterance(tmp_path / "corpus/dev", "2-1-0000", "A B")
    soundfile.write(tiny, np.zeros(40), 16000)
    write_utterance(tmp_path / "corpus/dev", "2-1-0001", "A B")
    config = make_config(
        tmp_path, on_the_fly, ("train", "dev"), verify_audio=False, speed_perturb=True
    )
    prepare(config, None)
    (tmp_path / "corpus/train/1/1/1-1-0002.flac").unlink()
    compute(config, None)
    assert rows(tmp_path / "data/dropped-features.tsv") == [
        ["train", "1-1-0002", "unreadable audio"],
        ["train", "1-1-0003", "unreadable audio"],
        ["dev", "2-1-0000", "too short"],
    ]
    kept = {c.id for c in CutSet.from_file(tmp_path / "data/features/train.jsonl.gz")}
    assert kept == {f"1-1-000{i}{s}" for i in range(2) for s in ("", "_sp0.9", "_sp1.1")}


@pytest.mark.parametrize("verify", [True, False])
def test_samples_that_are_no_numbers_are_dropped(tmp_path, verify):
    """By stage 1 where it decodes, else by stage 2; and of huge ones by stage 1."""
    split = tmp_path / "corpus/train"
    write_utterance(split, "1-1-0000", "A B")
    for i, value in enumerate((np.nan, np.inf, 1e6), start=1):
        samples = np.full(16000, 0.1)
        samples[8000] = value
        write_utterance(split, f"1-1-000{i}", "A B").unlink()
        soundfile.write(split / f"1/1/1-1-000{i}.wav", samples, 16000, subtype="FLOAT")
    config = make_config(tmp_path, verify_audio=verify)
    prepare(config, None)
    compute(config, None)
    reason = "corrupt audio" if verify else "unreadable audio"
    dropped = tmp_path / "data" / ("dropped.tsv" if verify else "dropped-features.tsv")
    assert rows(dropped) == [["train", f"1-1-000{i}", reason] for i in range(1, 4 if verify else 3)]
    statistics = read_json(tmp_path / "data/features/statistics.json")
    assert np.isfinite([*statistics["mean"], *statistics["std"]]).all()


@pytest.mark.parametrize("stage", [prepare, compute])
def test_too_many_open_files_are_no_bad_audio(tmp_path, monkeypatch, stage):
    """Audio libraries call this a system error; it is not to cost an utterance."""
    for i in range(2):
        write_utterance(tmp_path / "corpus/train", f"1-1-000{i}", "A B")
    config = make_config(tmp_path)
    prepare(config, None)
    original = os.open

    def refuse(path, *arguments, **keywords):
        if str(path).endswith(".flac"):
            raise OSError(24, "Too many open files", str(path))
        return original(path, *arguments, **keywords)

    def fail(*arguments, **keywords):
        raise soundfile.LibsndfileError(2, "Error opening: ")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(soundfile, "info", fail)
    monkeypatch.setattr("lhotse.MonoCut.load_audio", fail)
    with pytest.raises(OSError, match="Too many open files"):
        stage(config, None)


def test_verified_audio_is_not_decoded_again_on_the_fly(tmp_path):
    write_utterance(tmp_path / "corpus/train", "1-1-0000", "A B")
    config = make_config(tmp_path, on_the_fly=True)
    prepare(config, None)
    compute(config, None)
    assert rows(tmp_path / "data/dropped-features.tsv") == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_lost_after_stage_2_is_a_sentence(tmp_path, workers):
    """Not a traceback out of a worker, and not an utterance that vanishes."""
    for i in range(2):
        path = write_utterance(tmp_path / "corpus/train", f"1-1-000{i}", "A B")
    config = make_config(tmp_path, on_the_fly=True)
    for stage in (prepare, compute, train_stage):
        stage(config, None)
    path.unlink()
    config.data.num_workers = workers
    with pytest.raises(UserError, match="1-1-0001 can not be read") as caught:
        list(eval_loader(config, ["train"], 100))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("share", [0, 0.5])
def test_stored_features_that_are_damaged_are_a_sentence(tmp_path, share):
    write_utterance(tmp_path / "corpus/train", "1-1-0000", "A B")
    config = make_config(tmp_path)
    for stage in (prepare, compute, train_stage):
        stage(config, None)
    path = next(tmp_path.rglob("*.lca"))
    os.truncate(path, round(path.stat().st_size * share))
    with pytest.raises(UserError, match="1-1-0000 can not be read: ValueError"):
        list(eval_loader(config, ["train"], 100))


def test_features_that_are_not_finite_are_not_scored(tmp_path):
    """A training leaves their batch out by itself."""
    for name in ("1-1-0000", "1-1-0001"):
        write_utterance(tmp_path / "corpus/train", name, "A B")
    config = make_config(tmp_path)
    for stage in (prepare, compute, train_stage):
        stage(config, None)
    path = config.data_dir / "cuts/train.jsonl.gz"
    first, second = CutSet.from_file(path)
    features = first.load_features()
    features[3, 5] = np.nan
    writer = NumpyFilesWriter(tmp_path / "changed")
    first.features.storage_key = writer.write(first.id, features)
    first.features.storage_path, first.features.storage_type = writer.storage_path, writer.name
    CutSet.from_cuts([first, second]).to_file(path)
    with pytest.raises(UserError, match="features of 1-1-0000 hold NaN or infinity; stage 2"):
        list(eval_loader(config, ["train"], 100))
    loader, sampler = train_loader(config, 0, 1)
    sampler.start(0, 0)
    batches = list(loader)
    assert sorted(name for batch in batches for name in batch.ids) == ["1-1-0000", "1-1-0001"]
    assert [name for batch in batches for name in batch.not_finite()] == ["1-1-0000"]


# ---- files that can not be written


def test_a_write_error_names_the_file_and_keeps_the_old_one(tmp_path):
    target = tmp_path / "file"
    write_text_atomic(target, "old")
    code = f"from utils.files import *\nwrite_text_atomic({str(target)!r}, 'x' * 100_000)"
    done = limited(8, sys.executable, "-c", code)
    assert f"WriteError: [Errno 27] File too large: '{target}'" in done.stdout
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_libraries_that_do_not_say_why_they_can_not_write(tmp_path):
    code = (
        "import torch\nfrom utils.checkpoint import "
        f"*\nsave_checkpoint(Path({str(tmp_path)!r}), 1, {{'a': torch.randn(50000)}}, 3)"
    )
    done = limited(8, sys.executable, "-c", code)
    assert f"WriteError: [Errno 27] File too large: '{tmp_path / 'update-1.pt'}'" in done.stdout
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a") as path:
        path.write_text(str(1 / 0))
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "a") as path:
        path.write_bytes((tmp_path / "source").read_bytes())
    assert caught.value.filename == str(tmp_path / "source") and not isinstance(
        caught.value, WriteError
    )
    assert not list(tmp_path.iterdir())
    with pytest.raises(Exception, match="pickle") as caught:
        save_checkpoint(tmp_path, 1, {"a": lambda: 0}, 3)  # can not be pickled
    assert not isinstance(caught.value, WriteError)


def test_a_write_error_in_a_sentence(tmp_path):
    error = pickle.loads(
        pickle.dumps(WriteError(28, "No space left on device", str(tmp_path / "no/file")))
    )  # as it comes out of a worker
    text = describe(error, Path())
    assert (
        text.startswith(f"{tmp_path / 'no/file'} can not be written: No space left on device. ")
        and " GiB are free there" in text
    )
    assert describe(OSError(28, "No space left on device"), tmp_path).startswith(
        f"{tmp_path} can not be written"
    )
    assert (
        describe(PermissionError(13, "Permission denied", "/x"), tmp_path)
        == "/x: Permission denied"
    )


@pytest.mark.slow
def test_a_full_disk_ends_each_stage_with_a_sentence(tmp_path):
    """Stages 0, 2 and 4; the same command goes on when there is room, with nothing lost."""
    arguments = [*tiny_arguments(tmp_path), "train.updates=4", "train.valid_every=4"]

    def sentence(kilobytes: int, *command: str) -> str:
        done = limited(kilobytes, *command, *arguments)
        assert done.returncode == 2 and "Traceback" not in done.stdout, done.stdout
        return done.stdout.split("ERROR: ")[1]

    corpus = tmp_path / "data/corpus/LibriSpeech"
    assert sentence(12, sys.executable, "-m", "local.make_corpus").startswith(
        f"stage 0: {corpus}/train/"
    )
    assert all(
        len(soundfile.read(path)[0]) for path in corpus.rglob("*.flac")
    )  # whole, or not there
    run_sh("--stop-stage", "1", *arguments)
    text = sentence(16, str(ROOT / "run.sh"), "--stage", "2", "--stop-stage", "2")
    assert (
        text.startswith(f"stage 2: {tmp_path}/data/features/")
        and ".lca can not be written: File too large" in text
        and "GiB are free" in text
    )
    run_sh("--stage", "2", "--stop-stage", "3", *arguments)
    assert rows(tmp_path / "data/dropped-features.tsv") == [] == rows(tmp_path / "data/dropped.tsv")
    assert len(load_cuts(load("conf/mini.yaml", arguments), ["train"])) == len(
        list(corpus.glob("train/*/*/*.flac"))
    )
    text = sentence(100, sys.executable, "-m", "todm.training.train")
    assert text.startswith(f"stage 4: {tmp_path}/exp/checkpoints/update-4.pt can not be written")
    assert not list((tmp_path / "exp/checkpoints").iterdir())


def test_a_bpe_model_is_written_whole_or_not_at_all(tmp_path):
    code = (
        "from local.train_bpe import *\n"
        f"train_bpe([f'{{a}}{{b}}{{c}} ' for a in 'ABCDEFGHIJ' for b in 'KLMNOP' for c in "
        f"'QRSTUV'], BpeConfig(300, 'bpe'), Path({str(tmp_path)!r}))"
    )
    done = limited(4, sys.executable, "-c", code)
    assert f"WriteError: [Errno 27] File too large: '{tmp_path / 'bpe.model'}'" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["transcript.txt"]


# ---- few utterances, splits in folders, the same ids in several


@pytest.mark.parametrize(
    "utterances, buckets", [(1, 10), (2, 1), (7, 10), (8, 10), (12, 1), (9, 2)]
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_any_number_of_utterances_and_buckets(tmp_path, utterances, buckets):
    for i in range(utterances):
        write_utterance(tmp_path / "corpus/train", f"1-1-{i:04d}", "A B", seconds=1 + 0.1 * i)
    config = make_config(tmp_path, num_buckets=buckets, max_duration=5.0)
    for stage in (prepare, compute, train_stage):
        stage(config, None)
    for world_size in (1, 2):
        seen = []
        for rank in range(world_size):
            loader, sampler = train_loader(config, rank, world_size)
            sampler.start(epoch=0, skip=0)
            batches = list(loader)
            assert batches and all(b.seconds <= 5.0 for b in batches)
            seen += [name.partition("_dup")[0] for b in batches for name in b.ids]
        assert set(seen) == {f"1-1-{i:04d}" for i in range(utterances)}


def test_splits_in_folders_and_the_same_ids_in_several(tmp_path):
    texts = {"english/train": "A B", "english/dev": "B A", "other/dev": "B B"}
    for split, text in texts.items():
        for i in range(2):
            write_utterance(tmp_path / "corpus" / split, f"1-1-000{i}", text)
    config = make_config(tmp_path, splits=tuple(texts))
    for stage in (prepare, compute, train_stage):
        stage(config, None)
    for split, text in texts.items():
        assert [c.supervisions[0].text for c in load_cuts(config, [split])] == [text] * 2
    together = {
        name: t
        for b in eval_loader(config, config.data.dev, 100)
        for name, t in zip(b.ids, b.texts)
    }
    assert together == {
        "1-1-0000": "B A",
        "1-1-0001": "B A",
        "1-1-0000 in other/dev": "B B",
        "1-1-0001 in other/dev": "B B",
    }


@pytest.mark.parametrize(
    "name", ["", "/corpora/dev", "dev/", "../dev", ".", "a//b", "a/../b", "./dev"]
)
def test_names_of_splits_that_would_lead_elsewhere(name):
    with pytest.raises(UserError, match="is not the name of a folder below the corpus"):
        check_names(["train", name])


def test_a_split_in_another_would_share_its_utterances():
    with pytest.raises(UserError, match="english/dev lies in the split english"):
        check_names(["english", "english/dev"])
    check_names(["english", "english-dev", "other/dev"])


@pytest.mark.slow
def test_a_corpus_of_all_kinds_through_run_sh(tmp_path):
    """Seven train utterances in split folders, stereo, marks and tabs in transcripts, more BPE than
    the text allows: trained and scored."""
    root = tmp_path / "corpus"
    for split, speaker, count in (("a/train", 1, 7), ("a/dev", 2, 2), ("a/test", 3, 2)):
        for i in range(count):
            path = write_utterance(root / split, f"{speaker}-1-{i:04d}", None, seconds=2.0)
            soundfile.write(
                path, np.stack([np.zeros(32000), soundfile.read(path)[0]], axis=1), 16000
            )
        lines = "".join(f"{speaker}-1-{i:04d}\tHELLO ½ *\u00a0WORLD\r\n" for i in range(count))
        (root / split / f"{speaker}/1/{speaker}-1.trans.txt").write_text(
            "\ufeff" + lines, encoding="utf-8", newline=""
        )
    (root / "a/dev/2/1/2-1-0001.flac").rename(root / "a/dev/2/1/2-1-0001.sph")
    arguments = [a for a in TINY if not a.startswith(("data.num_buckets", "bpe", "synthetic"))]
    arguments += [
        "name=tiny",
        f"data.dir={tmp_path / 'data'}",
        f"exp={tmp_path / 'exp'}",
        f"data.root={root}",
        "data.train=[a/train]",
        "data.dev=[a/dev]",
        "data.test=[a/test]",
        "data.verify_audio=false",
        "train.updates=4",
    ]
    output = run_sh("--stop-stage", "6", *arguments).stdout
    assert "a/train: 7 audio files lie below" in output and "7 of more than one channel" in output
    assert "bpe.vocab_size=" in output and "SentencePiece has made" in output
    assert rows(tmp_path / "data/dropped.tsv") == [["a/dev", "2-1-0001", "audio format not read"]]
    recogs = next((tmp_path / "exp/decode/recogs-a").glob("test-*")).read_text()
    assert "3-1-0000:\tref=['HELLO', '1⁄2', '*', 'WORLD']" in recogs
    assert load("conf/mini.yaml", arguments).data.train == ["a/train"]
    assert len(scanned(root, "a/dev", False)[1]) == 1
