"""A configuration is a tree of dataclasses, filled from a YAML file and from ``key.sub=value`` overrides."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.files import write_text_atomic
from utils.text import first_line

T = TypeVar("T")


class ConfigError(ValueError):
    """A mistake in a conf or an override; the message says where and what would be right."""


def load(schema: type[T], path: str | Path | None = None, overrides: list[str] = ()) -> T:
    """Read ``path`` (its ``base:``, a conf beside it, first), apply ``overrides``, check against ``schema``.

    Raises:
      ConfigError: missing file, broken YAML, unknown key (the nearest known one is named) or wrong type.
    """
    tree = OmegaConf.structured(schema)
    for layer, source in _layers(path):
        tree = _merge(schema, tree, layer, source)
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"override {override!r} is not of the form key=value")
        try:
            layer = OmegaConf.from_dotlist([override])
        except Exception as error:  # a YAML error inside the value: `data.train=[a`
            raise ConfigError(f"override {override!r} can not be read: {error}") from error
        tree = _merge(schema, tree, layer, f"override {override!r}")
    return _to_object(tree)


def _to_object(tree: DictConfig):
    try:
        return OmegaConf.to_object(tree)
    except ConfigError:
        raise
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(first_line(error) if isinstance(error, OmegaConfBaseException) else str(error)) from error


def from_dict(schema: type[T], values: dict) -> T:
    """The dataclass that :func:`to_dict` came from (from a checkpoint, say)."""
    return _to_object(_merge(schema, OmegaConf.structured(schema), OmegaConf.create(values), "saved conf"))


def to_dict(config: Any) -> dict:
    """Plain containers, as saved in checkpoints and stamps."""
    return dataclasses.asdict(config)


def save(config: Any, path: Path) -> None:
    """Write the resolved configuration as YAML that :func:`load` reads back."""
    write_text_atomic(path, OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def select(config: Any, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """The flattened values whose key is one of ``prefixes`` or lies below one."""
    return {
        key: value
        for key, value in flatten(to_dict(config)).items()
        if any(key == p or key.startswith(p + ".") for p in prefixes)
    }


def _layers(path: str | Path | None, above: tuple[Path, ...] = ()) -> list[tuple[DictConfig, str]]:
    if path is None:
        return []
    path = Path(path)
    if path in above:
        raise ConfigError(f"{path} is its own base: {' -> '.join(p.name for p in (*above, path))}")
    if not path.is_file():
        others = sorted(p.name for p in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(path.name, others, n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else f"; there are: {', '.join(others) or 'none'}"
        raise ConfigError(f"no such conf: {path}{hint}")
    try:
        layer = OmegaConf.load(path)  # OmegaConf's loader is a safe YAML loader
    except Exception as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(layer, DictConfig):
        raise ConfigError(f"{path} holds a list where a mapping of keys is expected")
    base = layer.pop("base", None)
    return (_layers(path.parent / base, (*above, path)) if base else []) + [(layer, str(path))]


def _merge(schema: type, tree: DictConfig, layer: DictConfig, source: str) -> DictConfig:
    _check_keys(schema, OmegaConf.to_container(layer), source)
    try:
        return OmegaConf.merge(tree, layer)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{source}: {key}{first_line(error)}") from error


def _check_keys(schema: type, values: dict, source: str) -> None:
    """Refuse keys that the schema lacks; name the nearest one that it has."""
    nodes, leaves = _known_keys(schema)

    def check(mapping: dict, prefix: str) -> None:
        for key, value in mapping.items():
            name = f"{prefix}{key}"
            if name in nodes:
                if not isinstance(value, dict):
                    raise ConfigError(f"{source}: {name} is a group of keys, not a value")
                check(value, name + ".")
            elif name not in leaves:
                raise ConfigError(f"{source}: unknown key {name}{_suggest(name, nodes | leaves)}")

    check(values, "")


def _suggest(name: str, known: set[str]) -> str:
    last = name.rpartition(".")[2]
    siblings = {k for k in known if k.rpartition(".")[0] == name.rpartition(".")[0]}
    near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6) or [k for k in sorted(known) if k.endswith("." + last)]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(siblings))}"


def _known_keys(schema: type, prefix: str = "") -> tuple[set[str], set[str]]:
    nodes, leaves = set(), set()
    for field in dataclasses.fields(schema):
        name = prefix + field.name
        if dataclasses.is_dataclass(field.type):
            below = _known_keys(field.type, name + ".")
            nodes |= below[0] | {name}
            leaves |= below[1]
        else:
            leaves.add(name)
    return nodes, leaves
