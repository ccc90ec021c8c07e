"""Writes files so that a killed process or a full disk never leaves half of one behind."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# errors that only writing can have
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class WriteError(OSError):
    """A file can not be written; ``filename`` names it, ``strerror`` says why."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an exception.

    Raises:
      WriteError: the disk is full or read-only, or a limit or a permission is in the way;
        ``path`` is as it was.
    """
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".part-{path.name}.", suffix="".join(path.suffixes)
        )
        os.close(handle)
    temporary = Path(name)
    try:
        with naming(path, temporary):
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner reads
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turns an error in writing ``path`` (as ``temporary``) into a WriteError that names it; other
    errors stay what they are."""
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        failure = error if isinstance(error, OSError) and error.errno else None
        if failure is None and temporary is not None:
            # libraries in C++ do not tell a full disk from anything else
            failure = growth_error(temporary)
        if failure is None:
            raise
        if temporary is not None and failure.filename not in (None, str(temporary), temporary):
            raise
        raise WriteError(failure.errno, failure.strerror, str(path)) from error


def growth_error(path: Path) -> OSError | None:
    """Tries to make a file longer; returns the error where that fails, else None."""
    try:
        with open(path, "ab") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def require_openable(path: str | Path) -> None:
    """Checks that nothing but the file itself can keep it from being opened.

    Audio libraries do not tell too many open files, or too little memory, from a damaged file.

    Raises:
      OSError: too many files are open, or there is no memory.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except ValueError:
        return  # a name that no file can have
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise


def describe(error: OSError, folder: Path) -> str:
    """An error of the file system in a sentence: the file, the reason, and the space that is left.

    Args:
      folder: where the file is, if the error does not say.
    """
    path = Path(error.filename if isinstance(error.filename, str) else folder)
    if not isinstance(error, WriteError) and error.errno not in WRITE_ERRORS:
        return f"{path}: {error.strerror or error}"
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    limit = (
        "; a limit on the size of files is set (`ulimit -f`)" if error.errno == errno.EFBIG else ""
    )
    return (
        f"{path} can not be written: {error.strerror}{limit}. "
        f"{shutil.disk_usage(there).free / 2**30:.2f} GiB are free there. "
        "When that is mended, the same command goes on"
    )


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: str | Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
      ValueError: it is damaged, or nested too deeply to be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
