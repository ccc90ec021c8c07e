"""One trial of the torture, and what all sections are given."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRACE = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Trial:
    """One attack and its outcome.

    Attributes:
      what: the attack in words, with the seed or the moment that repeats it.
      survived: whether all that the section asks for held.
      found: what was seen: the message, or what was lost; one line.
    """

    what: str
    survived: bool
    found: str


@dataclass(frozen=True)
class Setting:
    """How a section is run.

    Attributes:
      folder: an empty folder of its own, on a disk with some GiB of room.
      seed: of all random choices.
      short: the form for the tests: a few trials of every kind, all sections within 2 minutes.
      experiment: the folder of a finished experiment (``data`` and ``exp``), which sections read
        instead of making one; nothing in it is changed.
    """

    folder: Path
    seed: int = 1
    short: bool = False
    experiment: Path | None = None


Section = Callable[[Setting], Iterator[Trial]]


def recipe_environment(**more: str) -> dict[str, str]:
    """The environment in which run.sh, transcribe.sh and their programs are started: with the
    packages of this interpreter, one thread a process."""
    return os.environ | {"TODM_VENV": str(Path(sys.prefix)), "OMP_NUM_THREADS": "1"} | more


def run_sh(
    *arguments: str,
    timeout: float = 1800.0,
    wrap: Callable[[list[str]], list[str]] = list,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """``./run.sh`` as a user would call it; output and errors together.

    Args:
      wrap: makes the command that is run of that command.

    Raises:
      subprocess.TimeoutExpired: it hangs.
    """
    command = wrap([str(ROOT / "run.sh"), *arguments])
    return run(command, ROOT, recipe_environment(**environment), timeout)


def run(
    command: list, folder: Path, environment: dict[str, str], timeout: float = 3600.0
) -> subprocess.CompletedProcess[str]:
    """A command in a folder; output and errors together.

    Raises:
      subprocess.TimeoutExpired: it hangs.
    """
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        timeout=timeout,
    )


def at_once(jobs: int, attacks: dict[str, Callable[[], Trial]]) -> Iterator[Trial]:
    """Makes some trials in threads, a few at once, and yields them as they end; one that hangs is
    lost.

    Args:
      attacks: functions that make one trial each, by what they try.
    """
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(attack): what for what, attack in attacks.items()}
        for future in as_completed(futures):
            try:
                yield future.result()
            except subprocess.TimeoutExpired:
                yield Trial(futures[future], False, "it hung")


def last_line(text: str, width: int = 300) -> str:
    """The last line that is not empty, which is where a program says why it ended."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:width] if lines else ""
