"""A configuration is a tree of dataclasses, filled from a YAML file and from ``key.sub=value``
overrides."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.conf_hints import check_keys, missing_conf
from utils.config_values import ValueProblem, key_type, literals, read_file, read_value
from utils.errors import ConfigError
from utils.files import write_text_atomic
from utils.text import first_line

T = TypeVar("T")
_INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
MOST_INTERPOLATIONS, LONGEST_TEXT = 24, 10_000


@dataclass
class Layer:
    """The values that one source sets, as nested dicts; interpolations are not resolved.

    Attributes:
      source: the file or the override, for messages.
      file: the file of a conf; None: the layer is an override.
    """

    values: dict
    source: str
    file: Path | None = None

    @property
    def keys(self) -> set[str]:
        """The dotted names of the values."""
        return set(flatten(self.values))


Check = Callable[[Any], None]
# from what ``base:`` says, and the conf that says so, to the base's path
FindBase = Callable[[str, Path], Path]


def beside(base: str, conf: Path) -> Path:
    """Finds a base that lies beside the conf that names it."""
    return conf.parent / base


def load(
    schema: type[T],
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    check: Check | None = None,
) -> T:
    """Reads ``path`` (its ``base:``, a conf beside it, first), applies ``overrides`` and checks the
    values against ``schema``.

    Raises:
      ConfigError: missing file, broken YAML, unknown key (the nearest known one is named) or wrong
        type.
    """
    return build(schema, read_layers(schema, path, overrides), check)


def read_layers(
    schema: type,
    path: str | Path | None,
    overrides: Iterable[str] = (),
    find_base: FindBase = beside,
) -> list[Layer]:
    """Reads what the bases of ``path``, itself and every override set, in this order; a later one
    wins.

    Raises:
      ConfigError: as :func:`load`.
    """
    return [
        *_file_layers(schema, path, find_base),
        *(_override_layer(schema, text) for text in overrides),
    ]


def build(schema: type[T], layers: Iterable[Layer], check: Check | None = None) -> T:
    """Builds the configuration that layers make.

    Args:
      check: raises ConfigError where the values can not work.
    """
    config = _to_object(_merge(schema, layers))
    if check is not None:
        check(config)
    return config


def read_saved(schema: type[T], path: Path) -> T:
    """Reads what :func:`save` wrote, perhaps in an earlier version of the program: types are
    checked, values are not.

    Raises:
      ConfigError: missing file, broken YAML, unknown key or wrong type.
    """
    return _to_object(_merge(schema, _file_layers(schema, path, beside)))


def check_types(schema: type, layers: Iterable[Layer]) -> None:
    """Checks the types of the values; what the layers would make together is not looked at.

    Raises:
      ConfigError: a layer has a value of the wrong type.
    """
    _merge(schema, layers)


def _to_object(tree: DictConfig) -> Any:
    try:
        return OmegaConf.to_object(tree)
    except ConfigError:
        raise
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        hint = (
            r" (the text ${ itself is written \${)"
            if "nterpolation" in type(error).__name__ + str(error)
            else ""
        )
        raise ConfigError(f"{key}{first_line(error)}{hint}") from error
    except RecursionError as error:
        raise ConfigError("a value refers to itself through ${...}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def from_dict(schema: type[T], values: dict) -> T:
    """Builds a configuration from what :func:`to_dict` made of it (from a checkpoint, say): types
    are checked, values are not.

    Raises:
      ConfigError: unknown key or wrong type.
    """
    check_keys(schema, values, "saved conf")
    return _to_object(_merge(schema, [Layer(literals(values), "saved conf")]))


def to_dict(config: Any) -> dict:
    """The configuration as plain containers, as it is saved in checkpoints and stamps."""
    return dataclasses.asdict(config)


def save(config: Any, path: Path) -> None:
    """Writes the resolved configuration as YAML that :func:`load` reads back."""
    write_text_atomic(path, OmegaConf.to_yaml(OmegaConf.create(literals(to_dict(config)))))


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
    """The values by their dotted keys: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
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


def _file_layers(
    schema: type, path: str | Path | None, find_base: FindBase, above: tuple[Path, ...] = ()
) -> list[Layer]:
    if path is None:
        return []
    path = Path(path)
    if path.resolve() in [p.resolve() for p in above]:
        raise ConfigError(f"{path} is its own base: {' -> '.join(p.name for p in (*above, path))}")
    if not path.is_file():
        raise missing_conf(path, [path])
    try:
        values = read_file(path, schema)
    except ValueProblem as error:
        message = str(error)
        raise ConfigError(f"{path}{' ' if message.startswith('is ') else ': '}{message}") from error
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror or error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds {'a list' if isinstance(values, list) else 'one value'} where a "
            "mapping of keys is expected"
        )
    base = values.pop("base", None)
    if not isinstance(base, str | None) or base and not base.isprintable():
        raise ConfigError(f"{path}: base is {base!r}; it must be the name of one conf")
    below = _file_layers(schema, find_base(base, path), find_base, (*above, path)) if base else []
    check_keys(schema, values, str(path))
    return [*below, Layer(values, str(path), path)]


def _override_layer(schema: type, text: str) -> Layer:
    """``key.sub=value`` as a layer."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"override {text!r} is not of the form key=value")
    try:
        values = read_value(value, key_type(schema, key))
    except ValueProblem as error:
        message = str(error)
        raise ConfigError(
            f"override {text!r} can not be read: "
            f"{'it ' if message.startswith('is ') else ''}{message}"
        ) from error
    for part in reversed(key.split(".")):
        values = {part: values}
    check_keys(schema, values, f"override {text!r}")
    return Layer(values, f"override {text!r}")


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _require_few_interpolations(layers: list[Layer]) -> None:
    """Refuses values that refer to each other so often that they would fill the memory: three
    values of a thousand references each make a text of gigabytes.

    Raises:
      ConfigError: there are too many, or one stands beside a very long text.
    """
    texts = [text for layer in layers for text in _texts(layer.values)]
    count = sum(len(_INTERPOLATION.findall(text)) for text in texts)
    if count > MOST_INTERPOLATIONS or count and max(map(len, texts)) > LONGEST_TEXT:
        raise ConfigError(
            f"{layers[-1].source}: with its bases it has {count} references ${{...}}; at most "
            f"{MOST_INTERPOLATIONS}, in texts of at most {LONGEST_TEXT} characters, are read"
        )


def _merge(schema: type, layers: Iterable[Layer]) -> DictConfig:
    tree, layers = OmegaConf.structured(schema), list(layers)
    _require_few_interpolations(layers)
    try:
        merged = OmegaConf.merge(tree, *(OmegaConf.create(layer.values) for layer in layers))
        return cast(DictConfig, merged)
    except (OmegaConfBaseException, TypeError, ValueError):
        for layer in layers:  # one by one: whose value is it?
            try:
                tree = OmegaConf.merge(tree, OmegaConf.create(layer.values))
            except (OmegaConfBaseException, TypeError, ValueError) as error:
                key = f"{name}: " if (name := getattr(error, "full_key", None)) else ""
                raise ConfigError(f"{layer.source}: {key}{first_line(error)}") from error
        raise
