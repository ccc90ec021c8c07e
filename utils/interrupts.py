"""Gentle stops: the first signal asks a loop to end at its next boundary, a second one ends it at
once."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# seconds within which a second signal is an echo of the first: a terminal and a launcher may both
# send it
SAME = 0.5


class Stopped(KeyboardInterrupt):
    """The work was ended by a signal.

    Attributes:
      signal: the number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = int(number)


class StopRequest:
    """A request to stop, true once there is one.

    Args:
      echo: seconds within which a second signal is an echo of the first.
    Attributes:
      signal: the number of the first signal, or None while there was none.
    """

    def __init__(self, echo: float = SAME) -> None:
        self.signal: int | None = None
        self._since, self._echo = 0.0, echo

    def __bool__(self) -> bool:
        return self.signal is not None

    def _receive(self, number: int, frame: object) -> None:
        if self.signal is None:
            self.signal, self._since = int(number), time.monotonic()
            if logging.getLogger().isEnabledFor(logging.INFO):  # the first rank
                # past all buffers, in one of which the program may be right now
                with contextlib.suppress(OSError):
                    os.write(
                        2,
                        f"\n{signal.Signals(number).name}: stopping after this update; again: at "
                        "once, without saving\n".encode(),
                    )
        elif time.monotonic() - self._since > self._echo:
            raise Stopped(number)


@contextlib.contextmanager
def gentle_stops(echo: float | None = None) -> Iterator[StopRequest]:
    """Gives a request: in the block, the first SIGINT, SIGTERM or SIGHUP only sets it; a second one
    raises :class:`Stopped` where the program is.

    Signals that were ignored stay so: SIGINT in a shell's background jobs, SIGHUP under nohup.
    Outside the main thread, which alone may handle signals, the request is never set.

    Args:
      echo: as of :class:`StopRequest`; None: half a second.
    """
    request = StopRequest(SAME if echo is None else echo)
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # None: a handler that is not Python's, which could not be put back
        before = {
            number: handler
            for number in SIGNALS
            if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
        }
    try:
        for number in before:
            signal.signal(number, request._receive)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_group() -> None:
    """Takes this process, a worker, out of its parent's process group.

    A terminal or a launcher sends signals to the whole group, and a worker that dies of one breaks
    its parent's loop in the middle of an update.  The parent ends its workers itself; they also end
    when it has died.
    """
    os.setpgid(0, 0)
