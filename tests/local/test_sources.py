"""Splits as tables, manifests and Kaldi folders."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from local.examination import Examination
from local.make_corpus import make_corpus
from local.prepare_manifests import prepare_split, scan_split
from local.sources import read_source
from local.utterances import Utterance
from tests.conftest import run_sh, tiny_arguments
from tests.helpers import tiny_config
from todm.config.load import load
from utils.errors import ConfigError, UserError

RATE = 16000


def record(path: Path, seconds: float = 1.0, channels: int = 1) -> Path:
    """A file whose sample at t seconds is t / 100, in channel c plus c / 10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(round(seconds * RATE)) / RATE / 100
    soundfile.write(path, np.stack([ramp + c / 10 for c in range(channels)], axis=1), RATE)
    return path


def examined(path: Path, tmp_path: Path):
    """The cuts of a split by id, and id, reason and detail of what is dropped."""
    cuts, dropped = scan_split(path, "x", Examination(True, tmp_path / "converted"), 1)
    return {cut.id: cut for cut in cuts}, [(d.id, d.reason, d.detail) for d in dropped]


def texts(cuts: dict) -> dict[str, tuple[str, str]]:
    """Transcript and speaker by id."""
    return {name: (c.supervisions[0].text, c.supervisions[0].speaker) for name, c in cuts.items()}


def test_common_voices_table(tmp_path):
    """Its clips lie in clips/, its quotes are no quotes, and it has columns that nobody needs."""
    record(tmp_path / "cv/clips/a.mp3")
    record(tmp_path / "cv/clips/b.mp3")
    table = tmp_path / "cv/train.tsv"
    table.write_text(
        "client_id\tpath\tsentence\tup_votes\n"
        'f00\ta.mp3\t"Ja", sagte er\t2\n'
        "f01\tb.mp3\tNein  \u00bd\t0\n"
        "f01\tgone.mp3\tWo\t0\n"
        "f02\tb.mp3\tNochmal\t0\n"
        "f02\ta.mp3\t\t0\n",
        encoding="utf-8",
    )
    cuts, dropped = examined(table, tmp_path)
    assert texts(cuts) == {"a": ('"Ja", sagte er', "f00"), "b": ("Nein 1\u20442", "f01")}
    assert {item[:2] for item in dropped} == {
        ("b", "duplicate id"),
        ("a", "empty transcript"),
        ("gone", "missing audio"),
    }


def test_a_csv_with_quotes_ids_and_stretches(tmp_path):
    record(tmp_path / "long.wav", 10)
    table = tmp_path / "my.csv"
    table.write_text(
        "\ufeffID,Audio,Text,Start,End,Speaker\r\n"
        'one,long.wav,"HELLO, THERE",1.5,3,ann\r\n'
        f",{tmp_path / 'long.wav'},GOOD BYE,4,5.25,\r\n"
        "late,long.wav,TOO LATE,9,12,ann\r\n"
        "wrong,long.wav,BACKWARDS,5,4,ann\r\n"
        "odd,long.wav,NO NUMBER,x,4,ann\r\n"
        "edge,long.wav,TO THE END,9,10.05,ann\r\n",
        encoding="utf-8",
    )
    cuts, dropped = examined(table, tmp_path)
    assert texts(cuts) == {
        "one": ("HELLO, THERE", "ann"),
        "long-00004000": ("GOOD BYE", "long-00004000"),
        "edge": ("TO THE END", "ann"),
    }
    one = cuts["one"]
    assert (one.start, one.duration) == (1.5, 1.5) and cuts["edge"].duration == pytest.approx(1)
    samples = one.load_audio()[0]
    assert len(samples) == 1.5 * RATE and samples[0] == pytest.approx(0.015, abs=1e-4)
    assert [item[:2] for item in dropped] == [
        ("long.wav", "no such stretch"),
        ("long.wav", "no such stretch"),
        ("late", "no such stretch"),
    ]
    assert "it ends at 4 s and begins at 5 s" in dropped[0][2]
    assert "the start 'x' is no number" in dropped[1][2]
    assert "is 10.00 s long, and the utterance is from 9.00 to 12.00 s" in dropped[2][2]


def test_a_manifest_of_nemo(tmp_path):
    """A duration without an offset is that of the file."""
    record(tmp_path / "wavs/a.wav", 3)
    manifest = tmp_path / "train.json"
    manifest.write_text(
        json.dumps({"audio_filepath": "a.wav", "duration": 2.9, "text": "whole"})
        + "\n\n"
        + json.dumps({"audio_filepath": "a.wav", "offset": 1, "duration": 0.5, "text": "part"})
        + "\n"
    )
    cuts, dropped = examined(manifest, tmp_path)
    part = "a-00001000"
    assert not dropped and texts(cuts) == {"a": ("whole", "a"), part: ("part", part)}
    assert cuts["a"].duration == 3 and (cuts[part].start, cuts[part].duration) == (1, 0.5)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.tsv", "", "is empty; its first line must name the columns"),
        ("a.tsv", "x.wav\tHELLO\n", "has no column of audio; one of audio_filepath"),
        ("a.csv", "path,words\n", "no column of transcripts; .* and it has: path, words"),
        ("a.tsv", b"path\ttext\nx.wav\tcaf\xe9\n", "is not in UTF-8; convert it"),
        ("a.jsonl", "{'a': 1}\n", "line 1 is not JSON"),
        ("a.jsonl", '{"audio": "x", "text": "y"}\n[1]\n', "line 2 is not a JSON object"),
        ("a.jsonl", "\n", "is empty; expected a JSON object a line"),
        ("a.json.gz", b"\x1f\x8b\x08broken", "can not be read"),
        ("a.jsonl", '{"supervisions": 1}\n', "is no manifest that lhotse can read"),
        ("a.jsonl", '{"id": "r", "sources": []}\n', "lists recordings and no transcripts"),
        ("a.jsonl", '{"recording_id": "r"}\n', "call it ...supervisions..., with the recordings"),
        ("supervisions_a.jsonl", '{"recording_id": "r"}\n', "expected recordings_a.jsonl"),
        ("a.txt", "x", "is no file that lists utterances: those end in .tsv"),
    ],
)
def test_what_is_no_table(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        read_source(path, "x")


def test_a_table_of_odd_rows_loses_none(tmp_path):
    table = tmp_path / "a.jsonl"
    rows = [
        {"audio": "a.wav", "text": "fine"},
        {"audio": None, "text": "no audio"},
        {"text": "no audio"},
        {"audio": "b.wav"},
        {"audio": "c.wav", "text": 7},
        {"audio": "d.sph", "text": "format"},
        {"audio": "e\0.wav", "text": "a name that no file has"},
        {"audio": "x" * 5000 + ".wav", "text": "a name that is too long"},
        {"audio": "a.wav", "text": "half a character \ud83d", "id": "half"},
        {"audio": "a.wav", "text": "fine", "id": "an id \ud83d", "speaker": "\ud83d"},
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record(tmp_path / "a.wav")
    source = read_source(table, "x")
    assert source.lines == 10 == len(source.utterances) + len(source.dropped)
    cuts, dropped = examined(table, tmp_path)
    assert list(cuts) == ["a", "an_id_?"] and len(dropped) == 8
    CutSet.from_cuts(cuts.values()).to_file(tmp_path / "written.jsonl.gz")


def test_files_of_one_name_in_different_folders_are_different(tmp_path):
    """As in Speech Commands; no id is given."""
    for word in ("yes", "no"):
        record(tmp_path / word / "0a7c.wav")
    record(tmp_path / "single.wav")
    (tmp_path / "a.csv").write_text(
        "path,text\nyes/0a7c.wav,YES\nno/0a7c.wav,NO\nsingle.wav,X\nsingle.wav,hello, world\n"
    )
    cuts, dropped = examined(tmp_path / "a.csv", tmp_path)
    assert texts(cuts).keys() == {"yes-0a7c", "no-0a7c", "single"}
    [(name, reason, detail)] = dropped
    assert (name, reason) == ("single.wav", "damaged row") and "3 cells, and" in detail


def test_a_byte_order_mark_and_a_damaged_archive(tmp_path):
    record(tmp_path / "a.wav")
    row = '{"audio": "a.wav", "text": "fine"}\n'
    (tmp_path / "a.jsonl").write_text("\ufeff" + row, encoding="utf-8")
    assert len(read_source(tmp_path / "a.jsonl", "x").utterances) == 1
    data = bytearray(gzip.compress(row.encode() * 100))
    for i in range(12, len(data) - 10):
        data[i] ^= 0xFF
    (tmp_path / "b.jsonl.gz").write_bytes(data)
    with pytest.raises(UserError, match="b.jsonl.gz can not be read"):
        read_source(tmp_path / "b.jsonl.gz", "x")
    (tmp_path / "c.jsonl").write_bytes(row.encode() + b'{"audio": "b.wav", "text": "caf\xe9"}\n')
    with pytest.raises(UserError, match="c.jsonl is not in UTF-8"):
        read_source(tmp_path / "c.jsonl", "x")


def manifests(tmp_path: Path) -> tuple[RecordingSet, SupervisionSet]:
    """Two recordings, the first of two channels with three supervisions."""
    recordings = RecordingSet.from_recordings(
        [
            Recording.from_file(record(tmp_path / "a.wav", 8, channels=2), recording_id="a"),
            Recording.from_file(record(tmp_path / "b.flac", 2), recording_id="b"),
        ]
    )
    segments = [
        SupervisionSegment("s1", "a", 1.0, 2.0, channel=0, text="left one", speaker="p"),
        SupervisionSegment("s2", "a", 4.0, 1.5, channel=1, text="right two", speaker="q"),
        SupervisionSegment("s3", "a", 6.0, 1.0, channel=1, text="  ", speaker="q"),
        SupervisionSegment("s4", "b", 0.0, 2.0, channel=0, text="whole"),
    ]
    return recordings, SupervisionSet.from_segments(segments)


def test_supervisions_alone_in_their_recording_are_cut_out_and_lost_ones_listed(tmp_path):
    """One in the middle of a recording of two channels, and one whose recording is not there."""
    recording = Recording.from_file(record(tmp_path / "a.wav", 8, channels=2), recording_id="a")
    SupervisionSet.from_segments(
        [
            SupervisionSegment("s1", "a", 1.0, 2.0, channel=1, text="middle", speaker="Ann Smith"),
            SupervisionSegment("s2", "gone", 0.0, 1.0, text="lost"),
        ]
    ).to_file(tmp_path / "supervisions.jsonl.gz")
    RecordingSet.from_recordings([recording]).to_file(tmp_path / "recordings.jsonl.gz")
    cuts, dropped = examined(tmp_path / "supervisions.jsonl.gz", tmp_path)
    assert texts(cuts) == {"s1": ("middle", "Ann_Smith")}
    assert (cuts["s1"].start, cuts["s1"].duration) == (1.0, 2.0)
    assert cuts["s1"].load_audio()[0, 0] == pytest.approx(0.01 + 0.1, abs=1e-3)
    assert [(name, reason) for name, reason, _ in dropped] == [("s2", "missing audio")]


def test_manifests_with_values_of_other_types(tmp_path):
    """An id that is true, of a recording that is not there; a source of type 7, and one whose path
    is a list."""
    recordings, supervisions = manifests(tmp_path)
    rows = [item.to_dict() for item in supervisions]
    rows[0] |= {"id": True, "recording_id": "gone"}
    write_lines(tmp_path / "supervisions.jsonl", rows)
    recordings.to_file(tmp_path / "recordings.jsonl")
    cuts, dropped = examined(tmp_path / "supervisions.jsonl", tmp_path)
    assert "s2" in cuts and ("True", "missing audio") in [item[:2] for item in dropped]
    rows = [cut.to_dict() for cut in CutSet.from_manifests(recordings, supervisions)]
    rows[0]["recording"]["sources"][0]["type"] = 7
    rows[1]["recording"]["sources"][0]["source"] = ["a.wav"]
    write_lines(tmp_path / "cuts.jsonl", rows)
    cuts, dropped = examined(tmp_path / "cuts.jsonl", tmp_path)
    unusable = [item[2] for item in dropped if item[1] == "cut not usable"]
    assert "its audio is 7, which is not read" in unusable[0]
    assert "['a.wav'] is no name of a file" in " ".join(unusable)


@pytest.mark.parametrize(
    "rows, why", [("", "my.csv lists no utterance"), ("gone.wav,A\n", "dropped.tsv says why")]
)
def test_a_split_of_which_nothing_is_left(tmp_path, rows, why):
    (tmp_path / "my.csv").write_text(f"audio,text\n{rows}")
    config = tiny_config(f"data.dir={tmp_path / 'data'}", "data.num_jobs=1")
    with pytest.raises(UserError, match=f"nothing is left of train; .*{why}$"):
        prepare_split(config, tmp_path / "my.csv", "train", {})
    listed = (tmp_path / "data/dropped.tsv").read_text().splitlines()[1:]
    assert len(listed) == bool(rows)


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize("kind", ["supervisions", "cuts"])
def test_lhotses_manifests(tmp_path, kind):
    recordings, supervisions = manifests(tmp_path)
    if kind == "cuts":
        path = tmp_path / "cuts_train.jsonl.gz"
        CutSet.from_manifests(recordings, supervisions).to_file(path)
    else:
        path = tmp_path / "my_supervisions_train.jsonl.gz"
        supervisions.to_file(path)
        recordings.to_file(tmp_path / "my_recordings_train.jsonl.gz")
    cuts, dropped = examined(path, tmp_path)
    assert {name: text for name, (text, _) in texts(cuts).items()} == {
        "s1": "left one",
        "s2": "right two",
        "s4": "whole",
    }
    assert [(name, reason) for name, reason, _ in dropped] == [("s3", "empty transcript")]
    right = cuts["s2"]
    assert (right.start, right.duration, right.supervisions[0].speaker) == (4.0, 1.5, "q")
    # the second channel, 4 s into the file
    assert right.load_audio().shape == (1, 1.5 * RATE)
    assert right.load_audio()[0, 0] == pytest.approx(0.04 + 0.1, abs=1e-3)


def test_cuts_that_are_no_stretch_of_a_file(tmp_path):
    recordings, supervisions = manifests(tmp_path)
    cut = CutSet.from_manifests(recordings, supervisions)[1]
    other = [cut.perturb_speed(1.1), cut.mix(cut.with_id("x")), cut.drop_supervisions()]
    CutSet.from_cuts([c.with_id(f"c{i}") for i, c in enumerate([cut, *other])]).to_file(
        tmp_path / "cuts.jsonl.gz"
    )
    cuts, dropped = examined(tmp_path / "cuts.jsonl.gz", tmp_path)
    assert list(cuts) == ["s4"]
    assert {reason for _, reason, _ in dropped} == {"cut not usable"}
    details = " ".join(detail for *_, detail in dropped)
    assert all(x in details for x in ("transformed", "has no supervision", "is a MixedCut"))


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return folder


def test_a_kaldi_folder(tmp_path):
    record(tmp_path / "a.wav", 5)
    command = f"touch {tmp_path / 'run'} |"
    folder = kaldi(
        tmp_path / "train",
        wav_scp=f"r1 {tmp_path / 'a.wav'}\nr2 {command}\n",
        text="\ufeffu1 HELLO\nu2 OF A COMMAND\nu3 NO SEGMENT\nu4 TO\u2028THE END\nu5 NO FILE\nu6\n"
        "u1 AGAIN\n",
        segments="u1 r1 0.5 1.5\nu2 r2 0 1\nu4 r1 3 -1\nu5 r3 0 1\nu6 r1 0 1\nu7 r1 0 1\n",
        utt2spk="u1 ann\n",
    )
    cuts, dropped = examined(folder, tmp_path)
    assert texts(cuts) == {"u1": ("HELLO", "ann"), "u4": ("TO THE END", "u4")}
    assert (cuts["u1"].start, cuts["u1"].duration) == (0.5, 1.0)
    assert (cuts["u4"].start, cuts["u4"].duration) == (3.0, pytest.approx(2.0))
    assert [(name, reason) for name, reason, _ in dropped] == [
        ("u2", "command for audio"),
        ("u3", "no such stretch"),
        ("u5", "missing audio"),
        ("u6", "empty transcript"),
        ("u1", "duplicate id"),
        ("u7", "missing transcript"),
    ]
    assert not (tmp_path / "run").exists()


def test_a_kaldi_folder_without_segments(tmp_path):
    record(tmp_path / "train" / "a.flac")
    (tmp_path / "train" / "wav.scp").write_text("u1 a.flac\n")
    with pytest.raises(UserError, match="has a wav.scp and no text"):
        read_source(tmp_path / "train", "x")
    (tmp_path / "train" / "text").write_text("u1 HELLO\n")
    [utterance] = read_source(tmp_path / "train", "x").utterances
    assert isinstance(utterance, Utterance) and utterance.whole


def test_paths_become_splits_by_their_names(tmp_path, monkeypatch):
    """A relative one is looked for where the user stands."""
    monkeypatch.setenv("TODM_CALLER", str(tmp_path))
    (tmp_path / "my.tsv").write_text("path\ttext\n")
    config = load(
        "small-corpus", ["data.train=[my.tsv]", "data.dev=[/c/kaldi/dev]", "data.test=[]"]
    )
    assert (config.data.train, config.data.dev) == (["my"], ["dev"])
    assert config.source("my") == tmp_path / "my.tsv" and config.source("dev") == Path(
        "/c/kaldi/dev"
    )
    assert config.splits_in_root == []
    again = load(
        "small-corpus",
        [
            f"data.{k}={json.dumps(v)}"
            for k, v in vars(config.data).items()
            if k in ("train", "dev", "test", "paths")
        ],
    )
    assert again.data == config.data


def test_a_folder_that_begins_with_a_dot_is_a_path(tmp_path, monkeypatch):
    """Also where the user stands in the repository, and where it is not there yet."""
    monkeypatch.setenv("TODM_CALLER", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora" / "mine").mkdir(parents=True)
    for entry, name in (("./corpora/mine/", "mine"), ("./gone", "gone"), ("../x/dev", "dev")):
        config = load("small-corpus", [f"data.train=[{entry}]", "data.root=/r"])
        assert config.data.train == [name] and "/r/" not in str(config.source(name))
    assert load("small-corpus", ["data.train=[a/b]", "data.root=/r"]).source("a/b") == Path(
        "/r/a/b"
    )


@pytest.mark.parametrize(
    "paths", [("all", "all/dev"), ("all/dev", "all"), ("all", "all"), ("all", "link")]
)
def test_splits_in_one_another_are_refused(tmp_path, paths):
    (tmp_path / "all" / "dev").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "all")
    train, dev = (tmp_path / path for path in paths)
    config = load(
        "small-corpus",
        [
            "data.train=[a]",
            "data.dev=[b]",
            "data.test=[]",
            f"data.paths=[a={train},b={dev}]",
            f"data.dir={tmp_path / 'data'}",
        ],
    )
    with pytest.raises(UserError, match="lies in the split .* would be in both"):
        make_corpus(config, None)


def test_own_splits_beside_a_corpus_that_is_downloaded():
    config = load("librispeech-100h", ["data.test=[/c/my.tsv]"])
    assert config.data.test == ["my"] and "my" not in config.splits_in_root


def test_a_name_for_two_paths_is_refused_and_can_be_given():
    with pytest.raises(ConfigError, match="would be called 'train' as well"):
        load("small-corpus", ["data.train=[/a/train.tsv]", "data.dev=[/b/train.tsv]"])
    config = load(
        "small-corpus",
        [
            "data.train=[/a/train.tsv]",
            "data.dev=[other]",
            "data.test=[]",
            "data.paths=[other=/b/train.tsv]",
        ],
    )
    assert config.source("other") == Path("/b/train.tsv") and config.data.train == ["train"]
    with pytest.raises(ConfigError, match="every entry must be SPLIT=PATH"):
        load("small-corpus", ["data.root=/x", "data.paths=[/b/train.tsv]"])


@pytest.mark.slow
def test_tables_through_the_stages(tiny_run, tmp_path):
    """The tiny corpus as a table with stretches of one long WAV, a Kaldi folder and a lhotse
    manifest: stages 0 to 6 of run.sh."""
    corpus = tiny_run[0] / "data/corpus/LibriSpeech"
    audio, rows = [], ["path\ttext\tspeaker\tstart\tend"]
    at = 0
    for trans in sorted(corpus.glob("train*/*/*/*.trans.txt")):
        for line in trans.read_text().splitlines():
            name, text = line.split(" ", 1)
            audio.append(soundfile.read(trans.parent / f"{name}.flac")[0])
            end = at + len(audio[-1])
            rows.append(f"all.wav\t{text}\t{name.split('-')[0]}\t{at / RATE}\t{end / RATE}")
            at = end
    soundfile.write(tmp_path / "all.wav", np.concatenate(audio), RATE, subtype="FLOAT")
    (tmp_path / "mine.tsv").write_text("\n".join(rows))
    scp, text, segments, recordings = "", "", [], []
    for trans in sorted(corpus.glob("dev*/*/*/*.trans.txt")):
        for line in trans.read_text().splitlines():
            name, said = line.split(" ", 1)
            scp += f"{name} {trans.parent / name}.flac\n"
            text += f"{name} {said}\n"
            recordings.append(Recording.from_file(trans.parent / f"{name}.flac"))
            segments.append(
                SupervisionSegment(name, recordings[-1].id, 0, recordings[-1].duration, text=said)
            )
    kaldi(tmp_path / "dev", wav_scp=scp, text=text)
    CutSet.from_manifests(
        RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(segments)
    ).to_file(tmp_path / "cuts.jsonl.gz")
    arguments = [a for a in tiny_arguments(tmp_path) if not a.startswith("synthetic")]
    output = run_sh(
        *("--stop-stage", "6"),
        *arguments,
        *(f"data.train=[{tmp_path}/mine.tsv]", f"data.dev=[{tmp_path}/dev]"),
        f"data.test=[{tmp_path}/cuts.jsonl.gz]",
    ).stdout
    assert "no corpus is needed: mine=" in output
    with gzip.open(next(tmp_path.rglob("cuts/mine.jsonl.gz")), "rt") as lines:
        assert len(list(lines)) == len(rows) - 1
    results = json.loads(next(tmp_path.rglob("results.json")).read_text())
    assert {row["split"] for row in results["results"]} == {"dev", "cuts"}
    assert all(row["words"] > 0 for row in results["results"])
    assert "mine.tsv" in results["corpus"]


def test_control_characters_of_a_header_are_not_printed(tmp_path):
    (tmp_path / "a.tsv").write_text("au\0dio\ttext\na.wav\tA\n")
    with pytest.raises(UserError, match="it has: audio, text"):
        read_source(tmp_path / "a.tsv", "x")
