"""How long a stretch of speech a net can be given: about as long as what it was trained on.

A net that has heard utterances of 3 s loses most of what is said in a stretch of 20 s, so that long
recordings are cut.
"""

import gzip
import json
import logging
import zlib
from itertools import islice
from pathlib import Path

import numpy as np

from todm.config.keys import Config

# A relative data.dir is below it, unless it is below the folder one is in.
ROOT = Path(__file__).resolve().parents[3]
SHARE = 0.95  # of the training utterances that are shorter than what a net surely knows;
BEYOND = 1.25  # it goes on as well for about this much longer, but
LEAST = 2.0  # nothing is cut into less than this many seconds
# seconds, where nothing is known about the training: a net that knows longer ones loses less by
#   more cuts
UNKNOWN = 4.0
ENOUGH = 20_000  # utterances that tell how long utterances are


def learnt_seconds(config: Config, durations: list[float]) -> float:
    """Seconds that a net has learnt to recognise at once.

    Args:
      durations: of the training utterances, in seconds; joined as ``data.join_prob`` and
        ``data.join_pause`` have it, each with one as long.
    """
    single = np.sort(durations)
    if not len(single):
        return unknown_seconds(config)
    pairs = 2 * single[::2] + np.mean(config.data.join_pause)
    pairs = pairs[pairs <= config.data.max_seconds] if config.data.join_prob > 0 else pairs[:0]
    seconds = np.concatenate([single, pairs])
    weights = np.concatenate(
        [
            np.full(len(single), 1 - config.data.join_prob),
            np.full(len(pairs), config.data.join_prob),
        ]
    )
    order = seconds.argsort()
    below = np.cumsum(weights[order])
    most = seconds[order][np.searchsorted(below, SHARE * below[-1])]
    return round(float(max(LEAST, min(BEYOND * most, seconds.max()))), 2)


def unknown_seconds(config: Config) -> float:
    """The same where the durations are not known."""
    return max(LEAST, min(config.data.max_seconds, UNKNOWN))


def learnt_seconds_of_data(config: Config) -> float:
    """The same for a checkpoint that does not say it: of the data it was trained on, where that is
    still there."""
    for root in (Path(), ROOT):
        try:
            durations: list[float] = []
            for split in config.data.train:
                with gzip.open(
                    root / config.data_dir / "cuts" / f"{split}.jsonl.gz", "rt", encoding="utf-8"
                ) as lines:
                    durations += [json.loads(line)["duration"] for line in islice(lines, ENOUGH)]
            return learnt_seconds(config, durations)
        except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
            logging.debug("how long the training utterances were is not known: %s", error)
    return unknown_seconds(config)
