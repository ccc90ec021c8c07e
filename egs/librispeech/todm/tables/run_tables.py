"""Carries out the runs of a table: what has a record is skipped, what was interrupted goes on."""

import logging
import shlex
import sys
from argparse import Namespace
from typing import Any

from todm.config.keys import Config
from todm.recipe.processes import default_processes
from todm.results.records import Record, RunJob, RunPlan
from todm.tables.launch import Job, run_local, run_submitit
from todm.tables.runs import SAME, Records, Run, Variant, best_setting, differences, run_values
from utils.errors import UserError


class Table:
    """The runs of some variants, under the conf and overrides that the stage was called with."""

    def __init__(self, config: Config, arguments: Namespace):
        self.config, self.arguments = config, arguments
        self.records = Records(config.records_dir)
        self.known: dict[Run, dict[str, Any]] = {}

    def run(self, variants: list[Variant]) -> None:
        """Carries out the runs that are missing; then, with the settings that were best on dev,
        those of the other seeds.

        Raises:
          UserError: runs failed; the others are finished and recorded.
        """
        while missing := self.missing(self.planned(variants)):
            logging.info("%d runs to do: %s", len(missing), ", ".join(run.name for run in missing))
            failed = self.launch(missing)
            if failed:
                raise UserError(
                    f"{len(failed)} of {len(missing)} runs failed: {', '.join(failed)}. What they "
                    "printed is in run.log of "
                    f"{self.config.exp_dir}/runs; the same command repeats only these"
                )
            if unrecorded := [run.name for run in missing if self.recorded(run) is None]:
                raise UserError(
                    f"{', '.join(unrecorded)} ended without a record in {self.records.folder}"
                )
        logging.info(
            "all %d runs are recorded in %s", len(self.planned(variants)), self.records.folder
        )

    def planned(self, variants: list[Variant]) -> list[Run]:
        """Every run that can be named now: seeds beside the first wait for the tuned settings."""
        runs: list[Run] = []
        for variant in variants:
            first = [variant.run(setting, self.config.tables.seeds[0]) for setting in variant.grid]
            records = [record for run in first if (record := self.recorded(run))]
            whole = len(records) == len(first)
            runs += variant.runs(self.config, best_setting(records) if whole else None)
        return runs

    def recorded(self, run: Run) -> Record | None:
        """The record of a run under this conf; None: it has yet to run."""
        return self.records.get(run, self.values(run))

    def values(self, run: Run) -> dict[str, Any]:
        """The conf of a run, flat; resolved once."""
        if run not in self.known:
            self.known[run] = run_values(
                self.arguments.conf, self.arguments.overrides, self.config, run
            )
        return self.known[run]

    def missing(self, runs: list[Run]) -> list[Run]:
        """The runs without a record, the first seed's first: a table of one seed is soon whole.

        Logs which values differ where a record is of another conf.
        """
        found = []
        for run in runs:
            if self.recorded(run) is None:
                if other := self.records.read(run):
                    reasons = differences(other.plan.conf, self.values(run))
                    logging.info("%s is run again: %s", run.name, "; ".join(reasons[:3]))
                found.append(run)
        return sorted(found, key=lambda run: self.config.tables.seeds.index(run.seed))

    def launch(self, runs: list[Run]) -> list[str]:
        """Runs them where ``tables.launcher`` says. Returns the names of those that failed."""
        t = self.config.tables
        processes = t.processes or default_processes(self.config)
        jobs = [self.job(run, processes) for run in runs]
        if t.launcher == "local":
            return run_local(jobs, t.workers, processes)
        cluster = t.launcher.removeprefix("submitit-")
        return run_submitit(jobs, processes, cluster, self.config.exp_dir / "submitit", t.slurm)

    def job(self, run: Run, processes: int) -> Job:
        """The commands of a run: training, then decoding into a record. Writes its run.json."""
        overrides, folder = (
            [*self.arguments.overrides, *run.all_overrides(self.config)],
            run.exp(self.config),
        )
        module = ["-m", "todm.training.train", "--conf", self.arguments.conf, *overrides]
        python = [sys.executable]
        train = (
            [*python, *module]
            if processes == 1
            else [
                *python,
                "-m",
                "utils.torchrun",
                "--standalone",
                "--nproc-per-node",
                str(processes),
                *module,
            ]
        )
        facts = RunPlan(
            run=run.name,
            variant=run.variant,
            setting=run.setting,
            tuned_by="dev" if run.setting != SAME else "",
            processes=processes,
            conf=self.values(run),
            command=shlex.join(["python", *train[1:]]),
        )
        path = str(self.records.path(run))
        job = RunJob(self.arguments.conf, tuple(overrides), run.nets, path, facts)
        job.write(folder / "run.json")
        record = [*python, "-m", "todm.tables.record_run", str(folder / "run.json")]
        return Job(run.name, (tuple(train), tuple(record)), folder / "run.log")
