"""The values that a configuration can work with: each key alone, and what keys ask of each other.

The range of every number stands in ``ranges.py``; what several keys ask of each other stands with
its subject, in the ``check_*.py`` beside this file.
"""

import math
from typing import Any

from todm.config.check_data import check_data
from todm.config.check_decoding import check_decoding
from todm.config.check_folders import check_folders
from todm.config.check_model import check_model
from todm.config.check_selection import check_selection
from todm.config.check_tables import check_tables
from todm.config.check_training import check_training
from todm.config.keys import LEARNED, Config
from todm.config.ranges import RANGES
from utils.conf import flatten, to_dict
from utils.errors import need

SUBJECTS = (
    check_folders,
    check_data,
    check_model,
    check_training,
    check_selection,
    check_decoding,
    check_tables,
)


def check(config: Config) -> None:
    """Refuses values that can not work, alone or together; the message says what would.

    Raises:
      ConfigError: the first such value.
    """
    values = flatten(to_dict(config))
    check_finite(values)
    check_ranges(values)
    check_lists(values)
    for check_subject in SUBJECTS:
        check_subject(config)


def check_finite(values: dict[str, Any]) -> None:
    """Refuses infinities and NaN, in lists as well.

    Args:
      values: the flat conf, as the functions below take it, too.
    """
    for key, value in values.items():
        for number in value if isinstance(value, list) else [value]:
            need(
                not isinstance(number, float) or math.isfinite(number),
                f"{key} is {value}; a finite number is needed",
            )


def check_ranges(values: dict[str, Any]) -> None:
    """Refuses numbers outside their range."""
    learned = values["select.method"] in LEARNED
    for key, allowed in RANGES.items():
        # without learned selection its keys do not count, of which effects.py warns
        if learned or not key.startswith("learn."):
            need(values[key] in allowed, f"{key} is {values[key]}; it must be {allowed}")


def check_lists(values: dict[str, Any]) -> None:
    """Refuses lists of texts that name the same thing twice or hold an empty text."""
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            twice = sorted({item for item in value if value.count(item) > 1})
            need(
                not twice,
                f"{key} has {', '.join(map(repr, twice))} more than once; leave the others out",
            )
            need(
                all(item.strip() for item in value),
                f"{key} is {value}; an empty text is none of its values",
            )
