"""Lists, audio and archives that were made to stop stages 0 to 2, or to get out of their folder."""

import gzip
import json
import tarfile
import tracemalloc

import numpy as np
import pytest
import soundfile
from lhotse.utils import safe_extract

from local.corpus_files import canonical
from local.dropped import Dropped
from local.examination import LARGEST_FILTER, Examination, filter_problem
from local.make_corpus import contained
from local.sources import read_source
from local.utterances import Utterance, transcript_problem
from utils.errors import UserError

MARKS = "a" + "\u0301\u0327" * 200_000  # minutes, if it were normalised


@pytest.mark.parametrize(
    "row",
    [
        {"start": 10**400, "end": 1},
        {"start": 1e308, "duration": 1},
        {"start": 0, "end": 1e18},
        {"audio": "/"},
        {"audio": "."},
        {"audio": "\ud800.m4a"},
        {"audio": "a\0b.m4a"},
        {"id": MARKS},
        {"text": MARKS},
    ],
)
def test_a_row_is_dropped_and_the_next_one_is_read(tmp_path, row):
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    good = {"audio": "a.wav", "text": "GOOD", "id": "good"}
    rows = [{"audio": "b.wav", "text": "BAD"} | row, good]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = read_source(tmp_path / "x.jsonl", "x")
    looked = [Examination(True, tmp_path / "c")(u) for u in source.utterances]
    dropped = source.dropped + [d for d in looked if isinstance(d, Dropped)]
    assert len(dropped) == 1
    assert [c.id for c in looked if not isinstance(c, Dropped)] == ["good"]


def test_a_name_in_a_kaldi_folder_has_a_zero(tmp_path):
    (tmp_path / "wav.scp").write_text("u a\0b.wav\n")
    (tmp_path / "text").write_text("u A\n")
    [utterance] = read_source(tmp_path, "x").utterances
    assert Examination(True, tmp_path)(utterance).reason == "missing audio"


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_a_number_of_5000_digits_is_no_json(tmp_path, name):
    data = b'{"audio": "a.wav", "text": "A", "start": ' + b"9" * 5000 + b"}"
    (tmp_path / name).write_bytes(gzip.compress(data) if "gz" in name else data)
    with pytest.raises(UserError, match="line 1 is not JSON"):
        read_source(tmp_path / name, "x")


def test_a_list_that_grows_without_end_is_not_read(tmp_path):
    """Nor held in memory until it is found to be too long."""
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(bytes(80_000_000), 1))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="200 times as long"):
            read_source(tmp_path / "x.jsonl.gz", "x")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_marks_beyond_number_are_no_transcript():
    assert transcript_problem("u", MARKS, "here").reason == "damaged transcript"
    assert transcript_problem("u", "e\u0301\u0327" * 500, "here") is None
    assert canonical(MARKS) == MARKS and canonical("e\u0301") == "\u00e9"


@pytest.mark.parametrize("rate", [1, 999, 44101, 1_000_001])
def test_a_sampling_rate_that_would_fill_the_memory(tmp_path, rate):
    """At 44101 Hz the filter to 16 kHz alone has 705 million values."""
    soundfile.write(tmp_path / "a.wav", np.zeros(800), rate)
    found = Examination(True, tmp_path)(Utterance("a", "A", "A", tmp_path / "a.wav", "s"))
    assert isinstance(found, Dropped) and found.reason == "sampling rate not read"


def test_usual_sampling_rates_are_read():
    for rate in (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000):
        assert filter_problem(rate) is None
    assert 44101 * 16000 > LARGEST_FILTER > 441 * 160


def archive(path, *members: tuple[str, bytes, bytes, str]) -> None:
    """Name, type, content and target of a link."""
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, data, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(data), target
            (path.parent / "data").write_bytes(data)
            with open(path.parent / "data", "rb") as file:
                tar.addfile(member, file)


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="Python before 3.10.12, 3.11.4")
def test_archives_are_unpacked_inside_their_folder(tmp_path):
    """lhotse follows a link that an archive has brought along; and whoever is unpacked without
    limits fills the disk."""
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir(), outside.mkdir()
    file, link = tarfile.REGTYPE, tarfile.SYMTYPE
    attacks = {
        "link": [("out", link, b"", str(outside)), ("out/escaped", file, b"a", "")],
        "up": [("../outside/escaped", file, b"a", "")],
        "bomb": [(f"{i}", file, bytes(10_000_000), "") for i in range(8)],
    }
    for name, members in attacks.items():
        archive(target / f"{name}.tar.gz", *members)
        with (
            pytest.raises(tarfile.TarError),
            contained(target),
            tarfile.open(target / f"{name}.tar.gz") as tar,
        ):
            safe_extract(tar, target)
    assert not list(outside.iterdir())
    archive(target / "good.tar.gz", ("d/a", file, b"a", ""))
    with contained(target), tarfile.open(target / "good.tar.gz") as tar:
        safe_extract(tar, target)
    assert (target / "d/a").read_bytes() == b"a"
