"""The graph of imports: its levels, its arrows and its circles.

    python -m tests.import_graph

Modules of todm, utils and local are counted; an import inside a function counts like any other.
The graph of folders has one node for each folder of todm, and one each for todm.subnet, utils and
local.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "todm": ROOT / "egs" / "librispeech" / "todm",
    "utils": ROOT / "utils",
    "local": ROOT / "local",
}
Graph = dict[str, set[str]]  # from a module to those that it imports


def find_modules(packages: dict[str, Path] = PACKAGES) -> dict[str, Path]:
    """The file of every module by its dotted name; packages have that of their ``__init__.py``."""
    found = {}
    for package, folder in packages.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(source: str) -> set[str]:
    """The dotted names that a file imports, of ``from a import b`` both ``a`` and ``a.b``.

    Relative imports are not looked at; the recipe has none.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def import_graph(modules: dict[str, Path]) -> Graph:
    """The imports of every module that are modules themselves.

    ``from package import module`` is an import of the module, not of its package.
    """
    graph: Graph = {}
    for module, path in modules.items():
        names = imported_names(path.read_text(encoding="utf-8")) & modules.keys()
        inner = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
        graph[module] = names - inner - {module}
    return graph


def folder_of(module: str) -> str:
    """The folder that a module lies in; todm.subnet is a folder of its own."""
    return ".".join(module.split(".")[:2]) if module.startswith("todm.") else module.split(".")[0]


def folder_graph(graph: Graph) -> Graph:
    """The imports of every folder from other folders."""
    folders: Graph = {}
    for module, targets in graph.items():
        folder = folder_of(module)
        folders.setdefault(folder, set()).update(map(folder_of, targets))
    return {folder: targets - {folder} for folder, targets in folders.items()}


def reachable(graph: Graph, start: str) -> set[str]:
    """The nodes that a node leads to, itself only where it is in a circle."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph[node]
    return found


def circles(graph: Graph) -> list[list[str]]:
    """The sets of nodes that import each other, each sorted."""
    ahead = {node: reachable(graph, node) for node in graph}
    groups = {
        tuple(sorted(other for other in ahead[node] if node in ahead[other]))
        for node in graph
        if node in ahead[node]
    }
    return [list(group) for group in sorted(groups)]


def levels(graph: Graph) -> list[list[str]]:
    """The nodes by level: level 0 imports none, and each other one only from levels below it.

    Raises:
      ValueError: the graph has a circle.
    """
    done: set[str] = set()
    result: list[list[str]] = []
    while len(done) < len(graph):
        level = sorted(node for node in graph if node not in done and graph[node] <= done)
        if not level:
            raise ValueError(f"the imports run in a circle: {circles(graph)}")
        done |= set(level)
        result.append(level)
    return result


def describe(title: str, graph: Graph) -> Iterable[str]:
    """The lines that tell of a graph."""
    found = circles(graph)
    arrows = sum(map(len, graph.values()))
    depth = f", {len(levels(graph))} levels" if not found else ""
    yield f"{title}: {len(graph)} nodes, {arrows} arrows{depth}, {len(found)} circles"
    for circle in found:
        yield f"  circle: {', '.join(circle)}"
    if not found:
        for number, level in enumerate(levels(graph)):
            yield f"  {number:2d}  {' '.join(level)}"


def main() -> None:
    """Prints the graph of folders, then that of modules."""
    graph = import_graph(find_modules())
    for line in (*describe("folders", folder_graph(graph)), *describe("modules", graph)):
        print(line)


if __name__ == "__main__":
    main()
