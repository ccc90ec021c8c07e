"""Waiting for what another process does. Imports nothing heavy: whatever is spawned imports it
again."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], seconds: float = 120) -> bool:
    """Waits until a condition holds, and returns whether it does."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
