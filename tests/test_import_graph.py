"""No module and no folder is in a circle of imports, imports inside functions included."""

import pytest

from tests.import_graph import (
    circles,
    find_modules,
    folder_graph,
    import_graph,
    imported_names,
    levels,
)


@pytest.fixture(scope="module")
def graph():
    return import_graph(find_modules())


def test_no_module_is_in_a_circle(graph):
    assert len(graph) > 100 and "utils.errors" in graph["utils.conf"]
    assert circles(graph) == []


def test_no_folder_is_in_a_circle(graph):
    folders = folder_graph(graph)
    assert {"todm.config", "todm.subnet", "utils", "local"} <= folders.keys()
    assert circles(folders) == []


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert circles(graph) == [["a", "b", "c"]]
    with pytest.raises(ValueError, match="circle"):
        levels(graph)
    assert levels({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == [["b"], ["a"], ["c"]]


def test_imports_inside_functions_count():
    source = "def f():\n    from a.b import c\n    import d.e\n"
    assert imported_names(source) == {"a.b", "a.b.c", "d.e"}


def test_a_module_of_a_package_is_imported_and_not_the_package(tmp_path):
    for name, text in (("__init__", ""), ("one", ""), ("two", "from pack import one\n")):
        (tmp_path / f"{name}.py").write_text(text)
    modules = find_modules({"pack": tmp_path})
    assert import_graph(modules) == {"pack": set(), "pack.one": set(), "pack.two": {"pack.one"}}
