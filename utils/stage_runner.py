"""Stages that can be repeated: a finished one is skipped, a stale one redone, a missing input
named.

A stage that has finished leaves a stamp, a JSON file with the conf values it depended on, the run
of every earlier stage it read, and digests of what it wrote.  It is up to date while all of them
are unchanged.  One that only mends what was damaged, and writes the same files again, counts as the
same run, so that nothing after it is redone.
"""

import logging
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import read_json, write_json_atomic
from utils.stage_table import Stage, StageTable
from utils.written_files import damage, describe_files, is_written, move_aside, same_files


class StageRunner:
    """Decides whether a stage runs, and stamps it when it has.

    Args:
      stages: all stages of the recipe by number.
      config: the resolved configuration.
      folders: ``{"data": Path, "exp": Path}``.
      arguments: what the user gave as ``--conf`` and the overrides, for the commands that messages
        name.
    """

    def __init__(
        self, stages: StageTable, config: Any, folders: dict[str, Path], arguments: Sequence[str]
    ):
        self.stages, self.config, self.folders = stages, config, folders
        self.arguments = list(arguments)

    def stamp_path(self, stage: Stage) -> Path:
        """The file that tells that the stage has finished."""
        return self.folders[stage.folder] / ".stamps" / f"stage-{stage.number}.json"

    def _content(self, stage: Stage) -> dict:
        path = self.stamp_path(stage)
        if not path.is_file():
            return {}
        try:
            content = read_json(path)
        except ValueError:
            content = None
        return content if isinstance(content, dict) else {}  # damaged: the stage has to run again

    def stamp(self, stage: Stage) -> dict | None:
        """The stamp that the stage left when it finished; None: it has not, or has begun again
        since."""
        content = self._content(stage)
        parts = {"run": str, "conf": dict, "after": dict}
        whole = all(isinstance(content.get(name), kind) for name, kind in parts.items())
        return content if whole and is_written(content.get("files", {})) else None

    def forced(self, numbers: Iterable[int]) -> list[str]:
        """The marks of the times that stages were redone by ``--force``: their results then count
        as new, whatever their conf."""
        return [
            mark for number in numbers if (mark := self._content(self.stages[number]).get("forced"))
        ]

    def command(self, number: int) -> str:
        """The command line that runs one stage."""
        return shlex.join(
            [
                "./run.sh",
                "--stage",
                str(number),
                "--stop-stage",
                str(number),
                "--conf",
                *self.arguments,
            ]
        )

    def stale_reasons(self, stage: Stage) -> list[str]:
        """Says why the stage's result is missing or no longer what this conf asks for; empty when
        it is up to date."""
        stamp = self.stamp(stage)
        if stamp is None:
            return ["it has not finished yet"]
        reasons = stage.changes(stamp["conf"], self.config)
        for number in stage.after:
            before = self.stamp(self.stages[number])
            if before is not None and before["run"] != stamp["after"].get(str(number)):
                reasons.append(f"stage {number} has run again since")
        folder = self.folders[stage.folder]
        reasons += [
            f"{folder / output} is missing"
            for output in stage.outputs
            if not (folder / output).exists()
        ]
        return list(dict.fromkeys([*reasons, *self._damage(stage).values()]))

    def _damage(self, stage: Stage) -> dict[str, str]:
        """What has become of the files of a finished stage, in words, by path; stamps of earlier
        versions do not name any."""
        stamp = self.stamp(stage) or {}
        return damage(self.folders[stage.folder], stamp.get("files", {}))

    def require_inputs(self, stage: Stage) -> None:
        """Checks that the stages before have finished.

        Raises:
          UserError: one has not; it names the earliest that must run first.
        """
        for number in sorted(stage.after):
            before = self.stages[number]
            self.require_inputs(before)
            reasons = self.stale_reasons(before)
            if reasons:
                raise UserError(
                    f"stage {stage.number} ({stage.title}) reads what stage {number} "
                    f"({before.title}) makes, and that is "
                    f"not ready: {'; '.join(reasons[:3])}.\nRun it first: {self.command(number)}"
                )

    def wanted(self, number: int, force: bool = False) -> bool:
        """Whether a stage has anything to do; logs why not.

        Raises:
          UserError: what it reads is not ready.
        """
        stage = self.stages[number]
        if reason := stage.idle(self.config):
            logging.info("stage %d (%s): nothing to do: %s", number, stage.title, reason)
            return False
        if stage.needs_inputs(self.config):
            self.require_inputs(stage)
        if force or stage.always(self.config) or self.stale_reasons(stage):
            return True
        logging.info(
            "stage %d (%s): finished already, skipped (--force redoes it)", number, stage.title
        )
        return False

    def run(self, number: int, action: Callable[[], None], force: bool = False) -> bool:
        """Runs a stage unless it is up to date, and stamps it.

        Args:
          action: does the work of the stage.
        Returns:
          Whether it ran.
        Raises:
          UserError: what it reads is not ready.
        """
        if not self.wanted(number, force):
            return False
        stage = self.stages[number]
        reasons, title = self.stale_reasons(stage), f"stage {number} ({stage.title})"
        before, damaged = self.stamp(stage), self._damage(stage)
        redone = before is not None
        if redone and not stage.always(self.config):
            logging.info(
                "%s: runs again: %s",
                title,
                "--force" if force and not reasons else "; ".join(reasons[:3]),
            )
        names = {name: str(path) for name, path in self.folders.items()}
        logging.info(
            "%s: reads %s; writes %s",
            title,
            stage.reads.format(**names),
            stage.writes.format(**names),
        )
        stamps = {str(n): self.stamp(self.stages[n]) for n in stage.after}
        after = {n: stamp["run"] for n, stamp in stamps.items() if stamp is not None}
        forced = uuid.uuid4().hex[:12] if force and redone else self._content(stage).get("forced")
        mark = {"forced": forced} if forced else {}
        write_json_atomic(
            self.stamp_path(stage), mark | {"begun": time.strftime("%Y-%m-%d %H:%M:%S")}
        )
        self._move_damaged(stage, damaged)
        begin = time.monotonic()
        action()
        folder = self.folders[stage.folder]
        written = describe_files(folder, (*stage.outputs, *stage.beside))
        values = stage.values(self.config)
        mended = (
            before is not None
            and not force
            and bool(written)
            and (before["conf"], before["after"]) == (values, after)
            and same_files(before.get("files", {}), written)
        )
        stamp = {
            "run": before["run"] if before and mended else uuid.uuid4().hex[:12],
            "conf": values,
            "after": after,
            "files": written,
            "seconds": round(time.monotonic() - begin, 1),
            "command": shlex.join(sys.argv),
        } | mark
        write_json_atomic(self.stamp_path(stage), stamp)
        self._note_rewritten(stage)
        logging.info("%s: done in %.0f s", title, stamp["seconds"])
        return True

    def _move_damaged(self, stage: Stage, damaged: dict[str, str]) -> None:
        """Moves the damaged files of a stage aside, so that it takes none of them for its own."""
        folder = self.folders[stage.folder]
        names = [name for name in damaged if name.split("/")[0] not in stage.judged]
        if target := move_aside(folder, names):
            logging.warning("%s: moved to %s", "; ".join(damaged[name] for name in names), target)

    def _note_rewritten(self, writer: Stage) -> None:
        """Notes in the stamps of other stages which of their files a stage has written again."""
        again = describe_files(self.folders[writer.folder], writer.rewrites)
        for stage in self.stages.values():
            stamp = self.stamp(stage)
            if stage is writer or stage.folder != writer.folder or stamp is None:
                continue
            files = stamp.get("files", {})
            if new := {name: entry for name, entry in again.items() if name in files}:
                write_json_atomic(self.stamp_path(stage), stamp | {"files": files | new})
