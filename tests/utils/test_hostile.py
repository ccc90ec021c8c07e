"""Files that say they hold more than they do: audio, checkpoints and confs made to fill the
memory."""

import struct
import zipfile
from dataclasses import dataclass

import pytest
import torch

from utils.audio import PIECE_VALUES, AudioError, piece_frames, rate_problem, read_pieces
from utils.checkpoint import CheckpointError, load_checkpoint
from utils.conf import load
from utils.config_values import ValueProblem, read_value
from utils.errors import ConfigError
from utils.text import folder_name_problem


def wav(rate: int, channels: int = 1) -> bytes:
    """A WAV of 1000 zeros."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels % 2**32, 2 * channels, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 2000)
    return b"RIFF" + struct.pack("<I", len(body) + 2000) + body + bytes(2000)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_no_sound_has_such_a_rate(tmp_path, rate):
    (tmp_path / "a.wav").write_bytes(wav(rate))
    with pytest.raises(AudioError, match="sampling rates from 1000 to 1000000 Hz"):
        list(read_pieces(tmp_path / "a.wav"))
    assert rate_problem(8000) is None and rate_problem(192000) is None


def test_a_thousand_channels_are_read_in_short_pieces(tmp_path):
    assert piece_frames(16000, 2) == 8000
    assert piece_frames(1_000_000, 1024) * 1024 <= PIECE_VALUES
    assert piece_frames(16000, 10**9) == 1


def test_a_checkpoint_with_more_in_it_than_in_the_file(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    assert load_checkpoint(tmp_path / "plain.pt")["a"].numel() == 1 << 20
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="says that it holds"):
        load_checkpoint(tmp_path / "small.pt")


@pytest.mark.parametrize("items", ["*x{0}, *x{0}, *x{0}", "<<: [*x{0}, *x{0}], a: *x{0}"])
def test_a_billion_laughs_are_not_a_conf(items):
    ends = "[]" if "<<" not in items else "{}"
    lines = "".join(f"x{i}: &x{i} {ends[0]}{items.format(i - 1)}{ends[1]}\n" for i in range(1, 60))
    with pytest.raises(ValueProblem, match="more than 50,000 items"):
        read_value(f"x0: &x0 {ends[0]}a: 1{ends[1]}\n" + lines, None)


def test_yaml_that_holds_itself_and_aliases_that_do_no_harm():
    for text in ("a: &a [1, *a]", "a: &a {b: {c: *a}}"):
        with pytest.raises(ValueProblem, match="holds itself"):
            read_value(text, None)
    assert read_value("a: &a [1, 2]\nb: [*a, *a]", None) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


@pytest.mark.parametrize("name", ["", " a", "..", ".a", "a/b", "/a", "a\0b", "a\nb", "x" * 201])
def test_what_names_no_folder(name):
    assert folder_name_problem(name)
    assert folder_name_problem("max + random 0.36M") is None


@dataclass
class Three:
    """Values that refer to each other."""

    a: str = ""
    b: str = ""
    c: str = ""


def test_values_that_grow_by_references(tmp_path):
    values = {"a": "x" * 100, "b": "${a}" * 1000, "c": "${b}" * 1000}
    (tmp_path / "x.yaml").write_text("".join(f"{k}: '{v}'\n" for k, v in values.items()))
    with pytest.raises(ConfigError, match="2000 references"):
        load(Three, tmp_path / "x.yaml")
    few = load(Three, None, ["a=x", "b=${a}${a}", r"c=\${" + "a" * 200])
    assert few.b == "xx"
    with pytest.raises(ConfigError, match="2 references"):
        load(Three, None, ["a=" + "x" * 20_000, "b=${a}${a}"])


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: x\x07y\n", "is not valid YAML: unacceptable character"),
        ("a: x\n" * 100_000, "is longer than"),
        ('base: "a\\0b"\n', "it must be the name of one conf"),
    ],
)
def test_a_conf_that_is_no_text_or_too_long(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(Three, tmp_path / "x.yaml")
