"""Processes of one trial: started with a mark, found by it wherever they have gone, and ended."""

import contextlib
import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.torture.trials import ROOT, recipe_environment

MARK = "TODM_TORTURE"  # the environment variable that all processes of one run inherit
WAIT = 60.0  # seconds in which the processes of a run that has ended must have gone


class MarkedRun:
    """One ``./run.sh`` in a process group of its own, whose output goes to a file.

    Args:
      arguments: of run.sh.
      log: the file that gets its output.
      environment: variables beside those of :func:`recipe_environment`.
    """

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        prepare: Callable[[], None] = lambda: None,
        **environment: str,
    ):
        self.mark, self.log = uuid.uuid4().hex, log

        def begin() -> None:  # a shell's background jobs ignore SIGINT, and so would this run
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            prepare()

        with open(log, "w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                [ROOT / "run.sh", *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=recipe_environment(**{MARK: self.mark}, **environment),
                start_new_session=True,
                preexec_fn=begin,
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def alive(self) -> dict[int, str]:
        """The command lines of its processes, by id."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    found[int(folder.name)] = b" ".join(words).decode(errors="replace")
        return found

    def send(self, number: int, target: str, rng: random.Random) -> None:
        """Sends a signal to ``run.sh`` alone, to its ``group``, or to one ``stage process``: a rank
        of the training, or whatever runs the stage."""
        pids = [self.process.pid]
        if target == "stage process":
            ranks = [pid for pid, words in self.alive().items() if is_stage(words)]
            pids = [rng.choice(ranks)] if ranks else pids
        elif target == "group":
            pids = list(self.alive()) if number == signal.SIGKILL else []
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, timeout: float = 600.0) -> int:
        """Waits until run.sh has ended; returns its status, or kills it and raises
        TimeoutExpired."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def left(self) -> str | None:
        """Waits until none of its processes is left; names one that stays, and kills them all."""
        end = time.monotonic() + WAIT
        while alive := self.alive():
            if time.monotonic() > end:
                self.kill()
                return f"a process was left: {next(iter(alive.values()))[:150]}"
            time.sleep(0.2)
        return None

    def kill(self) -> None:
        """Kills all of its processes."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_stage(command: str) -> bool:
    """Whether a command line is that of a stage or of one of its ranks, not of what starts them."""
    launchers = ("todm.recipe.run_stages", "utils.torchrun")
    return " -m utils.entry " in command and not any(word in command for word in launchers)


def can_mount() -> bool:
    """Whether a process of this user may have mounts of its own."""
    return subprocess.run(["unshare", *_users(), "-m", "true"], capture_output=True).returncode == 0


def with_mount(mount: list[str], command: list[str]) -> list[str]:
    """A command that runs a command after a mount that it alone sees.

    Args:
      mount: the arguments of ``mount``.
    """
    script = 'count=$1; shift; mount "${@:1:count}" || exit 99; shift "$count"; exec "$@"'
    arguments = [str(len(mount)), *mount, *command]
    return ["unshare", *_users(), "-m", "bash", "-c", script, "bash", *arguments]


def _users() -> list[str]:
    return [] if os.geteuid() == 0 else ["-r"]
