"""Values as people write them, in YAML files and as ``key=value``, read with the types of a schema.

YAML alone guesses types: ``on`` is true, ``010`` is 8, ``1:30`` is 90, ``#`` begins a comment.  A
key of a schema has a type, so nothing is guessed: text is taken as it stands, and a number as
decimal digits.
"""

import dataclasses
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

NULL = ("null", "Null", "NULL")
LONGEST_CONF = 1 << 18  # characters: reading a megabyte of YAML takes half a minute
MOST_NODES = 50_000  # keys and values that a conf may have: the recipe's have some hundred
_INTEGER = re.compile(r"[-+]?\d[\d_]*")
_STR, _INT, _FLOAT = ("tag:yaml.org,2002:" + name for name in ("str", "int", "float"))


class ValueProblem(ValueError):
    """A value that can not be read; the message says why and begins with the key or line where it
    is known."""


def read_file(path: Path, schema: type) -> Any:
    """Reads a YAML file as plain containers; interpolations (``${key}``) stay as they are.

    Raises:
      ValueProblem: not YAML, or a key that is given twice.
      OSError: the file can not be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueProblem(f"is not valid YAML: it is not in UTF-8 ({error})") from error
    value = _read(text, schema)
    return {} if value is None and not text.strip().startswith(("null", "~")) else value


def read_value(text: str, kind: Any) -> Any:
    """Reads the value of ``key=value`` for a key of type ``kind``.

    Text is literal, but for one pair of quotes around all of it; empty and ``null`` are None where
    a key may be None. A list is YAML's ``[a, b]``; a list of texts may be one text alone.

    Raises:
      ValueProblem: it is not YAML, or several items without brackets.
    """
    kind, optional = _without_none(kind)
    stripped = text.strip()
    if _is_text(kind):
        return None if optional and (not text or stripped in NULL) else _unquoted(text)
    if (
        get_origin(kind) is list
        and _is_text(get_args(kind)[0])
        and not stripped.startswith(("[", "- ", "${"))
    ):
        if not stripped:
            raise ValueProblem("a list is expected: [a, b], or [] for an empty one")
        single = _unquoted(stripped)
        if "," in single and single == stripped:
            raise ValueProblem(
                f"a list is written in brackets: [{single}]; one item with a comma in quotes: "
                f"['{single}']"
            )
        return [single]
    return _read(stripped, kind)


def key_type(schema: type, key: str) -> Any:
    """The type of a dotted key; None for a key that the schema lacks."""
    kind: Any = schema
    for part in key.split("."):
        kind = _member(kind, part)
        if kind is None:
            return None
    return kind


def literal(text: str) -> str:
    """The text that OmegaConf reads as ``text``: a ``${`` in it would begin an interpolation."""
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", text)


def literals(value: Any) -> Any:
    """:func:`literal` of all texts in plain containers."""
    if isinstance(value, dict):
        return {k: literals(v) for k, v in value.items()}
    if isinstance(value, list):
        return [literals(v) for v in value]
    return literal(value) if isinstance(value, str) else value


def _read(text: str, kind: Any) -> Any:
    if len(text) > LONGEST_CONF:
        raise ValueProblem(f"is longer than {LONGEST_CONF:,} characters, which no conf is")
    loader = None
    try:
        loader = yaml.SafeLoader(text)  # raises for control characters
        node = loader.get_single_node()
        if node is None:
            return None
        _require_bounded(node)
        return loader.construct_document(_settle(node, kind, ""))
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = (
            f" in line {place.line + 1}, column {place.column + 1}"
            if place and "\n" in text.strip()
            else ""
        )
        tab = "; indent with spaces, not with tabs" if "\\t" in str(error) else ""
        raise ValueProblem(
            f"is not valid YAML{where}: {getattr(error, 'problem', None) or error}{tab}"
        ) from error
    except RecursionError as error:
        raise ValueProblem("is not valid YAML: it is nested too deeply") from error
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, ValueProblem):
            raise
        raise ValueProblem(f"is not valid YAML: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _require_bounded(node: yaml.Node) -> None:
    """Refuses YAML whose aliases make more of it than any conf is: ten lines of lists of lists can
    have billions of items.

    Raises:
      ValueProblem: it has too many items, or holds itself.
    """
    sizes: dict[int, int] = {}
    waiting = [node]
    inside: set[int] = set()  # nodes whose items are being counted
    while waiting:
        here = waiting[-1]
        items = here.value if isinstance(here, yaml.CollectionNode) else []
        children = [n for item in items for n in (item if isinstance(item, tuple) else (item,))]
        if id(here) not in inside:
            inside.add(id(here))
            unknown = [n for n in children if id(n) not in sizes]
            if any(id(n) in inside for n in unknown):
                raise ValueProblem("is not valid YAML: it holds itself")
            waiting += unknown
            continue
        waiting.pop()
        inside.discard(id(here))
        sizes[id(here)] = 1 + sum(sizes[id(n)] for n in children)
        if sizes[id(here)] > MOST_NODES:
            raise ValueProblem(
                f"is not valid YAML: with its aliases it has more than {MOST_NODES:,} items"
            )


def _settle(node: yaml.Node, kind: Any, key: str) -> yaml.Node:
    """The node with the types of its keys, before YAML guesses them; one text for a list of texts
    becomes a list."""
    kind, _ = _without_none(kind)
    item = get_args(kind)[0] if get_origin(kind) is list else None
    if isinstance(node, yaml.MappingNode):
        node.value = _settle_mapping(node, kind, key)
    elif isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            if _is_text(item) and not isinstance(child, yaml.ScalarNode):
                raise ValueProblem(
                    f"{key or 'the list'}: item {i + 1} (line {child.start_mark.line + 1}) is no "
                    "text; put it in quotes"
                )
        node.value = [_settle(child, item, f"{key}[{i}]") for i, child in enumerate(node.value)]
    elif isinstance(node, yaml.ScalarNode) and _is_plain(node):
        if _is_text(kind) or _is_text(item):
            node.tag = _STR
        elif kind is int:
            node.tag, node.value = _integer(node.value)
        elif kind is float:
            node.tag, node.value = _number(node.value)
    if _is_text(item) and node.tag == _STR and not node.value.startswith("${"):
        return yaml.SequenceNode("tag:yaml.org,2002:seq", [node], node.start_mark, node.end_mark)
    return node


def _settle_mapping(
    node: yaml.MappingNode, kind: Any, key: str
) -> list[tuple[yaml.Node, yaml.Node]]:
    lines: dict[str, int] = {}
    pairs = []
    for name, child in node.value:
        if not isinstance(name, yaml.ScalarNode) or name.tag == "tag:yaml.org,2002:merge":
            pairs.append((name, _settle(child, kind, key)))
            continue
        if _is_plain(name):
            name.tag = _STR
        full, line = f"{key}.{name.value}" if key else name.value, name.start_mark.line + 1
        if name.value in lines:
            raise ValueProblem(
                f"{full} is given twice, in lines {lines[name.value]} and {line}; keep one"
            )
        lines[name.value] = line
        pairs.append((name, _settle(child, _member(kind, name.value), full)))
    return pairs


def _is_plain(node: yaml.ScalarNode) -> bool:
    """Whether YAML has guessed the type: no quotes, no tag of its own, and not null."""
    return (
        node.style is None
        and node.tag.startswith("tag:yaml.org")
        and node.tag != "tag:yaml.org,2002:null"
    )


def _integer(text: str) -> tuple[str, str]:
    if _INTEGER.fullmatch(text):
        return _INT, str(int(text.replace("_", "")))
    try:
        number = float(text.replace("_", ""))
        return (_INT, str(int(number))) if number == int(number) else (_STR, text)
    except (ValueError, OverflowError):  # no number, or not finite
        return _STR, text


def _number(text: str) -> tuple[str, str]:
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        return (_FLOAT, text) if text.lower().lstrip("+-") in (".inf", ".nan") else (_STR, text)
    return _FLOAT, {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(number), f"{number!r}")


def _member(kind: Any, name: str) -> Any:
    kind, _ = _without_none(kind)
    if dataclasses.is_dataclass(kind):
        return next((field.type for field in dataclasses.fields(kind) if field.name == name), None)
    return get_args(kind)[1] if get_origin(kind) is dict else None


def _without_none(kind: Any) -> tuple[Any, bool]:
    """The type without None, and whether it allowed None: ``Optional[X]`` -> X, True."""
    if get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
        return next(k for k in get_args(kind) if k is not NoneType), True
    return kind, False


def _is_text(kind: Any) -> bool:
    kind, _ = _without_none(kind)
    return kind is str or get_origin(kind) is Literal


def _unquoted(text: str) -> str:
    quoted = re.fullmatch(r"""\s*(['"])((?:(?!\1).)*)\1\s*""", text, re.DOTALL)
    return quoted[2] if quoted else text
