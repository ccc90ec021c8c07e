"""Processes that end together: signals are passed on to a child, and children do not outlive their
parent."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from utils.interrupts import SIGNALS

T = TypeVar("T")
R = TypeVar("R")
PR_SET_PDEATHSIG = 1  # of Linux's prctl
GRACE_SECONDS = 120.0  # time that a child has for its last checkpoint after SIGTERM or SIGHUP
Handler = Callable[[int, FrameType | None], Any] | int | None  # as signal.getsignal returns it
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def signal_when_parent_dies(number: int) -> None:
    """Asks Linux to send this process a signal when its parent has gone, even by SIGKILL; elsewhere
    nothing happens."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def end_with_parent() -> None:
    """Prepares a worker process to end when its parent is killed; it would otherwise wait for work
    for ever. This is the initializer of pools.

    An interrupt is the parent's business, which ends its workers; a fork has the parent's handlers,
    which are not meant for workers.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    parent = os.getppid()

    def watch() -> None:
        # Not the kernel's signal: it comes when the parent's *thread* ends that made this process,
        # as a pool's does too early.
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_fresh_processes(
    function: Callable[[T], R], tasks: Iterable[T], jobs: int, context: ForkContext | SpawnContext
) -> Iterator[R]:
    """Yields ``function(task)`` of every task, in their order, each computed in a process of its
    own, ``jobs`` at a time.

    A ``multiprocessing.Pool`` with one task a child does the same, but can wait for ever for a
    child that it starts while it ends.

    Raises:
      Exception: the one that the function raises.
      RuntimeError: a process ended without a result.
    """

    def one(task: T) -> R:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(function, task, sender))
        process.start()
        sender.close()
        try:
            succeeded, answer = receiver.recv()
        except EOFError:
            raise RuntimeError("a worker process was ended before it had a result") from None
        finally:
            receiver.close()
            process.join()
        if not succeeded:
            raise answer
        return answer

    with ThreadPoolExecutor(jobs) as threads:
        yield from threads.map(one, tasks)


def _answer(function: Callable[[T], R], task: T, sender: Connection) -> None:
    end_with_parent()
    answer: tuple[bool, R | Exception]
    try:
        answer = True, function(task)
    except Exception as error:
        answer = False, error
    sender.send(answer)


def end_workers() -> None:
    """Kills the worker processes of this process's pools, so that an interrupt need not wait for
    their work."""
    for child in multiprocessing.active_children():
        child.kill()


def handle_stops(handler: Callable[[int, FrameType | None], None]) -> dict[int, Handler]:
    """Installs a handler for the signals that stop a program, where they are not ignored (nohup,
    background jobs).

    Returns:
      The handlers that were there, by signal.
    """
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }


def descendants(pid: int) -> list[int]:
    """The ids of the processes that a process has made, and of those that they have made; none
    where there is no /proc."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = list(children.get(pid, []))
    for each in found:  # which grows
        found += children.get(each, [])
    return found


def run_fork(
    function: Callable[[], object], environment: dict[str, str], grace: float = GRACE_SECONDS
) -> int:
    """Runs a function in a fork of this process and in a session of its own, and waits for it.

    What this process has imported need not be imported again, which for torch and lhotse takes
    seconds, and its open files are the fork's as well.

    SIGINT, SIGTERM and SIGHUP are passed on to the fork, and a stop (Ctrl-Z) with what follows it
    to all below it, too.  When this process is killed, the fork gets SIGTERM.  What is left of its
    group when it has ended, or does not end in time, is killed.

    Args:
      function: its exit status is 0, unless an exception ends it: 1, or that of SystemExit.
      environment: variables beside those of this process.
      grace: seconds that it has after the first SIGTERM or SIGHUP.
    Returns:
      The exit status as a shell has it: 128 + the signal where one ended it.
    """
    # Signals wait in the kernel until both sides can handle them: an exception in the hooks that
    # run at a fork is printed and forgotten, and a new child forgets what has reached it before
    # Python is ready there. Other threads may take signals all the same; these are noted.
    early: list[int] = []
    before = handle_stops(lambda number, frame: early.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [*SIGNALS, signal.SIGTSTP])
    try:
        child = _Child(function, environment, grace, mask)
        handle_stops(child.forward)
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, child.pause)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in early:
        child.forward(number, None)
    try:
        status = child.wait()
    finally:
        child.to_group(signal.SIGKILL)  # workers that a killed stage has left
        for number, handler in before.items():
            signal.signal(number, handler)
    if child.received:
        return 128 + child.received[0]
    return status if status >= 0 else 128 - status


class _Child:
    """A fork with a session of its own, and the signals that were passed on to it."""

    def __init__(
        self,
        function: Callable[[], object],
        environment: dict[str, str],
        grace: float,
        mask: set[int | signal.Signals],
    ):
        """Starts the fork, while the signals that stop a program are blocked.

        Args:
          mask: the signals that are blocked otherwise.
        """
        parent = os.getpid()

        def run() -> None:
            os.setsid()
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)  # until the function handles them
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal_when_parent_dies(signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(128 + signal.SIGTERM)
            os.environ.update(environment)
            function()

        self.process, self.grace = multiprocessing.get_context("fork").Process(target=run), grace
        self.received: list[int] = []
        self.deadline = float("inf")  # of time.monotonic(), after which the group is killed
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    def wait(self) -> int:
        """Waits until the fork has ended, whatever it leaves behind; returns its status, -N where
        signal N ended it."""
        while (status := self.process.exitcode) is None:
            if time.monotonic() > self.deadline:
                self.to_group(signal.SIGKILL)
            time.sleep(0.02)
        return status

    def to_group(self, number: int) -> None:
        """Sends a signal to the child's group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def forward(self, number: int, frame: object) -> None:
        """Handles a signal that stops a program; the third one kills the group."""
        self.received.append(number)
        if len(self.received) > 2:
            self.to_group(signal.SIGKILL)
        elif self.process.exitcode is None:
            os.kill(self.pid, number)
        if number != signal.SIGINT:
            self.deadline = min(self.deadline, time.monotonic() + self.grace)

    def pause(self, number: int, frame: object) -> None:
        """Handles Ctrl-Z: stops all below this process, then this process, until both go on."""
        below = descendants(self.pid)  # torchrun's ranks have sessions of their own
        for each in (signal.SIGSTOP, signal.SIGCONT):
            self.to_group(each)
            for pid in below:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, each)
            if each == signal.SIGSTOP:
                os.kill(os.getpid(), signal.SIGSTOP)
