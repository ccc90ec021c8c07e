"""Whatever lies below a split, every audio file and every line of a transcript is kept or listed,
once."""

import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from local.corpus_files import find, pair, walk
from local.dropped import Dropped, write_dropped
from local.utterances import CONVERTED, OTHER, READ
from tests.conftest import write_utterance
from tests.local.corpora import scanned
from utils.errors import UserError
from utils.ffmpeg import MissingFfmpeg, ffmpeg


def scan(root: Path, verify: bool = False) -> tuple[list[str], Counter, list[Dropped]]:
    """Ids that are kept, ``(id, reason)`` of what is not, and that itself; everything on the disk
    must be in them."""
    cuts, dropped = scanned(root, "train", verify)
    files = [
        Path(here) / name
        for here, _, names in os.walk(root / "train", followlinks=False)
        for name in names
    ]
    audio = [f for f in files if f.suffix.lower() in READ | CONVERTED | OTHER]
    lines = [
        line
        for f in files
        if f.name.lower().endswith(".trans.txt")
        for line in f.read_text().splitlines()
        if line.strip()
    ]
    assert len(cuts) + sum(d.audio for d in dropped) == len(audio)
    assert len(cuts) + sum(d.line for d in dropped) == len(lines)
    return [c.id for c in cuts], Counter((d.id, d.reason) for d in dropped), dropped


@pytest.mark.parametrize("folder", ["", "9", "9/1", "x/y/z", "9/1/deeper"])
def test_a_speaker_in_any_folder(tmp_path, folder):
    write_utterance(tmp_path / "train", "1-1-0000", "A")
    target = tmp_path / "train" / folder
    target.mkdir(parents=True, exist_ok=True)
    made = write_utterance(tmp_path / "elsewhere", "9-1-0000", "B").parent
    for path in list(made.iterdir()):
        path.rename(target / path.name)
    assert sorted(scan(tmp_path)[0]) == ["1-1-0000", "9-1-0000"]


def test_a_transcript_in_another_folder_than_the_audio(tmp_path):
    path = write_utterance(tmp_path / "train", "1-1-0000", "A")
    texts = tmp_path / "train" / "texts"
    texts.mkdir()
    (path.parent / "1-1.trans.txt").rename(texts / "all.TRANS.txt")
    assert scan(tmp_path)[:2] == (["1-1-0000"], Counter())


def test_capitals_and_other_formats(tmp_path):
    split = tmp_path / "train"
    for i in range(4):
        write_utterance(split, f"1-1-000{i}", "A")
    folder = split / "1/1"
    (folder / "1-1-0000.flac").rename(folder / "1-1-0000.FLAC")
    (folder / "1-1-0001.flac").rename(folder / "1-1-0001.sph")  # with a line
    shutil.copy(folder / "1-1-0002.flac", folder / "1-1-0002.mp3")  # beside FLAC
    (folder / "1-1-0009.OGG").write_bytes(b"x")  # without a line
    (folder / "notes.pdf").write_bytes(b"x")
    kept, dropped, details = scan(tmp_path)
    assert kept == ["1-1-0000", "1-1-0002", "1-1-0003"]
    assert dropped == {
        ("1-1-0001", "audio format not read"): 1,
        ("1-1-0002", "duplicate id"): 1,
        ("1-1-0009", "missing transcript"): 1,
    }
    assert ".sph is not read; convert it" in details[0].detail


@pytest.mark.parametrize(
    "suffix, form, subtype",
    [
        *((".wav", "WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW")),
        (".WAVE", "WAV", "DOUBLE"),
        (".mp3", "MP3", None),
        (".ogg", "OGG", "VORBIS"),
        (".opus", "OGG", "OPUS"),
        (".aiff", "AIFF", None),
        (".caf", "CAF", None),
    ],
)
def test_the_formats_of_libsndfile_are_read(tmp_path, suffix, form, subtype):
    """Two channels at 48 kHz: a tone of 440 Hz on the left and silence on the right."""
    path = write_utterance(tmp_path / "train", "2-1-0000", "B")
    path.unlink()
    tone = 0.5 * np.sin(2 * np.pi * 440 / 48000 * np.arange(48000))
    samples = np.stack([tone, np.zeros(48000)], axis=1)
    soundfile.write(path.with_suffix(suffix), samples, 48000, format=form, subtype=subtype)
    [cut], dropped = scanned(tmp_path, "train", True)
    assert not dropped and cut.sampling_rate == 16000 and cut.duration == pytest.approx(1, abs=0.1)
    heard = cut.load_audio()
    assert heard.shape[0] == 1
    spectrum = np.abs(np.fft.rfft(heard[0, :16000]))
    assert abs(spectrum.argmax() * 16000 / len(heard[0, :16000]) - 440) < 2
    assert np.sqrt(np.mean(heard[0, 4000:12000] ** 2)) == pytest.approx(0.25 / 2**0.5, rel=0.05)


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".ogg"])
def test_what_is_truncated_or_no_audio_is_dropped(tmp_path, suffix):
    write_utterance(tmp_path / "train", "1-1-0000", "A")
    for i, content in enumerate((None, b"", b"no audio at all")):
        path = write_utterance(tmp_path / "train", f"2-1-000{i}", "B")
        target = path.with_suffix(suffix)
        soundfile.write(target, *soundfile.read(path))
        path.unlink()
        target.write_bytes(target.read_bytes()[:44] if content is None else content)
    kept, dropped, _ = scan(tmp_path, verify=True)
    assert kept == ["1-1-0000"] and {name for name, _ in dropped} == {
        f"2-1-000{i}" for i in range(3)
    }


def test_m4a_without_ffmpeg_names_it(tmp_path, monkeypatch):
    path = write_utterance(tmp_path / "train", "2-1-0000", "B")
    path.rename(path.with_suffix(".m4a"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="ffmpeg is needed to read this format"):
        scanned(tmp_path, "train", True)


def test_m4a_is_converted_once(tmp_path):
    """By the system's ffmpeg or that of the package imageio-ffmpeg."""
    try:
        program = ffmpeg()
    except MissingFfmpeg as error:
        pytest.skip(str(error))
    for i in range(2):
        path = write_utterance(tmp_path / "train", f"2-1-000{i}", "B", rate=22050)
        target = path.with_suffix(".m4a")
        subprocess.run([program, "-v", "error", "-i", path, "-c:a", "aac", target], check=True)
        path.unlink()
    target.write_bytes(target.read_bytes()[:300])
    [cut], [bad] = scanned(tmp_path, "train", True)
    assert cut.id == "2-1-0000" and cut.duration == pytest.approx(1, abs=0.1)
    assert cut.load_audio().shape[0] == 1 and cut.sampling_rate == 16000
    assert (bad.id, bad.reason) == ("2-1-0001", "corrupt audio") and "ffmpeg: " in bad.detail
    [converted] = (tmp_path / "converted").glob("*.flac")
    before = converted.stat().st_mtime_ns
    assert len(scanned(tmp_path, "train", True)[0]) == 1
    assert converted.stat().st_mtime_ns == before
    assert not list((tmp_path / "converted").glob(".*"))


def test_transcripts_with_another_name_are_hinted_at(tmp_path):
    write_utterance(tmp_path / "train", "1-1-0000", "A")
    path = write_utterance(tmp_path / "train", "2-1-0000", "B")
    (path.parent / "2-1.trans.txt").rename(path.parent / "transcript.txt")
    kept, dropped, details = scan(tmp_path)
    assert kept == ["1-1-0000"] and dropped == {("2-1-0000", "missing transcript"): 1}
    assert (
        "if transcript.txt is its transcript, call that SPEAKER-CHAPTER.trans.txt"
        in details[0].detail
    )


def test_ids_that_come_more_than_once(tmp_path):
    """Two files and one line, one file and three lines, two and two: one of each is kept, and
    nothing is counted twice."""
    split = tmp_path / "train"
    for name in ("1-1-0000", "1-1-0001", "1-1-0002"):
        write_utterance(split, name, f"BESIDE {name}")
    (split / "0").mkdir()
    for name in ("1-1-0000", "1-1-0002"):
        shutil.copy(split / f"1/1/{name}.flac", split / f"0/{name}.flac")
    with open(split / "1/1/1-1.trans.txt", "a") as file:
        file.write("1-1-0001 B\n1-1-0001 C\n1-1-0002 D\n1-1-0007 E\n1-1-0007 F\n")
    cuts, _ = scanned(tmp_path, "train", False)
    assert {c.supervisions[0].text for c in cuts} == {f"BESIDE 1-1-000{i}" for i in range(3)}
    assert all("/1/1/" in c.recording.sources[0].source for c in cuts)  # beside the line
    assert scan(tmp_path)[1] == {
        ("1-1-0000", "duplicate id"): 1,
        ("1-1-0001", "duplicate id"): 2,
        ("1-1-0002", "duplicate id"): 1,
        ("1-1-0007", "missing audio"): 1,
        ("1-1-0007", "duplicate id"): 1,
    }


def test_links_are_followed_once_and_never_out_of_the_split(tmp_path):
    write_utterance(tmp_path / "train", "1-1-0000", "A")
    write_utterance(tmp_path / "dev", "5-1-0000", "DEV")
    write_utterance(tmp_path / "disk2", "2-1-0000", "B")
    links = {
        "2": "disk2/2",
        "0": "train/1",
        "1/1/round": "train/1",
        "1/up": "",
        "1/top": "train",
        "3": "nowhere",
    }
    for name, target in links.items():
        (tmp_path / "train" / name).symlink_to(tmp_path / target)
    write_utterance(tmp_path / "disk3", "1-1-0001", None).rename(tmp_path / "x.flac")
    (tmp_path / "train/1/1/1-1-0001.flac").symlink_to(tmp_path / "x.flac")
    (tmp_path / "train/1/1/1-1-0002.flac").symlink_to(tmp_path / "gone.flac")
    with open(tmp_path / "train/1/1/1-1.trans.txt", "a") as file:
        file.write("1-1-0001 B\n1-1-0002 C\n")
    cuts, dropped = scanned(tmp_path, "train", True)
    assert [c.id for c in cuts] == ["1-1-0000", "1-1-0001", "2-1-0000"]
    assert [(d.id, d.reason) for d in dropped] == [("1-1-0002", "missing audio")]


def test_a_folder_that_can_not_be_read_is_listed(tmp_path, monkeypatch):
    write_utterance(tmp_path / "train", "1-1-0000", "A")
    locked = write_utterance(tmp_path / "train", "2-1-0000", "B").parent.parent
    original = os.scandir

    def scandir(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read all
    cuts, dropped = scanned(tmp_path, "train", True)
    assert [c.id for c in cuts] == ["1-1-0000"]
    assert [(d.id, d.reason) for d in dropped] == [
        ("train/2", "unreadable folder")
    ] and "Permission denied" in dropped[0].detail


def test_a_transcript_that_can_not_be_read_is_listed(tmp_path, monkeypatch):
    path = write_utterance(tmp_path / "train", "1-1-0000", "A")
    original = Path.read_bytes

    def read_bytes(self):
        if self.name == "1-1.trans.txt":
            raise OSError(5, "Input/output error", str(self))
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    _, dropped = pair(find(path.parent.parent), path.parent.parent)
    assert [(d.id, d.reason) for d in dropped] == [
        ("1-1.trans.txt", "unreadable transcript"),
        ("1-1-0000", "missing transcript"),
    ]


def test_names_that_are_not_utf8_or_no_files(tmp_path):
    split = tmp_path / "train"
    path = write_utterance(split, "1-1-0000", "A")
    shutil.copy(path, os.fsencode(split) + b"/1-1-caf\xe9.flac")
    os.mkfifo(split / "1-1-0001.flac")  # opening it would wait for ever
    (split / "more.trans.txt").write_text("1-1-0001 B\n")
    os.mkfifo(split / "pipe.trans.txt")
    (split / "circle").symlink_to(split / "circle")
    cuts, dropped = scanned(tmp_path, "train", True)
    assert [c.id for c in cuts] == ["1-1-0000"]
    assert sorted(d.reason for d in dropped) == [
        "corrupt audio",
        "missing transcript",
        "unreadable transcript",
    ]
    write_dropped(tmp_path / "dropped.tsv", {"train": dropped})
    assert "\\udce9" in (tmp_path / "dropped.tsv").read_text(encoding="utf-8")


def test_accents_in_file_names_are_compared_in_one_spelling(tmp_path):
    path = write_utterance(tmp_path / "train", "1-1-0000", None)
    path.rename(path.parent / "1-1-cafe\u0301.flac")
    (path.parent / "1-1.trans.txt").write_text("1-1-caf\u00e9 A\n", encoding="utf-8")
    assert scan(tmp_path)[0] == ["1-1-caf\u00e9"]


def test_nothing_at_all_is_an_error_that_says_what_is_expected(tmp_path):
    (tmp_path / "train/1/1").mkdir(parents=True)
    with pytest.raises(
        UserError, match="expected train/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac"
    ):
        scanned(tmp_path, "train", True)


def test_the_sum_is_logged(tmp_path, caplog):
    for i in range(3):
        write_utterance(tmp_path / "train", f"1-1-000{i}", "A" if i else None)
    with caplog.at_level(logging.INFO):
        scan(tmp_path)
    assert (
        f"train: 3 audio files lie below {tmp_path / 'train'}: 2 can be used, 1 can not"
        in caplog.text
    )
    assert (
        f"train: 2 lines of transcripts lie below {tmp_path / 'train'}: 2 can be used, 0 can not"
        in caplog.text
    )


def test_walk_gives_every_file_once(tmp_path):
    for name in ("a/1", "a/b/2", "c/3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(walk(tmp_path, [])) == [tmp_path / n for n in ("a/1", "a/b/2", "c/3")]
