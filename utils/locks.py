"""One writer per folder: a lock that names its holder, and that is gone when the holder is.

The lock is the kernel's (``flock``) on the folder itself, so that whoever deletes a file in it
frees nothing; its file ``.lock`` says who holds it.  It lives as long as any process that has
inherited the open folder, so that a killed parent does not free a folder in which its child still
writes.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import TextIO

from utils.errors import UserError
from utils.files import naming

LOCK = ".lock"
# environment: the folders that a parent has locked for this process, a line each
HELD = "TODM_HELD"


class FolderBusy(UserError):
    """Another process has the folder; the message names it."""


class FolderLock:
    """The lock of a folder. Several processes can share it to read; one alone has it to write.

    Args:
      command: the command of the holder, for the message that others get.
    """

    def __init__(self, folder: Path, command: str):
        self.folder, self.command = folder, command
        self.file: TextIO | None = None  # the notes of holders
        self._held: int | None = None  # the descriptor that is locked
        self.exclusive: bool | None = None

    def acquire(self, exclusive: bool) -> None:
        """Takes the lock, or changes the one that is held from reading to writing and back.

        A folder that can not be written to is not locked for reading: nobody here can change it.

        Raises:
          FolderBusy: another process holds it.
        """
        if self.exclusive == exclusive:
            return
        if _inherited(self.folder):
            self._add_note()
            self.exclusive = exclusive
            return
        if self.file is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.file = open(self.folder / LOCK, "a+", encoding="utf-8")
            except OSError:
                if exclusive:
                    raise
                return
        try:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            self._flock(kind | fcntl.LOCK_NB, self.file)
        except BlockingIOError:
            raise FolderBusy(self._refusal()) from None
        except OSError:  # a file system without locks
            return
        self.exclusive = exclusive
        with naming(self.folder / LOCK):  # a full disk
            if exclusive:
                self.file.truncate(0)
            self.file.write(self._holder())
            self.file.flush()

    def _add_note(self) -> None:
        """Names this process as a holder of a lock that its parent took, which it may outlive."""
        with contextlib.suppress(OSError), open(self.folder / LOCK, "a", encoding="utf-8") as file:
            file.write(self._holder())

    def _flock(self, operation: int, notes: TextIO) -> None:
        if self._held is None:
            self._held = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._held, operation)
        except BlockingIOError:
            raise
        except OSError:  # NFS locks nothing but files that are open to write
            os.close(self._held)
            self._held = os.dup(notes.fileno())
            fcntl.flock(self._held, operation)

    @property
    def descriptor(self) -> int | None:
        """The file descriptor that is locked, for children to inherit; None while none is."""
        return self._held if self.exclusive is not None else None

    def release(self) -> None:
        """Gives the lock back; children that inherited it keep it. This process is no longer
        named as a holder."""
        if self.exclusive is not None:
            with contextlib.suppress(OSError):
                notes = (
                    (self.folder / LOCK)
                    .read_text(encoding="utf-8", errors="replace")
                    .splitlines(keepends=True)
                )
                (self.folder / LOCK).write_text(
                    "".join(note for note in notes if f'"pid": {os.getpid()},' not in note),
                    encoding="utf-8",
                )
        if self.file is not None:
            with contextlib.suppress(OSError):  # notes for which there was no room
                self.file.close()
        if self._held is not None:
            os.close(self._held)
        self.file, self._held, self.exclusive = None, None, None

    def __del__(self) -> None:
        self.release()

    def _holder(self) -> str:
        return (
            json.dumps(
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "command": self.command,
                    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                }
            )
            + "\n"
        )

    def _refusal(self) -> str:
        holders = _holders(self.folder / LOCK)
        named = (
            "; ".join(
                f"process {h['pid']} on {h['host']} ({h['command']}, since {h['since']})"
                for h in holders
            )
            or "another process"
        )
        stop = f" (kill {holders[0]['pid']})" if holders else ""
        return (
            f"{self.folder} is in use by {named}. Wait until it has finished, or stop "
            f"it{stop}; with another name=NAME this run has folders of its own"
        )


def _inherited(folder: Path) -> bool:
    return str(folder.resolve()) in os.environ.get(HELD, "").splitlines()


def _holders(path: Path) -> list[dict]:
    """The processes that have written themselves into a lock file and are still alive, as far as
    can be told from here."""
    holders = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # somebody has deleted it, or it may not be read
        lines = []
    for line in lines:
        try:
            holder = json.loads(line)
            alive = holder["host"] != socket.gethostname() or _alive(int(holder["pid"]))
        except (ValueError, KeyError, TypeError):
            continue
        if alive:
            holders.append(holder)
    return holders


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def held_by_parent(locks: list[FolderLock]) -> dict[str, str]:
    """The environment of a child that inherits these locks."""
    already = os.environ.get(HELD, "").splitlines()
    return {
        HELD: "\n".join(
            dict.fromkeys(
                [
                    *already,
                    *(str(lock.folder.resolve()) for lock in locks if lock.descriptor is not None),
                ]
            )
        )
    }
