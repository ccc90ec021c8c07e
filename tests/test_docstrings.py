"""Every public function, class and method has a docstring, and it begins with what the thing is or
does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

TODM = "egs/librispeech/todm"
CHECKED = ["utils", "local", TODM]
# A docstring with one of these in front leaves out what it is about ("Of all blocks.").
CLIPPED = re.compile(
    r"(Of|What|Why|How|Where|In|To|As|By|From|Likewise|That|Which|With|Without)\b(?!-)|"
    r"Whether (any|all|it|they|this) (is|are|has|have)\."
)


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions, classes and methods with their dotted names; not those inside functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{prefix}{child.name}.")


def complaints(source: str) -> list[str]:
    """The definitions of a file that lack a docstring or have a clipped one."""
    found = []
    for name, node in definitions(ast.parse(source)):
        text = ast.get_docstring(node)
        if text is None:
            found.append(f"{name} has no docstring")
        elif CLIPPED.match(text):
            found.append(f"{name} is described by {text.splitlines()[0]!r}, which has no subject")
    return found


@pytest.mark.parametrize("path", CHECKED)
def test_public_definitions_have_docstrings(path):
    place = ROOT / path
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    assert files
    found = [
        f"{file.relative_to(ROOT)}: {text}"
        for file in files
        for text in complaints(Path(file).read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_the_check_finds_what_it_looks_for():
    source = '''
class Net:
    """A net."""

    def size(self): ...

    def _hidden(self): ...


def cost():
    """Of all blocks."""


def fine():
    """The cost of all blocks."""
'''
    assert complaints(source) == [
        "Net.size has no docstring",
        "cost is described by 'Of all blocks.', which has no subject",
    ]
