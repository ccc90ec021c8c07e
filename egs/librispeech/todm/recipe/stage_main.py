"""The entry point of every stage script: parses the command line, checks the inputs, runs the stage
and stamps it."""

import argparse
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from todm.config.keys import Config
from todm.config.load import load
from todm.recipe.command_line import parse_arguments, setup_logging
from todm.recipe.stages import STAGES, folder_locks, lock_for_stage, runner
from utils.errors import UserError
from utils.files import WRITE_ERRORS
from utils.files import describe as describe_error
from utils.interrupts import Stopped
from utils.processes import end_workers, handle_stops, signal_when_parent_dies
from utils.written_files import remove_unfinished

Action = Callable[[Config, argparse.Namespace], None]


def stage_main(number: int, action: Action, description: str | None) -> None:
    """Runs a stage from the command line. Mistakes of users, and what is wrong with the disk, end
    the process with a message and status 2.

    Args:
      action: does the work of the stage.
      description: the text of ``--help``.
    """
    arguments = parse_arguments(description)
    setup_logging()
    if "LOCAL_RANK" in os.environ:
        # ranks follow torchrun, which ends gently when run.sh is killed
        signal_when_parent_dies(signal.SIGKILL)
    folder = Path()
    try:
        handle_stops(_stop)
        config = load(arguments.conf, arguments.overrides)
        folder = config.data_dir if STAGES[number].folder == "data" else config.exp_dir
        _run(number, action, config, arguments)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        # a full disk, a missing permission; what names no file and is nothing of the kind is a
        # fault of ours
        if error.filename is None and error.errno not in WRITE_ERRORS:
            raise
        _fail(f"stage {number}: {describe_error(error, folder)}")
    except RuntimeError as error:
        if not _another_rank_has_ended(error):
            raise
        sys.exit(1)  # that process says why
    except KeyboardInterrupt as stop:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + getattr(stop, "signal", signal.SIGINT))


def _run(number: int, action: Action, config: Config, arguments: argparse.Namespace) -> None:
    """Runs the action where it has anything to do; the first rank alone locks and stamps."""
    stage_runner = runner(config, [arguments.conf, *arguments.overrides])
    if _rank() == 0:
        # held until the stage has ended
        locks = folder_locks(config, os.environ.get("TODM_COMMAND") or shlex.join(sys.argv))
        lock_for_stage(number, locks)
        # this process alone may write there now
        for path in remove_unfinished(stage_runner.folders[STAGES[number].folder]):
            logging.info("%s, which a killed process has left, is deleted", path)
        stage_runner.run(number, lambda: action(config, arguments), arguments.force)
        return
    stage = STAGES[number]
    if arguments.force or stage.always(config) or stage_runner.stale_reasons(stage):
        action(config, arguments)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _another_rank_has_ended(error: RuntimeError) -> bool:
    """Whether this rank fails only because it can reach another one no more."""
    words = ("gloo", "nccl", "connection")
    return _rank() > 0 and any(word in str(error).lower() for word in words)


def _fail(message: str) -> NoReturn:
    print(f"\nERROR: {message}", file=sys.stderr)
    sys.exit(2)


def _stop(number: int, frame: object) -> None:
    end_workers()
    raise Stopped(number)
