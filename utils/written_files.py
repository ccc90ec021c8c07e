"""Files as they were written: their digests, so that damage is found before a result comes of
it."""

import gzip
import hashlib
import re
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Bytes up to which a file is read whenever it is checked.  A larger one is believed while its size
# and its time are those it was written with: features of a large corpus would take minutes.
READ_ALWAYS = 1 << 20
_CHUNK = 1 << 20
DAMAGED = "damaged"  # the folder for files that were found damaged
# how utils.files names a file that is being written
_UNFINISHED = re.compile(r"\.part-.+\.[a-z0-9_]{8}(\.[^/]*)?$")

Written = dict[str, list[Any]]  # size in bytes, time in ns and digest by path below a folder


def digest(path: Path) -> str:
    """A digest of a file's content; of a gzip file's that which is compressed, because its header
    has the time.

    Raises:
      OSError, EOFError, zlib.error: the file can not be read.
    """
    found = hashlib.sha256()
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()[:16]


def describe_files(folder: Path, outputs: Iterable[str]) -> Written:
    """The files at and below some paths of a folder, as they are now; a path that is not there has
    none."""
    written: Written = {}
    for output in outputs:
        top = folder / output
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.is_file() and not hidden:
                status = path.stat()
                written[str(path.relative_to(folder))] = [
                    status.st_size,
                    status.st_mtime_ns,
                    digest(path),
                ]
    return written


def damage(folder: Path, written: Written) -> dict[str, str]:
    """Says of every file that is no longer as it was written what is wrong with it, by its path
    below the folder.

    Raises:
      OSError: a file can not be read for a reason outside it: a permission, a broken disk.
    """
    found = {}
    for name, (size, moment, before) in written.items():
        path = folder / name
        try:
            if path.is_dir():
                found[name] = f"{path} is a folder, and was a file"
                continue
            status = path.stat()
            if size > READ_ALWAYS and (status.st_size, status.st_mtime_ns) == (size, moment):
                continue
            if digest(path) != before:
                found[name] = f"{path} is damaged: it is not as it was written"
        except (FileNotFoundError, NotADirectoryError):
            found[name] = f"{path} is missing"
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            found[name] = f"{path} is damaged: {error}"
    return found


def move_aside(folder: Path, names: Iterable[str]) -> Path | None:
    """Moves what is at some paths of a folder to ``damaged/`` in it; returns where it now is, or
    None where there was nothing."""
    target = folder / DAMAGED / time.strftime("%Y%m%d-%H%M%S")
    while target.exists():
        target = target.with_name(f"{target.name}-")
    moved = None
    for name in names:
        if (folder / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).rename(target / name)
            moved = target
    return moved


def is_written(value: Any) -> bool:
    """Whether a value from a file can be a description of files."""
    return isinstance(value, dict) and all(
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], int)
        and isinstance(entry[1], int)
        for entry in value.values()
    )


def same_files(then: Written, now: Written) -> bool:
    """Whether two descriptions are of the same paths with the same contents."""
    return {name: entry[2] for name, entry in then.items()} == {
        name: entry[2] for name, entry in now.items()
    }


def remove_unfinished(folder: Path) -> list[Path]:
    """Deletes what killed processes have left of files that they were writing in a folder, and
    returns the paths; no other process may be writing there."""
    found = [path for path in folder.rglob(".part-*") if _UNFINISHED.match(path.name)]
    for path in found:
        path.unlink(missing_ok=True)
    return found
