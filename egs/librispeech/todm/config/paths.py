"""Where confs and the paths in them are looked for: run.sh works in the repository, its user stands
somewhere else."""

import os
from pathlib import Path

from todm.config.keys import CONFS, RECIPE
from utils.conf import Layer, missing_conf
from utils.config_values import literal
from utils.errors import ConfigError

ROOT = RECIPE.parents[2]  # the repository
INPUTS = (
    "data.root",
    "data.musan",
    "search.latency_table",
)  # read: relative to the user's folder or to his conf's
OUTPUTS = ("data.dir", "exp", "tables.records")  # written: relative to the repository


def caller() -> Path:
    """The folder that the user stands in: run.sh, which changes into the repository, says it in
    TODM_CALLER."""
    return Path(os.environ.get("TODM_CALLER") or ".")


def find_conf(conf: str | Path) -> Path:
    """A conf by its path, relative to the user's folder or to the repository, or by its name in the
    recipe's conf folder.

    Raises:
      ConfigError: there is none; the message lists where it was looked for.
    """
    path = expanded(str(conf))
    return _first(conf, [caller() / path, ROOT / path, _in_recipe(path)])


def find_base(base: str, conf: Path) -> Path:
    """What ``base:`` of a conf names: a conf beside it, or one of the recipe's by its name
    (``mini``, ``conf/mini.yaml``)."""
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
    """Make the paths that a layer sets independent of where the user stands; ``~`` is his home.

    A relative input is looked for in the user's folder (overrides) or beside the conf (one outside
    the repository), and
    taken as it is where it is not there: stages run in the repository.
    """
    folder = (
        caller()
        if layer.file is None
        else None
        if ROOT in layer.file.resolve().parents
        else layer.file.parent.absolute()
    )
    for key in (*INPUTS, *OUTPUTS):
        *groups, name = key.split(".")
        values = layer.values
        for group in groups:
            values = values.get(group) if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(values.get(name), str):
            continue
        value = str(expanded(values[name])) if values[name].startswith("~") else values[name]
        if key in INPUTS and (found := _existing(value, folder)):
            value = literal(found)  # it is there, so that ${ in it is no interpolation
        values[name] = value


def expanded(text: str) -> Path:
    """A path with ``~`` and ``~user`` replaced by that home."""
    return Path(os.path.expanduser(text))


def _existing(value: str, folder: Path | None) -> str | None:
    """The path of an input that exists; None: there is none in the folder, or the value is good as
    it stands."""
    if not value or folder is None or not os.path.exists(folder / value):
        return value if "${" in value and os.path.exists(value) else None
    if os.path.exists(value) and os.path.samefile(folder / value, value):
        return value
    plain = os.path.normpath(folder / value)
    return (
        plain
        if os.path.exists(plain) and os.path.samefile(plain, folder / value)
        else str(folder / value)
    )


def _in_recipe(path: Path) -> Path:
    """``mini``, ``mini.yaml``, ``conf/mini``, ``tables/mini.yaml`` -> the file in the recipe's conf
    folder."""
    name = (
        path
        if path.suffix in (".yaml", ".yml")
        else path.with_name(f"{path.name}.yaml")
        if path.name
        else path
    )
    return RECIPE / name if path.parts[:1] == (CONFS.name,) else CONFS / name


def _first(name: str | Path, candidates: list[Path], prefix: str = "") -> Path:
    for candidate in candidates:
        if os.path.isfile(
            candidate
        ):  # unlike Path.is_file, false for a name that is too long or has a NUL
            return candidate
    folder = next((c for c in candidates if os.path.isdir(c)), None)
    if folder and str(name).strip("./"):
        raise ConfigError(f"{prefix}{folder} is a folder, not a conf")
    error = missing_conf(name, candidates)
    raise ConfigError(f"{prefix}{error}")
