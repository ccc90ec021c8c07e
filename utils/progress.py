"""Progress bars with the time left; in a log file, one line every half minute."""

import sys
from typing import Any

from tqdm import tqdm

LOG_INTERVAL = 30.0  # seconds between lines where the output is not a terminal


def progress(*args: Any, **kwargs: Any) -> tqdm:
    """A bar of tqdm, with its arguments, that is quiet enough for a log when stderr is not a
    terminal."""
    if not sys.stderr.isatty():
        kwargs = {"mininterval": LOG_INTERVAL, "maxinterval": LOG_INTERVAL, "ascii": True} | kwargs
    return tqdm(*args, **kwargs)
