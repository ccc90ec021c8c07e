"""Files as they were written, what becomes of them, and what killed processes leave."""

import gzip
import os

import pytest

from utils import written_files
from utils.files import atomic_path
from utils.written_files import (
    damage,
    describe_files,
    is_written,
    move_aside,
    remove_unfinished,
    same_files,
)


@pytest.fixture
def made(tmp_path):
    """A folder with two files below ``out`` and one beside it, and their description."""
    (tmp_path / "out/deep").mkdir(parents=True)
    (tmp_path / "out/deep/a.txt").write_text("one")
    with gzip.open(tmp_path / "out/b.gz", "wb") as file:
        file.write(b"two")
    (tmp_path / "c.txt").write_text("three")
    return tmp_path, describe_files(tmp_path, ["out", "c.txt", "never"])


def test_all_files_are_described_and_none_is_damaged(made):
    folder, written = made
    assert list(written) == ["out/b.gz", "out/deep/a.txt", "c.txt"]
    assert damage(folder, written) == {} and is_written(written)


def test_every_kind_of_damage_is_named(made):
    folder, written = made
    moment = (folder / "c.txt").stat().st_mtime_ns
    (folder / "c.txt").write_text("thrae")  # as long, and as old
    os.utime(folder / "c.txt", ns=(moment, moment))
    (folder / "out/deep/a.txt").unlink()
    os.truncate(folder / "out/b.gz", 12)
    found = damage(folder, written)
    assert found.keys() == written.keys()
    assert found["c.txt"] == f"{folder}/c.txt is damaged: it is not as it was written"
    assert found["out/deep/a.txt"].endswith("a.txt is missing")
    assert "b.gz is damaged: Compressed file ended" in found["out/b.gz"]
    (folder / "out/deep/a.txt").mkdir()
    assert "is a folder" in damage(folder, written)["out/deep/a.txt"]


def test_the_time_in_a_gzip_header_does_not_count(made):
    folder, written = made
    with gzip.GzipFile(folder / "out/b.gz", "wb", mtime=1) as file:
        file.write(b"two")
    assert damage(folder, written) == {}
    assert same_files(written, describe_files(folder, ["out", "c.txt"]))
    (folder / "c.txt").write_text("four")
    assert not same_files(written, describe_files(folder, ["out", "c.txt"]))


def test_a_large_file_is_believed_while_its_time_stays(made, monkeypatch):
    monkeypatch.setattr(written_files, "READ_ALWAYS", 4)
    folder, written = made
    moment = (folder / "c.txt").stat().st_mtime_ns
    (folder / "c.txt").write_text("thrae")
    os.utime(folder / "c.txt", ns=(moment, moment))
    assert damage(folder, written) == {}
    os.utime(folder / "c.txt", ns=(moment, moment + 1))
    assert list(damage(folder, written)) == ["c.txt"]


def test_damaged_files_are_moved_aside_and_kept(made):
    folder, written = made
    target = move_aside(folder, ["out/deep/a.txt", "never"])
    assert (target / "out/deep/a.txt").read_text() == "one"
    assert not (folder / "out/deep/a.txt").exists() and target.parent == folder / "damaged"
    assert move_aside(folder, ["never"]) is None


@pytest.mark.parametrize("value", [[], {"a": [1, 2]}, {"a": "xyz"}, {"a": ["1", 2, "3"]}])
def test_what_describes_no_files(value):
    assert not is_written(value)


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path):
    """A child is killed in the middle of an atomic write."""
    child = os.fork()
    if child == 0:
        with atomic_path(tmp_path / "below/update-8.pt"):
            os._exit(9)
    os.waitpid(child, 0)
    (tmp_path / ".lock").touch()
    (tmp_path / ".part-of-the-user").touch()
    (left,) = (tmp_path / "below").iterdir()
    assert remove_unfinished(tmp_path) == [left] and left.suffix == ".pt"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        ".part-of-the-user",
        "below",
    ]
    assert not list((tmp_path / "below").iterdir())
