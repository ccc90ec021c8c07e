"""Stages that can be repeated: a finished one is skipped, a stale one redone, a missing input named.

A stage that has finished leaves a stamp, a JSON file with the conf values it depended on and the run of every
earlier stage it read.  It is up to date while both are unchanged and what it wrote is still there.
"""

import logging
import shlex
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import config as configuration
from utils.files import read_json, write_json_atomic


class StageError(RuntimeError):
    """A stage can not run; the message says what to do."""


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
      keys: the conf keys, or groups of keys, that its result depends on.
      after: numbers of the stages whose result it reads.
      reads, writes: for people, with ``{data}`` and ``{exp}`` for the two folders.
      folder: ``data`` or ``exp``, where its stamp lies.
      outputs: paths below its folder that must exist for it to be finished.
      passive_keys: keys below ``keys`` that change nothing about the result (speed, logging).
      always: it is never skipped, because it finds out itself what is left to do.
      more: values beside those of the keys, where they count only in some cases.
    """

    number: int
    title: str
    module: str
    keys: tuple[str, ...]
    after: tuple[int, ...]
    reads: str
    writes: str
    folder: str
    outputs: tuple[str, ...]
    passive_keys: tuple[str, ...] = ()
    always: bool = False
    more: Callable[[Any], dict[str, Any]] = lambda config: {}

    def values(self, config: Any) -> dict[str, Any]:
        """The conf values that its result depends on."""
        passive = configuration.select(config, self.passive_keys)
        return {k: v for k, v in configuration.select(config, self.keys).items() if k not in passive} | self.more(config)


class StageRunner:
    """Decides whether a stage runs, and stamps it when it has.

    Args:
      stages: all stages of the recipe by number.
      config: the resolved configuration.
      folders: ``{"data": Path, "exp": Path}``.
      conf_argument: what the user gave as ``--conf`` and the overrides, for the commands that messages name.
    """

    def __init__(self, stages: dict[int, Stage], config: Any, folders: dict[str, Path], conf_argument: str):
        self.stages, self.config, self.folders, self.conf_argument = stages, config, folders, conf_argument

    def stamp_path(self, stage: Stage) -> Path:
        return self.folders[stage.folder] / ".stamps" / f"stage-{stage.number}.json"

    def stamp(self, stage: Stage) -> dict | None:
        path = self.stamp_path(stage)
        return read_json(path) if path.is_file() else None

    def command(self, number: int) -> str:
        """The command line that runs one stage."""
        return f"./run.sh --stage {number} --stop-stage {number} --conf {self.conf_argument}"

    def stale_reasons(self, stage: Stage) -> list[str]:
        """Why the stage's result is missing or no longer what this conf asks for; empty when it is up to date."""
        stamp = self.stamp(stage)
        if stamp is None:
            return ["it has not finished yet"]
        defaults = type(self.config)()  # a key that is newer than the stamp had its default then
        before = configuration.flatten(configuration.to_dict(defaults)) | stage.values(defaults) | stamp["conf"]
        reasons = [f"{key} was {before.get(key)!r}, is {value!r}" for key, value in stage.values(self.config).items() if before.get(key) != value]
        for number in stage.after:
            before = self.stamp(self.stages[number])
            if before is not None and before["run"] != stamp["after"].get(str(number)):
                reasons.append(f"stage {number} has run again since")
        folder = self.folders[stage.folder]
        reasons += [f"{folder / output} is missing" for output in stage.outputs if not (folder / output).exists()]
        return reasons

    def require_inputs(self, stage: Stage) -> None:
        """Raise StageError naming the earliest stage that must run first."""
        for number in sorted(stage.after):
            before = self.stages[number]
            self.require_inputs(before)
            reasons = self.stale_reasons(before)
            if reasons:
                raise StageError(
                    f"stage {stage.number} ({stage.title}) reads what stage {number} ({before.title}) makes, and that is "
                    f"not ready: {'; '.join(reasons[:3])}.\nRun it first: {self.command(number)}"
                )

    def run(self, number: int, action: Callable[[], None], force: bool = False) -> bool:
        """Run a stage unless it is up to date. Returns whether it ran."""
        stage = self.stages[number]
        self.require_inputs(stage)
        reasons = self.stale_reasons(stage)
        title = f"stage {number} ({stage.title})"
        if not reasons and not force and not stage.always:
            logging.info("%s: finished already, skipped (--force redoes it)", title)
            return False
        if self.stamp(stage) is not None and not stage.always:
            logging.info("%s: runs again: %s", title, "--force" if force and not reasons else "; ".join(reasons[:3]))
        names = {name: str(path) for name, path in self.folders.items()}
        logging.info("%s: reads %s; writes %s", title, stage.reads.format(**names), stage.writes.format(**names))
        after = {str(n): self.stamp(self.stages[n])["run"] for n in stage.after}
        self.stamp_path(stage).unlink(missing_ok=True)
        begin = time.monotonic()
        action()
        stamp = {"run": uuid.uuid4().hex[:12], "conf": stage.values(self.config), "after": after,
                 "seconds": round(time.monotonic() - begin, 1), "command": shlex.join(sys.argv)}
        write_json_atomic(self.stamp_path(stage), stamp)
        logging.info("%s: done in %.0f s", title, stamp["seconds"])
        return True
