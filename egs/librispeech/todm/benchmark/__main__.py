"""Measures the speed and the memory of this checkout, or of it and another revision in turns.

    python -m todm.benchmark
    python -m todm.benchmark --compare HEAD~1 --confs mini --only 'encoder*' update

The figures are written as JSON and printed as a table; docs/benchmark.md says how to read them.
"""

import argparse
import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from todm.benchmark.estimate import expected_seconds
from todm.benchmark.processes import WorkerDied, WorkerProcess
from todm.benchmark.report import NEW, OLD, Report
from todm.benchmark.revisions import Revision, checked_out
from todm.benchmark.runner import ConfRun, Limits
from todm.benchmark.settings import Settings
from todm.benchmark.workloads import WORKLOADS, Workload, chosen_workloads
from todm.config.load import load
from todm.config.paths import ROOT, find_conf
from utils.errors import UserError
from utils.files import write_json_atomic
from utils.processes import handle_stops
from utils.progress import progress

CONFS = "mini", "librispeech-100h", "librispeech-960h"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m todm.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--confs", nargs="+", default=list(CONFS), metavar="CONF", help="names or paths of confs")
    add(
        "--only", nargs="+", default=[], metavar="NAME", help="workloads, also as patterns: 'load*'"
    )
    add("--list", action="store_true", help="list the workloads and end")
    add("--compare", metavar="REV", help="another revision of this repository, measured in turns")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the confs of this checkout")
    add("--set-old", nargs="+", default=[], metavar="KEY=VALUE", help="of the other revision's")
    add("--rounds", type=_positive, default=9, help="at most, of every workload (9)")
    add(
        "--seconds",
        type=float,
        default=6.0,
        help="that a workload's rounds may take with one conf, beyond its least rounds (6)",
    )
    add("--timeout", type=float, default=900.0, help="seconds for one measurement (900)")
    add("--threads", type=_positive, default=1, help="of torch and onnxruntime (1)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: training alone")
    add(
        "--out",
        type=Path,
        default=ROOT / "exp" / "benchmark.json",
        help="the JSON file (exp/benchmark.json in the repository)",
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def list_workloads() -> str:
    """The names and descriptions of all workloads."""
    return "\n".join(f"{w.name:20s} {w.description}" for w in WORKLOADS)


@contextlib.contextmanager
def revisions(options: argparse.Namespace) -> Iterator[dict[str, Revision]]:
    """Gives the revisions to measure by side."""
    with contextlib.ExitStack() as stack:
        sides = {NEW: Revision(ROOT, overrides=tuple(options.set))}
        if options.compare:
            old = checked_out(options.compare, tuple(options.set_old))
            sides[OLD] = stack.enter_context(old)
        elif options.set_old:
            raise UserError("--set-old is for the revision of --compare")
        yield sides


def make_settings(
    conf: str, sides: dict[str, Revision], options: argparse.Namespace, folder: Path
) -> dict[str, Settings]:
    """The settings of every side's workers; all read the data of this checkout.

    Raises:
      UserError: a conf or a value that can not work.
    """
    path = find_conf(conf)
    data = load(path, options.set).data.dir
    settings = {}
    for side, revision in sides.items():
        overrides = revision.overrides
        if side == OLD:
            overrides = (f"data.dir={ROOT / data}", *overrides)
        graphs = folder / "graphs" / side / path.stem
        settings[side] = Settings(
            str(revision.conf(path)), overrides, options.device, options.threads, str(graphs)
        )
    return settings


def facts(
    options: argparse.Namespace, sides: dict[str, Revision], settings: Settings, log: Path
) -> dict[str, Any]:
    """The origin of the figures: machine, versions, commits, command and settings.

    Raises:
      UserError: the worker process does not start.
    """
    os.environ.setdefault(
        "TODM_COMMAND", shlex.join(["python", "-m", "todm.benchmark", *sys.argv[1:]])
    )
    try:
        with WorkerProcess(sides[NEW], settings, log, False, options.timeout) as worker:
            answer = worker.ask("describe")
    except WorkerDied as error:
        answer = {"failed": str(error)}
    if "facts" not in answer:
        raise UserError(f"the worker process does not start: {answer['failed']}")
    return {
        **answer["facts"],
        "compared with": {"revision": options.compare, "commit": sides[OLD].commit}
        if options.compare
        else None,
        "overrides": {side: revision.overrides for side, revision in sides.items()},
        "threads": options.threads,
        "device": options.device,
        "clock": "wall" if options.device == "cuda" else "processor",
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("MALLOC_")},
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def run(options: argparse.Namespace) -> Report:
    """Measures, writes the JSON file and prints the table.

    Raises:
      UserError: a conf, a revision, a workload or a value that is not there or can not work.
    """
    workloads = chosen_workloads(options.only, options.device)
    limits = Limits(options.rounds, options.seconds, options.timeout)
    report, begin = Report(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="todm-benchmark-") as name:
        folder = Path(name)
        with revisions(options) as sides:
            settings = {conf: make_settings(conf, sides, options, folder) for conf in options.confs}
            first = settings[options.confs[0]][NEW]
            report.facts = facts(options, sides, first, folder / "describe.log")
            try:
                measure_all(workloads, sides, settings, limits, folder, report)
            finally:  # also what there is when it is interrupted
                report.facts["seconds"] = round(time.monotonic() - begin, 1)
                if report.rows or report.gaps:
                    write_json_atomic(options.out, report.as_dict())
    return report


def measure_all(
    workloads: Sequence[Workload],
    sides: dict[str, Revision],
    settings: dict[str, dict[str, Settings]],
    limits: Limits,
    folder: Path,
    report: Report,
) -> None:
    """Carries out the workloads with every conf, under a progress bar with the time left."""
    expected = {
        (conf, workload.name): expected_seconds(
            workload, load(of_sides[NEW].conf, of_sides[NEW].overrides).model, limits, len(sides)
        )
        for conf, of_sides in settings.items()
        for workload in workloads
    }
    bar = progress(
        total=sum(expected.values()),
        desc="benchmark",
        bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}, about {remaining} left{postfix}",
    )
    with bar:
        for conf, of_sides in settings.items():
            name = Path(of_sides[NEW].conf).stem
            with ConfRun(name, sides, of_sides, limits, folder, report) as conf_run:
                for workload in workloads:
                    bar.set_postfix_str(f"{name}, {workload.name}", refresh=sys.stderr.isatty())
                    conf_run.measure(workload)
                    # not beyond the end by a rounded digit
                    bar.update(min(expected[conf, workload.name], bar.total - bar.n))


def main() -> None:
    """Measures as the command line says. The exit status is 1 if this checkout failed in
    something."""
    options = parse()
    if options.list:
        print(list_workloads())
        return
    handle_stops(lambda number, frame: sys.exit(128 + number))
    try:
        report = run(options)
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"\n{report.table()}\n\n{options.out}", flush=True)
    if any(gap.failed and gap.side == NEW for gap in report.gaps):
        sys.exit(1)


if __name__ == "__main__":
    main()
