"""Splits as tables: TSV and CSV with a line of column names, such as Common Voice's, and JSON
lines, such as NeMo's manifests."""

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from local.corpus_files import canonical, decoded
from local.dropped import Dropped
from local.utterances import Utterance, format_problem, transcript_problem
from utils.errors import UserError
from utils.text import normalise_transcript

TABLES = {".tsv": "\t", ".csv": ","}  # what is between the cells of a line

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
# where the paths of a table are looked for, beside it
AUDIO_FOLDERS = ("", "clips", "audio", "wav", "wavs")


def read_table(path: Path, between: str) -> list[Utterance | Dropped]:
    """Reads a table with a line of column names.

    Args:
      between: what is between its cells.
    Raises:
      UserError: it is empty, or has no column of audio or of transcripts.
    """
    content, legible = decoded(path.read_bytes())
    if not legible:
        raise UserError(
            f"{path} is not in UTF-8; convert it, for example: iconv -f latin1 -t utf-8"
        )
    # Common Voice's TSV has quotes as people write them.
    lines = io.StringIO(content.lstrip("\ufeff"), newline="")
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
        return list(_utterances(path, (_by_name(columns, row) for row in rows if any(row))))
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from error


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
                f"{', '.join(header)[:200]}"
            )
    return found


def _by_name(columns: Mapping[str, int], row: list[str]) -> dict[str, str]:
    return {what: row[i].strip() for what, i in columns.items() if i < len(row)}


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
    return list(
        _utterances(path, ({w: row[k] for w, k in keys.items() if k in row} for row in rows))
    )


def json_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one a line, compressed or not.

    Raises:
      UserError: it is not such a file.
    """
    try:
        data = path.read_bytes()
        content, _ = decoded(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError) as error:
        raise UserError(f"{path} can not be read: {error}") from error
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise UserError(f"{path}, line {number} is not a JSON object, such as {{...}}")
        yield found


def _utterances(path: Path, rows: Iterable[Mapping[str, Any]]) -> Iterator[Utterance | Dropped]:
    """An utterance of every row, by what its cells are.

    Its id is the row's, or the name of its file, with the time at which a stretch of it begins.
    """
    for number, row in enumerate(rows, 2):
        where = f"{path}, entry {number - 1}"
        written = row.get("audio")
        if not isinstance(written, str) or not written or "\0" in written:
            yield Dropped(where, "missing audio", f"{where} names no audio file", audio=False)
            continue
        try:
            start, duration = stretch(row)
        except ValueError as error:
            yield Dropped(written, "no such stretch", f"{where}: {error}", audio=False)
            continue
        audio = located(path.parent, written)
        given = row.get("id")
        name = canonical("_".join(str(given).split())) if given not in (None, "") else audio.stem
        if given in (None, "") and duration is not None:
            name = f"{name}-{round(1000 * start):08d}"
        yield checked_utterance(
            name, row.get("text"), audio, str(row.get("speaker") or name), where, start, duration
        )


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
        except (TypeError, ValueError):
            raise ValueError(f"the {what} {value!r} is no number of seconds") from None
        if not 0 <= times[what] < math.inf:
            raise ValueError(f"the {what} is {value!r}")
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
