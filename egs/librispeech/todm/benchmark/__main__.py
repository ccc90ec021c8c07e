"""Measures the speed and the memory of this checkout, or of it and another revision in turns.

    python -m todm.benchmark
    python -m todm.benchmark --compare HEAD~1 --confs mini --only 'encoder*' update

The figures are written as JSON and printed as a table; docs/benchmark.md says how to read them.
"""

import contextlib
import os
import shlex
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from todm.benchmark.estimate import expected_seconds
from todm.benchmark.options import parse
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


@contextlib.contextmanager
def revisions(options: Namespace) -> Iterator[dict[str, Revision]]:
    """Gives the revisions to measure by side.

    Raises:
      UserError: the other revision is not there.
    """
    with contextlib.ExitStack() as stack:
        sides = {NEW: Revision(ROOT, overrides=tuple(options.set))}
        if options.compare:
            old = checked_out(options.compare, tuple(options.set_old))
            sides[OLD] = stack.enter_context(old)
        elif options.set_old:
            raise UserError("--set-old is for the revision of --compare")
        yield sides


def make_settings(
    conf: str, sides: dict[str, Revision], options: Namespace, graphs: Path
) -> dict[str, Settings]:
    """The settings of every side's workers; all read the data of this checkout.

    Args:
      graphs: the folder for the exported encoders of this conf.
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
        settings[side] = Settings(
            conf=str(revision.conf(path)),
            overrides=overrides,
            device=options.device,
            threads=options.threads,
            graphs=str(graphs / side),
        )
    return settings


def facts(
    options: Namespace, sides: dict[str, Revision], settings: Settings, log: Path
) -> dict[str, Any]:
    """The origin of the figures: machine, versions, commits, command and settings.

    Raises:
      UserError: the worker process does not start.
    """
    command = shlex.join(["python", "-m", "todm.benchmark", *sys.argv[1:]])
    os.environ.setdefault("TODM_COMMAND", command)
    try:
        with WorkerProcess(sides[NEW], settings, log, False, options.timeout) as worker:
            answer = worker.ask("describe")
    except WorkerDied as error:
        answer = {"failed": str(error)}
    if "facts" not in answer:
        raise UserError(f"the worker process does not start: {answer['failed']}")
    compared = {"revision": options.compare, "commit": sides[OLD].commit} if OLD in sides else None
    return {
        **answer["facts"],
        "compared with": compared,
        "overrides": {side: revision.overrides for side, revision in sides.items()},
        "threads": options.threads,
        "device": options.device,
        "clock": "wall" if options.device == "cuda" else "processor",
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("MALLOC_")},
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def run(options: Namespace) -> Report:
    """Measures and writes the JSON file, also with what there is when a signal stops it.

    Raises:
      UserError: a conf, a revision, a workload or a value that is not there or can not work.
    """
    workloads = chosen_workloads(options.only, options.device)
    if options.out.is_dir():
        raise UserError(f"--out {options.out} is a folder; it must be the name of a file")
    limits = Limits(options.rounds, options.seconds, options.timeout)
    report, begin = Report(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="todm-benchmark-") as name, revisions(options) as sides:
        folder = Path(name)
        settings = [
            make_settings(conf, sides, options, folder / f"graphs-{number}")
            for number, conf in enumerate(options.confs)
        ]
        report.facts = facts(options, sides, settings[0][NEW], folder / "describe.log")
        try:
            measure_all(workloads, sides, settings, limits, folder, report)
        except SystemExit:
            print(f"\nstopped; what there is: {options.out}", file=sys.stderr)
            raise
        finally:
            report.facts["seconds"] = round(time.monotonic() - begin, 1)
            write_json_atomic(options.out, report.as_dict())
    return report


def measure_all(
    workloads: Sequence[Workload],
    sides: dict[str, Revision],
    settings: Sequence[dict[str, Settings]],
    limits: Limits,
    folder: Path,
    report: Report,
) -> None:
    """Carries out the workloads with every conf, under a progress bar with the time left.

    Args:
      settings: of the sides, for every conf.
      folder: for what the workers print.
    """
    models = [load(each[NEW].conf, each[NEW].overrides).model for each in settings]
    expected = [
        {w.name: expected_seconds(w, model, limits, len(sides)) for w in workloads}
        for model in models
    ]
    total = sum(sum(each.values()) for each in expected)
    print(f"about {total / 60:.0f} minutes on 2 cores", file=sys.stderr, flush=True)
    bar_format = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, about {remaining} left{postfix}"
    with progress(total=total, desc="benchmark", bar_format=bar_format) as bar:
        for of_sides, seconds in zip(settings, expected):
            name = Path(of_sides[NEW].conf).stem
            with ConfRun(name, sides, of_sides, limits, folder, report) as conf_run:
                for workload in workloads:
                    bar.set_postfix_str(f"{name}, {workload.name}", refresh=sys.stderr.isatty())
                    conf_run.measure(workload)
                    # not beyond the end by a rounded digit
                    bar.update(min(seconds[workload.name], bar.total - bar.n))


def main() -> None:
    """Measures as the command line says. The exit status is 1 if this checkout failed in
    something."""
    options = parse(__doc__)
    if options.list:
        for workload in WORKLOADS:
            print(f"{workload.name:20s} {workload.description}")
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
