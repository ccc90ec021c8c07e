"""Errors about confs and keys that are not there, which name the nearest that are."""

import dataclasses
import difflib
import os
from pathlib import Path

from utils.errors import ConfigError


def missing_conf(conf: str | Path, looked: list[Path]) -> ConfigError:
    """The error about a conf that was not found; it names the places that were looked at and the
    conf that is nearest in name."""
    places = ", ".join(str(path) for path in dict.fromkeys(looked))
    others = {
        p.name: p
        for path in reversed(looked)
        if os.path.isdir(path.parent)
        for p in sorted(path.parent.glob("[!.]*.yaml"))  # hidden files are of other programs
    }
    wanted = Path(conf).name.removesuffix(".yaml")
    similar = difflib.get_close_matches(
        wanted, [name.removesuffix(".yaml") for name in others], n=1
    )
    near = [f"{name}.yaml" for name in similar]
    hint = (
        f"did you mean {others[near[0]]}?"
        if near
        else f"there are: {', '.join(sorted(others)) or 'none'}"
    )
    return ConfigError(
        f"no such conf: {conf}; {hint}"
        if places == str(conf)
        else f"no such conf: {conf}; looked for {places}; {hint}"
    )


def check_keys(schema: type, values: dict, source: str) -> None:
    """Refuses keys that the schema lacks.

    Args:
      source: where the values come from, for the message.
    Raises:
      ConfigError: an unknown key; the message names the nearest known one.
    """
    nodes, leaves = _known_keys(schema)

    def check(mapping: dict, prefix: str) -> None:
        for key, value in mapping.items():
            name = f"{prefix}{key}"
            if name in nodes:
                if not isinstance(value, dict):
                    raise ConfigError(f"{source}: {name} is a group of keys, not a value")
                check(value, name + ".")
            elif "." in str(key):
                raise ConfigError(
                    f"{source}: {name} is one key; in a file every group has lines of its own, "
                    "indented below its name"
                )
            elif name not in leaves:
                raise ConfigError(f"{source}: unknown key {name}{_suggest(name, nodes | leaves)}")

    check(values, "")


def _suggest(name: str, known: set[str]) -> str:
    last = name.rpartition(".")[2]
    siblings = {k for k in known if k.rpartition(".")[0] == name.rpartition(".")[0]}
    near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6) or [
        k for k in sorted(known) if k.endswith("." + last)
    ]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(siblings))}"


def _known_keys(schema: type, prefix: str = "") -> tuple[set[str], set[str]]:
    nodes: set[str] = set()
    leaves: set[str] = set()
    for field in dataclasses.fields(schema):
        name = prefix + field.name
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            below = _known_keys(field.type, name + ".")
            nodes |= below[0] | {name}
            leaves |= below[1]
        else:
            leaves.add(name)
    return nodes, leaves
