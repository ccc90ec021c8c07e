"""Reads confs: a file with its bases and overrides, their paths resolved, the values checked."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from todm.config.check import check
from todm.config.effects import without_effect
from todm.config.keys import CONFS, Config
from todm.config.paths import find_base, find_conf, resolve_paths
from todm.config.sources import name_sources
from utils import conf as configuration
from utils.conf import Layer
from utils.errors import ConfigError


def build(layers: Iterable[Layer]) -> Config:
    """The configuration that layers make, its values checked.

    Raises:
      ConfigError: a value that can not work.
    """
    return configuration.build(Config, layers, finish)


def finish(config: Config) -> None:
    """Names the splits that lie elsewhere, and checks the values.

    Raises:
      ConfigError: a value that can not work.
    """
    name_sources(config)
    check(config)


def load_file(path: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """Reads a conf by its path as it stands, or (None) the defaults, with overrides; no other place
    is looked at.

    Raises:
      ConfigError: an unknown conf or key, or a value that can not work.
    """
    return configuration.load(Config, path, overrides, finish)


def read(conf: str | Path, overrides: Iterable[str] = ()) -> list[Layer]:
    """The values that a conf (a path, or a name such as ``mini``), its bases and the overrides set,
    with their paths resolved."""
    layers = configuration.read_layers(Config, find_conf(conf), overrides, find_base)
    for layer in layers:
        resolve_paths(layer)
    return layers


def load(conf: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a conf: a path, relative to the user's folder or to the repository, or the name of one
    of the recipe's (``mini``).

    Raises:
      ConfigError: an unknown conf or key, or a value that can not work.
    """
    return build(read(conf, overrides))


def explicit_keys(conf: str | Path, overrides: Iterable[str] = ()) -> set[str]:
    """The keys that the user has set: by overrides, in the conf that he names and in its bases
    outside the recipe.

    Keys of a conf that only an override deprives of their effect are left out: ``conf/mini.yaml
    data.root=...`` is no mistake.
    """
    layers = read(conf, overrides)
    named = [layer for layer in layers if layer.file is None]
    files = [layer for layer in layers if layer.file is not None]
    own: set[str] = set()
    for layer in files:
        in_recipe = layer.file is not None and CONFS in layer.file.resolve().parents
        if layer is files[-1] or not in_recipe:
            own |= layer.keys
    idle = set(without_effect(build(layers), own))
    if idle and named:
        with contextlib.suppress(ConfigError):  # the conf alone need not be complete
            idle -= set(without_effect(build(files), own))
    return (own - idle if named else own).union(*(layer.keys for layer in named))
