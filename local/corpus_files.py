"""What lies below a split's folder: audio files and lines of transcripts, paired by their ids, none
of them lost."""

import codecs
import errno
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from local.dropped import Dropped
from utils.text import normalise_transcript, visible

# Formats that are seen and not read.
OTHER_FORMATS = {
    ".wav",
    ".wave",
    ".mp3",
    ".ogg",
    ".oga",
    ".opus",
    ".m4a",
    ".aac",
    ".mp4",
    ".webm",
    ".wma",
    ".aif",
    ".aiff",
    ".aifc",
    ".au",
    ".snd",
    ".sph",
    ".nist",
    ".w64",
    ".rf64",
    ".caf",
    ".amr",
    ".gsm",
    ".ape",
    ".wv",
    ".raw",
    ".pcm",
    ".shn",
}
TRANSCRIPTS = ".trans.txt"
_BYTE_ORDER_MARKS = {  # the longer ones first: that of UTF-32 begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LINE = re.compile(r"\s*(\S+)(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Line:
    """A line of a transcript. Attributes: text: as it is written. file: where it stands. legible:
    the file is in UTF-8."""

    id: str
    text: str
    file: Path
    legible: bool = True


@dataclass(frozen=True)
class Utterance:
    """An audio file with its transcript. Attributes: written: the transcript before it was
    normalised."""

    id: str
    text: str
    written: str
    audio: Path


@dataclass
class Found:
    """All that lies below a folder.

    Attributes:
      audio: files of any audio format. lines: of all transcripts. texts: per folder a text that is
        no transcript by its name.
      unreadable: folders and transcripts that can not be read; what is in them nobody knows.
    """

    audio: list[Path] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    texts: dict[Path, str] = field(default_factory=dict)
    unreadable: list[Dropped] = field(default_factory=list)


def find(folder: Path) -> Found:
    """Look through a folder and all below it, links included."""
    found = Found()
    transcripts = []
    for path in sorted(walk(folder, found.unreadable)):
        name = path.name.lower()
        if name.endswith(TRANSCRIPTS):
            transcripts.append(path)
        elif is_flac(path) or path.suffix.lower() in OTHER_FORMATS:
            found.audio.append(path)
        elif name.endswith(".txt"):
            found.texts.setdefault(path.parent, path.name)
    for path in transcripts:
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise OSError(errno.EINVAL, "not a file")
            found.lines += read_lines(path)
        except OSError as error:
            found.unreadable.append(
                Dropped(
                    path.name,
                    "unreadable transcript",
                    f"{path}: {error.strerror}",
                    audio=False,
                    line=False,
                )
            )
    return found


def walk(folder: Path, unreadable: list[Dropped]) -> Iterator[Path]:
    """Every file below a folder. Links to folders are followed, after all real folders, and no
    folder is entered twice."""
    real, links, seen = [folder], [], set()
    home = os.path.realpath(folder)
    while real or links:
        here = real.pop() if real else links.pop(0)
        target = os.path.realpath(here)
        # A link to a folder above would bring the other splits in.
        if target in seen or here != folder and os.path.commonpath([target, home]) == target:
            continue
        seen.add(target)
        try:
            with os.scandir(here) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append(
                Dropped(
                    str(here.relative_to(folder.parent)),
                    "unreadable folder",
                    f"{here}: {error.strerror}",
                    audio=False,
                    line=False,
                )
            )
            continue
        for entry in entries:
            if not is_folder(entry):
                yield here / entry.name
            else:
                (links if entry.is_symlink() else real).append(here / entry.name)


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def is_flac(path: Path) -> bool:
    return path.suffix.lower() == ".flac"


def canonical(name: str) -> str:
    """An id that compares: some systems spell the accents of file names in two characters."""
    return unicodedata.normalize("NFC", name)


def decoded(data: bytes) -> tuple[str, bool]:
    """A file's text, and whether it is legible: UTF-8, or UTF-16 and UTF-32 that say so. If not,
    what is ASCII of it is right."""
    encoding = next(
        (name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8"
    )
    try:
        text = data.decode(encoding)
        if (
            text.count("\0") <= len(text) / 4
        ):  # UTF-16 without its mark is valid UTF-8, every other character of it 0
            return text, True
    except UnicodeDecodeError:
        pass
    return data.decode("latin-1").replace("\0", ""), False


def read_lines(path: Path) -> list[Line]:
    """The lines of a transcript, ``ID TEXT`` with any white space between; blank ones left out.

    Lines end at newlines alone, before which a carriage return may stand (or at those, where a file
    has nothing else).
    """
    content, legible = decoded(path.read_bytes())
    lines = []
    for line in content.split("\n" if "\n" in content else "\r"):
        name, text = parse(visible(line))
        written = parse(line)
        if name:
            lines.append(
                Line(
                    canonical(name),
                    written[1] if visible(written[0]) == name else text,
                    path,
                    legible,
                )
            )
    return lines


def parse(line: str) -> tuple[str, str]:
    """``(id, text)`` of a line; empty where it is blank."""
    match = _LINE.match(line)
    return (match[1], (match[2] or "").strip()) if match else ("", "")


def pair(found: Found, folder: Path) -> tuple[list[Utterance], list[Dropped]]:
    """Bring audio and lines of the same id together, in the order of the lines.

    Every audio file and every line is in exactly one of the two lists. Of several files or lines
    with one id the first counts; a file beside the line comes before others, and FLAC before other
    formats.
    """
    audio, lines = defaultdict(list), defaultdict(list)
    for path in found.audio:
        audio[canonical(path.stem)].append(path)
    for line in found.lines:
        lines[line.id].append(line)
    utterances, dropped = [], list(found.unreadable)
    for name in dict.fromkeys([*lines, *audio]):
        line, *other_lines = lines.get(name) or [None]
        path, *other_audio = sorted(
            audio.get(name, []),
            key=lambda p: (not is_flac(p), line is None or p.parent != line.file.parent),
        ) or [None]
        result = matched(name, path, line, found.texts, folder)
        (utterances if isinstance(result, Utterance) else dropped).append(result)
        for extra, again in zip_longest(other_audio, other_lines):
            where = " and ".join(
                [f"a second file {extra}"] * bool(extra)
                + [f"a second transcript in {again.file}" if again else ""] * bool(again)
            )
            reason = "duplicate id" if again or is_flac(extra) else "not FLAC"
            dropped.append(
                Dropped(name, reason, where, audio=extra is not None, line=again is not None)
            )
    return utterances, dropped


def matched(
    name: str, path: Path | None, line: Line | None, texts: dict[Path, str], folder: Path
) -> Utterance | Dropped:
    """What an audio file and a line, one of which may be missing, come to."""
    if path is None:
        return Dropped(
            name,
            "missing audio",
            f"{line.file} names it, and there is no {name}.flac below {folder}",
            audio=False,
        )
    has = {"line": line is not None}
    if not is_flac(path):
        return Dropped(name, "not FLAC", f"{path}: only FLAC is read; convert it", **has)
    if line is None:
        hint = (
            f"; if {texts[path.parent]} is its transcript, call that SPEAKER-CHAPTER{TRANSCRIPTS}"
            if path.parent in texts
            else ""
        )
        return Dropped(
            name, "missing transcript", f"{path}: no {TRANSCRIPTS} names it{hint}", **has
        )
    if not line.legible:
        return Dropped(
            name,
            "transcript not in UTF-8",
            f"{line.file}; convert it, for example: iconv -f latin1 -t utf-8",
        )
    text = normalise_transcript(line.text)
    if not text:
        return Dropped(name, "empty transcript", str(line.file))
    if "\N{REPLACEMENT CHARACTER}" in text:
        return Dropped(
            name,
            "damaged transcript",
            f"{line.file}: U+FFFD stands where characters were lost in a conversion",
        )
    return Utterance(name, text, line.text, path)
