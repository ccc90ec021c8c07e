"""Progress bars with the time left; in a log file, a line every half minute instead of a stream of
them."""

import sys

from tqdm import tqdm

LOG_INTERVAL = 30.0  # seconds between lines where the output is not a terminal


def progress(*args, **kwargs) -> tqdm:
    """tqdm, quiet enough for a log when stderr is not a terminal."""
    if not sys.stderr.isatty():
        kwargs = {"mininterval": LOG_INTERVAL, "maxinterval": LOG_INTERVAL, "ascii": True} | kwargs
    return tqdm(*args, **kwargs)
