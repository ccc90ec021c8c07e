"""Splits as tables: TSV and CSV with a line of column names, such as Common Voice's, and JSON
lines, such as NeMo's manifests."""

import csv
import gzip
import io
import json
import os
import reprlib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from local.corpus_files import canonical, decoded
from local.dropped import Dropped
from local.utterances import Utterance, format_problem, transcript_problem
from todm.config.sources import TABLES
from utils.errors import UserError
from utils.text import normalise_transcript, visible

DELIMITERS = dict(zip(TABLES, ("\t", ","), strict=True))  # what is between the cells of a line

# The names that a column may have, in any case; the first that is there counts.
COLUMNS = {
    "audio": ("audio_filepath", "audio_path", "audio", "path", "file", "filename", "wav"),
    "text": ("text", "sentence", "transcript", "transcription"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "spk_id"),
    "id": ("id", "utterance_id", "utt_id", "utterance"),
    "start": ("start", "offset", "start_time"),
    "end": ("end", "end_time"),
    "duration": ("duration",),
}
NEEDED = ("audio", "text")
LONGEST = 1e9  # seconds that a time in a table may be
# Compressed lists are 10 to 30 times as long when they are read; deflate can do 1000.
MOST_GROWTH, ANY_GROWTH = 200, 1 << 26  # times, from so many bytes on
TOO_LONG = "too long"  # what stands in a row that has more cells than there are columns
# where the paths of a table are looked for, beside it
AUDIO_FOLDERS = ("", "clips", "audio", "wav", "wavs")


def read_table(path: Path, between: str) -> list[Utterance | Dropped]:
    """Reads a table with a line of column names.

    Args:
      between: what is between its cells.
    Raises:
      UserError: it is empty, or has no column of audio or of transcripts.
    """
    content = legible(path, path.read_bytes())
    lines = io.StringIO(content, newline="")
    rows = (
        csv.reader(lines, delimiter=between, quoting=csv.QUOTE_NONE)
        if between == "\t"
        else csv.reader(lines, delimiter=between)
    )
    try:
        header = next(rows, None)
        if not header:
            raise UserError(f"{path} is empty; its first line must name the columns")
        columns = find_columns(path, header)
        cells = [row for row in rows if any(row)]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from error
    return _utterances(path, [_by_name(columns, row, len(header)) for row in cells])


def find_columns(path: Path, header: list[str]) -> dict[str, int]:
    """The number of every column that is known, by its name.

    Raises:
      UserError: there is none of audio or of transcripts; the message has the names that are there.
    """
    names = [name.strip().lower() for name in header]
    found = {
        what: names.index(next(name for name in known if name in names))
        for what, known in COLUMNS.items()
        if any(name in names for name in known)
    }
    for what in NEEDED:
        if what not in found:
            raise UserError(
                f"{path} has no column of {'transcripts' if what == 'text' else what}; one of "
                f"{', '.join(COLUMNS[what])} is needed, and it has: "
                f"{visible(', '.join(header)[:200])}"
            )
    return found


def _by_name(columns: Mapping[str, int], row: list[str], width: int) -> dict[str, str]:
    cells = {what: row[i].strip() for what, i in columns.items() if i < len(row)}
    if any(row[width:]):
        cells[TOO_LONG] = f"it has {len(row)} cells, and the first line names {width}"
    return cells


def legible(path: Path, data: bytes) -> str:
    """The text of a file's content, without a byte-order mark.

    Raises:
      UserError: it is not in UTF-8.
    """
    content, good = decoded(data)
    if not good:
        raise UserError(
            f"{path} is not in UTF-8; convert it, for example: iconv -f latin1 -t utf-8"
        )
    return content.removeprefix("\ufeff")


def one_word(name: object) -> str:
    """A name for an utterance or a speaker, which may have no white space, from anything."""
    text = "_".join(canonical(str(name)).split())
    return text.encode("utf-8", "replace").decode("utf-8")


def read_json_lines(path: Path) -> list[Utterance | Dropped]:
    """Reads a file with a JSON object a line.

    Raises:
      UserError: a line is not one, or none has audio or a transcript.
    """
    rows = list(json_objects(path))
    if not rows:
        raise UserError(f"{path} is empty; expected a JSON object a line")
    names = list(dict.fromkeys(name for row in rows for name in row))
    keys = {what: names[i] for what, i in find_columns(path, names).items()}
    return _utterances(path, [{w: row[k] for w, k in keys.items() if k in row} for row in rows])


def json_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one a line, compressed or not.

    Raises:
      UserError: it is not such a file.
    """
    try:
        data = path.read_bytes()
        content = legible(path, _decompressed(path, data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} can not be read: {error}") from error
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:  # the first also of a number that is too long
            raise UserError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise UserError(f"{path}, line {number} is not a JSON object, such as {{...}}")
        yield found


def _decompressed(path: Path, data: bytes) -> bytes:
    """The content of a gzip file.

    Raises:
      UserError: it would fill the memory.
    """
    left = max(MOST_GROWTH * len(data), ANY_GROWTH)
    with gzip.open(io.BytesIO(data)) as file:
        while piece := file.read(1 << 20):  # piece by piece, before all of it is held
            left -= len(piece)
            if left < 0:
                raise UserError(
                    f"{path} would be more than {MOST_GROWTH} times as long when it is "
                    "decompressed, which no list of utterances is; decompress it yourself if it "
                    "is one"
                )
    return gzip.decompress(data)


def _utterances(path: Path, rows: list[Mapping[str, Any]]) -> list[Utterance | Dropped]:
    """An utterance of every row, by what its cells are.

    Its id is the row's, or the name of its file (with its folders, where several files have the
    name), with the time at which a stretch of it begins.
    """
    files = {row["audio"] for row in rows if _names_audio(row)}
    audio = {file: located(path.parent, file) for file in files}
    stems = Counter(file.stem for file in {Path(os.path.abspath(a)) for a in audio.values()})
    return [_utterance(path, number, row, audio, stems) for number, row in enumerate(rows, 1)]


def _names_audio(row: Mapping[str, Any]) -> bool:
    file = row.get("audio")
    return isinstance(file, str) and bool(file) and "\0" not in file


def _utterance(
    path: Path,
    number: int,
    row: Mapping[str, Any],
    audio: Mapping[str, Path],
    stems: Mapping[str, int],
) -> Utterance | Dropped:
    where = f"{path}, entry {number}"
    if not _names_audio(row):
        return Dropped(where, "missing audio", f"{where} names no audio file", audio=False)
    written: str = row["audio"]
    if TOO_LONG in row:
        return Dropped(written, "damaged row", f"{where}: {row[TOO_LONG]}", audio=False)
    try:
        start, duration = stretch(row)
    except ValueError as error:
        return Dropped(written, "no such stretch", f"{where}: {error}", audio=False)
    file = audio[written]
    if row.get("id") not in (None, ""):
        name = one_word(row["id"])
    else:
        parts = [part for part in Path(written).parent.parts if part not in ("/", "..")]
        parts.append(Path(written).stem)
        name = one_word(file.stem if stems[file.stem] == 1 else "-".join(parts))
        if duration is not None or start:
            name = f"{name}-{round(1000 * start):08d}"
    speaker = one_word(row.get("speaker") or name)
    return checked_utterance(name, row.get("text"), file, speaker, where, start, duration)


def stretch(row: Mapping[str, Any]) -> tuple[float, float | None]:
    """The start and the duration of a row in seconds; a duration None: to the end of the file.

    A duration without a start is that of the file, as NeMo has it.

    Raises:
      ValueError: they are no such times.
    """
    times = {}
    for what in ("start", "end", "duration"):
        value = row.get(what)
        if value in (None, ""):
            continue
        try:
            times[what] = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"the {what} {reprlib.repr(value)} is no number of seconds") from None
        if not 0 <= times[what] < LONGEST:
            raise ValueError(f"the {what} is {reprlib.repr(value)}")
    start = times.get("start", 0.0)
    if "end" in times:
        if times["end"] <= start:
            raise ValueError(f"it ends at {times['end']:g} s and begins at {start:g} s")
        return start, times["end"] - start
    if "start" not in times:
        return 0.0, None
    if times.get("duration") == 0:
        raise ValueError("it is 0 s long")
    return start, times.get("duration")


def located(folder: Path, written: str) -> Path:
    """The audio file that a table in ``folder`` names: relative to the folder, or in one of
    ``AUDIO_FOLDERS`` in it, as Common Voice has its clips. One that is in none of them is given
    relative to the folder."""
    for below in AUDIO_FOLDERS:
        path = folder / below / written
        try:
            if path.is_file():
                return path
        except OSError:  # a name that is too long
            break
    return folder / written


def checked_utterance(
    name: str,
    written: Any,
    audio: Path,
    speaker: str,
    where: str,
    start: float = 0.0,
    duration: float | None = None,
    channel: int | None = None,
) -> Utterance | Dropped:
    """The utterance of an entry, or what is wrong with its transcript or its audio's format."""
    if not isinstance(written, str):
        return Dropped(name, "empty transcript", where)
    problem = transcript_problem(name, written, where) or format_problem(name, audio)
    if problem:
        return problem
    text = normalise_transcript(written)
    return Utterance(name, text, written, audio, speaker, start, duration, channel)
