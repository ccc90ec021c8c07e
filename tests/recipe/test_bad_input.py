"""Every kind of bad input: nothing is lost, nothing disappears silently."""

import gzip
import json

import pytest

from local.prepare_manifests import prepare
from local.train_bpe import token_problem, train_bpe
from tests.conftest import run_sh, write_utterance
from tests.local.corpora import scanned
from todm.config.keys import Config, DataConfig
from utils.errors import UserError

GOOD = "HELLO WORLD"


@pytest.fixture
def bad_corpus(tmp_path):
    """One good utterance, one at another rate, and one of each kind that must be dropped."""
    split = tmp_path / "train"
    write_utterance(split, "1-1-0000", GOOD)
    write_utterance(split, "1-1-0001", GOOD, rate=8000)
    write_utterance(split, "1-1-0002", "")
    write_utterance(split, "1-1-0003", None)
    truncated = write_utterance(split, "1-1-0004", GOOD, seconds=2.0)
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    write_utterance(split, "1-1-0005", GOOD).write_bytes(b"")
    write_utterance(split, "1-1-0006", GOOD).write_bytes(b"this is not audio")
    write_utterance(split, "1-1-0007", GOOD).unlink()
    write_utterance(split, "1-1-0000", GOOD)  # its line a second time
    write_utterance(split, "1-1-0008", GOOD, seconds=0.0)
    write_utterance(split, "1-1-0009", GOOD, seconds=25.0)
    write_utterance(split, "1-1-0010", GOOD, seconds=0.1)
    return tmp_path


EXPECTED = {
    "1-1-0002": "empty transcript",
    "1-1-0003": "missing transcript",
    "1-1-0004": "corrupt audio",
    "1-1-0005": "empty audio",
    "1-1-0006": "corrupt audio",
    "1-1-0007": "missing audio",
    "1-1-0000": "duplicate id",
    "1-1-0008": "empty audio",
}


def test_scan_keeps_the_good_and_says_why_the_rest_is_dropped(bad_corpus):
    cuts, dropped = scanned(bad_corpus, "train", True)
    assert {d.id: d.reason for d in dropped} == EXPECTED
    assert [c.id for c in cuts] == ["1-1-0000", "1-1-0001", "1-1-0009", "1-1-0010"]


def test_another_sampling_rate_is_resampled(bad_corpus):
    cuts, _ = scanned(bad_corpus, "train", True)
    assert cuts[1].sampling_rate == 16000
    assert cuts[1].load_audio().shape == (1, 16000)


def test_prepare_writes_the_listing_and_the_manifest(bad_corpus, tmp_path):
    config = Config(
        name="bad",
        data=DataConfig(
            root=str(bad_corpus),
            dir=str(tmp_path / "out"),
            train=["train"],
            dev=[],
            test=[],
            num_jobs=1,
        ),
    )
    prepare(config, None)
    rows = [
        line.split("\t")[1:3]
        for line in (tmp_path / "out/dropped.tsv").read_text().splitlines()[1:]
    ]
    assert dict(rows) == EXPECTED | {"1-1-0009": "too long", "1-1-0010": "too short"}
    with gzip.open(tmp_path / "out/manifests/train.jsonl.gz", "rt") as manifest:
        assert [json.loads(line)["id"] for line in manifest] == ["1-1-0000", "1-1-0001"]


def test_the_same_id_in_two_chapters_is_kept_once(tmp_path):
    write_utterance(tmp_path / "train", "1-1-0000", GOOD)
    other = write_utterance(tmp_path / "train", "1-2-0000", None)
    (other.parent / "1-1-0000.flac").write_bytes(other.read_bytes())
    (other.parent / "1-2.trans.txt").write_text(f"1-1-0000 {GOOD}\n")
    cuts, dropped = scanned(tmp_path, "train", True)
    assert [c.id for c in cuts] == ["1-1-0000"]
    assert {d.reason for d in dropped} == {"duplicate id", "missing transcript"}


def test_nothing_left_is_an_error_that_names_the_listing(tmp_path):
    write_utterance(tmp_path / "train", "1-1-0000", "")
    config = Config(
        name="bad",
        data=DataConfig(
            root=str(tmp_path),
            dir=str(tmp_path / "out"),
            train=["train"],
            dev=[],
            test=[],
            num_jobs=1,
        ),
    )
    with pytest.raises(UserError, match="dropped.tsv"):
        prepare(config, None)


def test_an_utterance_too_short_for_its_tokens_is_dropped(tmp_path):
    write_utterance(
        tmp_path / "train", "1-1-0000", "A LONG TEXT FOR HALF A SECOND OF AUDIO", seconds=0.5
    )
    write_utterance(tmp_path / "train", "1-1-0001", "A", seconds=0.5)
    cuts, _ = scanned(tmp_path, "train", True)
    tokenizer = train_bpe(
        ["A LONG TEXT FOR HALF A SECOND OF AUDIO"] * 5,
        Config().bpe.__class__(vocab_size=22),
        tmp_path / "lang",
    )
    problem = token_problem(cuts[0], tokenizer)
    assert (
        problem.reason == "too few frames for its tokens" and "11 encoder frames" in problem.detail
    )
    assert token_problem(cuts[1], tokenizer) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["data.root=/nowhere"], "data.root=/nowhere is not a folder"),
        (["data.root=tests"], "has no folder train, dev, test"),
    ],
)
def test_a_wrong_corpus_folder_names_what_is_missing(arguments, message, tmp_path):
    result = run_sh(
        "--stage", "0", "--stop-stage", "0", f"data.dir={tmp_path}", *arguments, check=False
    )
    assert result.returncode == 2 and message in result.stdout
