"""Runs the stages for run.sh: decides which have anything to do, holds the folders' locks, and
starts each in a process of its own.

It imports neither torch nor lhotse before a stage has something to do, so that a run of which
everything has finished ends at once.  Stages are forks of this process: what one of them needs is
imported here, once for all that come after it.
"""

import argparse
import importlib
import logging
import multiprocessing
import os
import shlex
import signal
import sys
from pathlib import Path

from todm.config.ineffective import ineffective
from todm.config.keys import Config
from todm.config.load import explicit_keys, load
from todm.recipe.command_line import setup_logging
from todm.recipe.stages import folder_locks, lock_for_stage, runner
from todm.recipe.summary import closing
from utils.errors import UserError
from utils.files import describe as describe_error
from utils.locks import held_by_parent
from utils.processes import in_fresh_processes, run_fork
from utils.stage_runner import StageRunner

REPORT = 9  # the stage that ends with the table
DRY_RUN = "todm.tables.dry_run"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses what run.sh has looked through already: its options and overrides, and the script of
    every stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--script",
        action="append",
        default=[],
        metavar="N=MODULE",
        help="what runs stage N; once for every stage",
    )
    parser.add_argument("--stage", type=int, default=0)
    parser.add_argument("--stop-stage", type=int, default=9)
    parser.add_argument("--conf", default="conf/mini.yaml")
    parser.add_argument("--world-size", type=int)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser.parse_args(arguments)


class Recipe:
    """One call of run.sh.

    Attributes:
      ran: the stages that had something to do.
    """

    def __init__(self, arguments: argparse.Namespace, config: Config):
        self.arguments, self.config = arguments, config
        self.user_arguments = [arguments.conf, *arguments.overrides]
        self.scripts = {
            int(number): module
            for number, _, module in (text.partition("=") for text in arguments.script)
        }
        self.locks = folder_locks(config, os.environ.get("TODM_COMMAND", "./run.sh"))
        self.ran: list[int] = []

    @property
    def runner(self) -> StageRunner:
        """A stage runner that sees the stamps as they are now."""
        return runner(self.config, self.user_arguments)

    def warn(self) -> None:
        """Warns of keys that were set and change nothing."""
        keys = explicit_keys(self.arguments.conf, self.arguments.overrides)
        for sentence in ineffective(self.config, keys):
            logging.warning("%s", sentence)

    def close(self) -> None:
        """Prints what there is now and what one may want next, and the table again where its stage
        had nothing to do."""
        report = self.config.exp_dir / "report.md"
        if self.arguments.stop_stage >= REPORT:
            if REPORT not in self.ran and report.is_file() and self.arguments.stage <= REPORT:
                print(f"\n{report.read_text(encoding='utf-8')}", flush=True)
            print(closing(self.config, shlex.join(self.user_arguments)), flush=True)

    def run(self) -> int:
        """Runs every stage that was asked for, in order.

        Returns:
          The exit status of the first stage that fails, else 0.
        """
        for number in sorted(self.scripts):
            if not self.arguments.stage <= number <= self.arguments.stop_stage:
                continue
            if not self.runner.wanted(number, self.arguments.force):
                continue
            lock_for_stage(number, self.locks)
            if status := self.run_stage(number):
                return status
            self.ran.append(number)
        return 0

    def run_stage(self, number: int) -> int:
        """Runs the script of one stage, stage 4 through torchrun where it has several processes.

        Returns:
          Its exit status.
        """
        held = [lock for lock in self.locks if lock.descriptor is not None]
        environment = held_by_parent(held)
        force = ["--force"] if self.arguments.force else []
        arguments = ["--conf", self.arguments.conf, *force, *self.arguments.overrides]
        module = self.scripts[number]
        processes = (self.arguments.world_size or self.default_processes()) if number == 4 else 1
        if processes > 1:
            size = ["--nproc-per-node", str(processes)]
            arguments = ["--standalone", *size, "-m", "utils.entry", module, *arguments]
            module = "utils.torchrun"
            threads = str(max(1, (os.cpu_count() or 1) // processes))
            environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", threads)
        program = importlib.import_module(module)

        def run() -> None:
            sys.argv = [str(program.__file__), *arguments]
            program.main()

        return run_fork(run, environment)

    def default_processes(self) -> int:
        """The number of processes of stage 4 when the user names none, asked in a process of its
        own, because what has asked for GPUs can not be forked any more."""
        processes = importlib.import_module("todm.recipe.processes")
        fork = multiprocessing.get_context("fork")
        try:
            return next(in_fresh_processes(processes.default_processes, [self.config], 1, fork))
        except RuntimeError:  # a signal to the whole group has ended it
            sys.exit(128 + signal.SIGTERM)


def become_dry_run(arguments: argparse.Namespace) -> None:
    """Goes on as the program that prints what the conf would train."""
    size = ["--world-size", str(arguments.world_size)] if arguments.world_size else []
    options = ["--conf", arguments.conf, *size, *arguments.overrides]
    os.execv(sys.executable, [sys.executable, "-m", DRY_RUN, *options])


def main() -> None:
    """Runs the stages, or the dry run; the exit status is that of the first stage that fails."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of utils.entry
        signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = parse_arguments()
    setup_logging()
    try:
        config = load(arguments.conf, arguments.overrides)
        if arguments.dry_run:
            become_dry_run(arguments)
        recipe = Recipe(arguments, config)
        recipe.warn()
        status = recipe.run()
        if status == 0:
            recipe.close()
        sys.exit(status)
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"\nERROR: {describe_error(error, Path())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
