"""Splits that lie elsewhere than below data.root: which entries of data.train, data.dev and
data.test are paths, and what those splits are called."""

import os
from pathlib import PurePath

from todm.config.keys import SPLIT_KEYS, Config
from utils.errors import need

TABLES = (".tsv", ".csv")
JSON_LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


def kind_of_file(name: str) -> str | None:
    """The ending of the name of a file that lists utterances; None: it does not."""
    lower = name.lower()
    return next((e for e in (*TABLES, *JSON_LINES) if lower.endswith(e)), None)


def is_path(entry: str) -> bool:
    """Whether an entry of data.train, data.dev or data.test is a path, and not the name of a folder
    in data.root."""
    return entry.startswith(("/", "~", "./", "../")) or kind_of_file(entry) is not None


def split_name(path: str) -> str:
    """The name of the split of a path: ``/corpora/my.tsv`` is ``my``, and ``/corpora/train``
    ``train``."""
    name = PurePath(os.path.normpath(path)).name
    kind = kind_of_file(name)
    return name[: -len(kind)] if kind else name


def name_sources(config: Config) -> None:
    """Replaces the paths in data.train, data.dev and data.test by the names of their splits, and
    keeps where those lie in ``data.paths``. Names that are there already stay.

    Raises:
      ConfigError: two splits would have the same name.
    """
    data = config.data
    where = dict(entry.split("=", 1) for entry in data.paths if "=" in entry)
    need(
        len(where) == len(data.paths),
        f"data.paths is {data.paths}; every entry must be SPLIT=PATH, each split once",
    )
    for key in SPLIT_KEYS:
        entries = getattr(data, key)
        for i, entry in enumerate(entries):
            if not is_path(entry):
                continue
            name = split_name(entry)
            other = where.setdefault(name, entry)
            need(
                other == entry,
                f"data.{key} has {entry}, and {other} would be called {name!r} as well; give one "
                f"of them another name: data.paths=[other={entry}] data.{key}=[other]",
            )
            entries[i] = name
    splits = [split for key in SPLIT_KEYS for split in getattr(data, key)]
    data.paths = [f"{name}={path}" for name, path in where.items() if name in splits]
