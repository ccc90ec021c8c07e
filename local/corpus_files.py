"""A split in LibriSpeech layout: audio files and lines of transcripts below a folder, paired by
their ids, none of them lost."""

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
from local.utterances import CONVERTED, OTHER, READ, Utterance, format_problem, transcript_problem
from utils.text import normalise_transcript, too_many_marks, visible

TRANSCRIPTS = ".trans.txt"
_BYTE_ORDER_MARKS = {  # the longer ones first: that of UTF-32 begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LINE = re.compile(r"\s*(\S+)(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a transcript.

    Attributes:
      text: the transcript as it is written.
      file: the file that it stands in.
      legible: whether the file is in UTF-8.
    """

    id: str
    text: str
    file: Path
    legible: bool = True


@dataclass
class Found:
    """All that lies below a folder.

    Attributes:
      audio: the files of any audio format, read or not.
      lines: the lines of all transcripts.
      texts: for a folder, the name of a text file in it that is no transcript by its name.
      unreadable: the folders and transcripts that can not be read; nobody knows what is in them.
    """

    audio: list[Path] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    texts: dict[Path, str] = field(default_factory=dict)
    unreadable: list[Dropped] = field(default_factory=list)


def find(folder: Path) -> Found:
    """Looks through a folder and all below it, links included."""
    found = Found()
    transcripts = []
    for path in sorted(walk(folder, found.unreadable)):
        name = path.name.lower()
        if name.endswith(TRANSCRIPTS):
            transcripts.append(path)
        elif path.suffix.lower() in READ | CONVERTED | OTHER:
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
    """Yields every file below a folder. Links to folders are followed, after all real folders, and
    no folder is entered twice."""
    real, links = [folder], list[Path]()
    seen: set[str] = set()
    home = os.path.realpath(folder)
    while real or links:
        here = real.pop() if real else links.pop(0)
        target = os.path.realpath(here)
        # A link to a folder above would bring the other splits in.
        if target in seen or here != folder and os.path.commonpath([target, home]) == target:
            continue
        seen.add(target)
        try:
            with os.scandir(here) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
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
    """Whether it is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def preference(path: Path) -> int:
    """The place of an audio file among those of one id, by its format: FLAC first, then what is
    read, what is converted, what is not read."""
    suffix = path.suffix.lower()
    return next(i for i, kind in enumerate(({".flac"}, READ, CONVERTED, OTHER)) if suffix in kind)


def canonical(name: str) -> str:
    """The form of an id that compares: some systems spell the accents of file names in two
    characters. One that can be no name is as it is."""
    return name if too_many_marks(name) else unicodedata.normalize("NFC", name)


def decoded(data: bytes) -> tuple[str, bool]:
    """Decodes a file's text.

    Returns:
      The text, and whether it is legible: in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.
      Of a text that is not, the ASCII characters are right.
    """
    encoding = next(
        (name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8"
    )
    try:
        text = data.decode(encoding)
        # UTF-16 without its mark is valid UTF-8, with every other character 0
        if text.count("\0") <= len(text) / 4:
            return text, True
    except UnicodeDecodeError:
        pass
    return data.decode("latin-1").replace("\0", ""), False


def read_lines(path: Path) -> list[Line]:
    """Reads the lines of a transcript, ``ID TEXT`` with any white space between; blank ones left
    out.

    Lines end at newlines alone, before which a carriage return may stand (or at those, where a file
    has nothing else).
    """
    content, legible = decoded(path.read_bytes())
    lines = []
    for line in content.split("\n" if "\n" in content else "\r"):
        name, text = parse(visible(line))
        written_name, written_text = parse(line)
        if name:
            text = written_text if visible(written_name) == name else text
            lines.append(Line(canonical(name), text, path, legible))
    return lines


def parse(line: str) -> tuple[str, str]:
    """Splits a line into ``(id, text)``, both empty where it is blank."""
    match = _LINE.match(line)
    return (match[1], (match[2] or "").strip()) if match else ("", "")


def pair(found: Found, folder: Path) -> tuple[list[Utterance], list[Dropped]]:
    """Brings audio and lines of the same id together, in the order of the lines.

    Every audio file and every line is in exactly one of the two lists. Of several files or lines
    with one id the first counts; a file beside the line comes before others, and FLAC before other
    formats.
    """
    audio: dict[str, list[Path]] = defaultdict(list)
    lines: dict[str, list[Line]] = defaultdict(list)
    for path in found.audio:
        audio[canonical(path.stem)].append(path)
    for each in found.lines:
        lines[each.id].append(each)
    utterances: list[Utterance] = []
    dropped = list(found.unreadable)
    for name in dict.fromkeys([*lines, *audio]):
        with_id = lines.get(name, [])
        line = with_id[0] if with_id else None
        beside = line.file.parent if line else None
        files = sorted(audio.get(name, []), key=lambda p: (preference(p), p.parent != beside))
        if line is not None and not files:
            where = f"{line.file} names it, and there is no audio file {name} below {folder}"
            dropped.append(Dropped(name, "missing audio", where, audio=False))
        elif files:
            result = matched(name, files[0], line, found.texts)
            if isinstance(result, Utterance):
                utterances.append(result)
            else:
                dropped.append(result)
        dropped += repeated(name, files[1:], with_id[1:])
    return utterances, dropped


def repeated(name: str, files: list[Path], lines: list[Line]) -> list[Dropped]:
    """The further files and lines of an id that has a file or a line already."""
    dropped = []
    for file, line in zip_longest(files, lines):
        parts = [f"a second file {file}"] if file else []
        parts += [f"a second transcript in {line.file}"] if line else []
        has = {"audio": file is not None, "line": line is not None}
        dropped.append(Dropped(name, "duplicate id", " and ".join(parts), **has))
    return dropped


def matched(
    name: str, path: Path, line: Line | None, texts: dict[Path, str]
) -> Utterance | Dropped:
    """Makes an utterance of an audio file and its line, or says why there is none.

    Args:
      line: None: no transcript names the file.
      texts: as :class:`Found` has them.
    """
    if problem := format_problem(name, path, line is not None):
        return problem
    if line is None:
        hint = (
            f"; if {texts[path.parent]} is its transcript, call that SPEAKER-CHAPTER{TRANSCRIPTS}"
            if path.parent in texts
            else ""
        )
        reason = f"{path}: no {TRANSCRIPTS} names it{hint}"
        return Dropped(name, "missing transcript", reason, line=False)
    if not line.legible:
        return Dropped(
            name,
            "transcript not in UTF-8",
            f"{line.file}; convert it, for example: iconv -f latin1 -t utf-8",
        )
    if problem := transcript_problem(name, line.text, str(line.file)):
        return problem
    text, speaker = normalise_transcript(line.text), name.partition("-")[0]
    return Utterance(name, text, line.text, path, speaker)
