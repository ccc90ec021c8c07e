"""A worker process of the benchmark: it carries out workloads with the code of one revision.

It is started by its path, ``python worker.py SETTINGS``, with PYTHONPATH set to that revision.
Requests come as lines of JSON on standard input, and an answer to each goes out as a line on
standard output; whatever else is printed goes to standard error.
"""

import importlib
import importlib.util
import json
import os
import sys
import traceback
import types
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent


def adopt_benchmark() -> None:
    """Makes ``todm.benchmark`` the folder of this file, whatever revision ``todm`` itself is of: an
    older one has another benchmark or none, or is not called ``todm``."""
    sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() != FOLDER]
    if importlib.util.find_spec("todm") is None:
        package = types.ModuleType("todm")
        package.__path__ = []
        sys.modules["todm"] = package
    spec = importlib.util.spec_from_file_location(
        "todm.benchmark", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["todm.benchmark"] = module
    spec.loader.exec_module(module)


class Worker:
    """The workloads of this process by their programs; each is made when it is first asked for.

    Args:
      settings: as JSON.
    """

    def __init__(self, settings: str):
        self.settings = module("settings").Settings.from_json(settings)
        self.current: tuple[str, Any] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carries out a request: ``describe``, or ``warm_up`` or ``run`` of a program.

        Returns:
          The figures of a run, each as [value, wall], or the facts; or why there are none.
        """
        try:
            if request["action"] == "describe":
                return {"facts": module("adapter").describe_machine()}
            workload = self.workload(request["program"], request["arguments"])
            if request["action"] == "warm_up":
                getattr(workload, "warm_up", lambda: None)()
                return {"figures": {}}
            figures = workload.run()
            return {"figures": {name: [each.value, each.wall] for name, each in figures.items()}}
        except module("clock").Missing as error:
            return {"missing": str(error)}
        except Exception as error:
            traceback.print_exc()
            return {"failed": f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]}

    def workload(self, program: str, arguments: list[Any]) -> Any:
        """The workload of a program with its arguments. The one before it is closed."""
        key = json.dumps([program, arguments])
        if self.current is None or self.current[0] != key:
            self.close()
            where, _, name = program.partition(":")
            self.current = key, getattr(module(where), name)(self.settings, *arguments)
        return self.current[1]

    def close(self) -> None:
        """Closes the present workload, whose memory is then free."""
        if self.current is not None and hasattr(self.current[1], "close"):
            self.current[1].close()
        self.current = None


def module(name: str) -> Any:
    """A module of the benchmark, imported when it is first needed: some import torch, and some are
    for processes without it."""
    return importlib.import_module(f"todm.benchmark.{name}")


def main() -> None:
    """Answers requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    adopt_benchmark()
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
