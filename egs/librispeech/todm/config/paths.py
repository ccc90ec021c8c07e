"""The places where confs and the paths in them are looked for: run.sh works in the repository, its
user stands somewhere else."""

import os
from pathlib import Path
from typing import Any

from todm.config.keys import CONFS, RECIPE, SPLIT_KEYS
from todm.config.sources import is_path
from utils.conf import Layer
from utils.conf_hints import missing_conf
from utils.config_values import literal
from utils.errors import ConfigError

ROOT = RECIPE.parents[2]  # the repository
# keys of paths that are read: relative to the user's folder or to that of his conf
INPUTS = ("data.root", "data.musan", "search.latency_table", "train.init", "decode.hotwords_file")
# keys of paths that are written: relative to the repository
OUTPUTS = ("data.dir", "exp", "tables.records")


def caller() -> Path:
    """The folder that the user stands in, which run.sh passes on in TODM_CALLER before it changes
    into the repository."""
    return Path(os.environ.get("TODM_CALLER") or ".")


def find_conf(conf: str | Path) -> Path:
    """Finds a conf by its path, relative to the user's folder or to the repository, or by its name
    in the recipe's conf folder.

    Raises:
      ConfigError: there is none; the message lists the places that were looked at.
    """
    path = expanded(str(conf))
    return _first(conf, [caller() / path, ROOT / path, _in_recipe(path)])


def find_base(base: str, conf: Path) -> Path:
    """Finds what ``base:`` of a conf names: a conf beside it, or one of the recipe's by its name
    (``mini``, ``conf/mini.yaml``).

    Raises:
      ConfigError: there is none.
    """
    path = expanded(base)
    beside = conf.parent / path
    itself = (
        os.path.isfile(beside)
        and beside.samefile(conf)
        and os.path.isfile(_in_recipe(path))
        and not _in_recipe(path).samefile(conf)
    )
    return _first(base, [*([] if itself else [beside]), _in_recipe(path)], f"base of {conf}: ")


def resolve_paths(layer: Layer) -> None:
    """Makes the paths that a layer sets independent of where the user stands; ``~`` is his home.

    A relative input is looked for in the user's folder (overrides) or beside the conf (one outside
    the repository). One that is not there is taken as it is: stages run in the repository.
    """
    folder: Path | None
    if layer.file is None:
        folder = caller()
    elif ROOT in layer.file.resolve().parents:
        folder = None
    else:
        folder = layer.file.parent.absolute()
    for key in (*INPUTS, *OUTPUTS):
        *groups, name = key.split(".")
        values: Any = layer.values
        for group in groups:
            values = values.get(group) if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(values.get(name), str):
            continue
        value = str(expanded(values[name])) if values[name].startswith("~") else values[name]
        if key in INPUTS and (found := _existing(value, folder)):
            value = literal(found)  # it is there, so that ${ in it is no interpolation
        if key == "train.init" and value:
            value = os.path.normpath(value)  # the same with a slash behind it
        values[name] = value
    _resolve_sources(layer.values, folder)


def _resolve_sources(values: dict, folder: Path | None) -> None:
    """Resolves the paths in the lists of splits, and in ``data.paths``."""
    data = values.get("data")
    if not isinstance(data, dict):
        return
    for key in (*SPLIT_KEYS, "paths"):
        entries = data.get(key)
        if not isinstance(entries, list):
            continue
        for i, entry in enumerate(entries):
            if not isinstance(entry, str):
                continue
            name, _, path = entry.partition("=") if key == "paths" else ("", "", entry)
            if path and (key == "paths" or is_path(path)):
                path = str(expanded(path)) if path.startswith("~") else path
                found = _existing(path, folder)
                path = os.path.normpath(literal(found) if found else path)
                if key != "paths" and not is_path(path):
                    path = os.path.join(".", path)
                entries[i] = f"{name}={path}" if key == "paths" else path


def expanded(text: str) -> Path:
    """The path with ``~`` and ``~user`` replaced by that home."""
    return Path(os.path.expanduser(text))


def _existing(value: str, folder: Path | None) -> str | None:
    """The path of an input that is in ``folder``, or that has ``${`` in its name and is there as it
    stands; None: neither, so the value is taken as it is."""
    if not value or folder is None or not os.path.exists(folder / value):
        return value if "${" in value and os.path.exists(value) else None
    if os.path.exists(value) and os.path.samefile(folder / value, value):
        return value
    plain = os.path.normpath(folder / value)
    # the plain path, unless links make .. lead elsewhere
    if os.path.exists(plain) and os.path.samefile(plain, folder / value):
        return plain
    return str(folder / value)


def _in_recipe(path: Path) -> Path:
    """The file in the recipe's conf folder that ``mini``, ``mini.yaml``, ``conf/mini`` or
    ``tables/mini.yaml`` names."""
    name = path
    if path.name and path.suffix not in (".yaml", ".yml"):
        name = path.with_name(f"{path.name}.yaml")
    return RECIPE / name if path.parts[:1] == (CONFS.name,) else CONFS / name


def _first(name: str | Path, candidates: list[Path], prefix: str = "") -> Path:
    for candidate in candidates:
        # unlike Path.is_file, it is false for a name that is too long or has a NUL
        if os.path.isfile(candidate):
            return candidate
    folder = next((c for c in candidates if os.path.isdir(c)), None)
    if folder and str(name).strip("./"):
        raise ConfigError(f"{prefix}{folder} is a folder, not a conf")
    error = missing_conf(name, candidates)
    raise ConfigError(f"{prefix}{error}")
