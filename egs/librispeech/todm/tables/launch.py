"""Running many commands: some at a time on this machine, a GPU each, or as jobs of a Slurm
cluster."""

import logging
import os
import queue
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from utils.errors import UserError
from utils.processes import signal_when_parent_dies
from utils.progress import progress

# Minutes a job may take unless tables.slurm says timeout_min; one that is cut goes on when it is
# submitted again.
LONG = 24 * 60


@dataclass(frozen=True)
class Job:
    """Commands that run one after the other.

    Attributes:
      log: the file that their output is appended to.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path


def run_commands(
    job: Job,
    environment: dict[str, str],
    started: Callable[[subprocess.Popen], None] = lambda process: None,
) -> int:
    """Runs a job's commands. Returns the exit status of the first that fails, else 0."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "a", encoding="utf-8") as log:
        for command in job.commands:
            log.write(f"\n$ {shlex.join(command)}\n")
            log.flush()
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
                preexec_fn=partial(signal_when_parent_dies, signal.SIGTERM),
            )
            started(process)
            if process.wait():
                return process.returncode
    return 0


def slots(workers: int, processes: int) -> list[dict[str, str]]:
    """The environment of every worker: GPUs of its own, or a share of the cores.

    Raises:
      UserError: the machine has fewer GPUs than the workers want.
    """
    if count := torch.cuda.device_count():
        allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = allowed.split(",")[:count] if allowed else [str(i) for i in range(count)]
        if workers * processes > count:
            raise UserError(
                f"tables.workers={workers} with {processes} GPU(s) each want "
                f"{workers * processes} GPUs; there are {count} to use"
            )
        return [
            {"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * processes : (i + 1) * processes])}
            for i in range(workers)
        ]
    threads = max(1, (os.cpu_count() or 1) // (workers * processes))
    return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}] * workers


def run_local(jobs: list[Job], workers: int, processes: int) -> list[str]:
    """Runs the jobs, ``workers`` at a time. Returns the names of those that failed; an interrupt
    stops all of them."""
    free: queue.SimpleQueue = queue.SimpleQueue()
    for slot in slots(workers, processes):
        free.put(slot)
    running: set[subprocess.Popen] = set()
    stopped = threading.Event()

    def work(job: Job) -> int:
        if stopped.is_set():
            return -1
        slot = free.get()
        try:
            return run_commands(job, slot, running.add)
        finally:
            free.put(slot)

    failed = []
    with (
        ThreadPoolExecutor(workers) as pool,
        progress(total=len(jobs), desc="runs", unit="run") as bar,
    ):
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                job = futures[future]
                if future.result():
                    failed.append(job.name)
                    logging.error(
                        "%s failed; the end of %s:\n%s", job.name, job.log, _tail(job.log)
                    )
                else:
                    logging.info("%s: done", job.name)
                bar.update()
        except BaseException:
            stopped.set()
            for process in list(running):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGINT)  # a training saves a checkpoint on it
            raise
    return failed


def run_submitit(
    jobs: list[Job], processes: int, cluster: str, folder: Path, parameters: dict[str, str]
) -> list[str]:
    """Submits every job through submitit and waits for all. Returns the names of those that failed.

    Args:
      cluster: ``slurm``, or ``local`` for submitit's own processes on this machine.
    Raises:
      UserError: submitit is not installed, or there is no such cluster.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "tables.launcher=slurm needs submitit: pip install submitit, into .venv"
        ) from None
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    except RuntimeError as error:
        raise UserError(f"submitit can not use {cluster!r} here: {error}") from error
    defaults = {"timeout_min": LONG} | (
        {"gpus_per_node": processes} if cluster == "slurm" or torch.cuda.is_available() else {}
    )
    try:
        executor.update_parameters(
            **defaults | {key: _number(value) for key, value in parameters.items()}
        )
    except (NameError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"tables.slurm: {error}") from error
    submitted = [(job, executor.submit(run_commands, job, {})) for job in jobs]
    failed = []
    for job, handle in progress(submitted, desc="jobs", unit="job"):
        try:
            status = handle.result()
        except (
            submitit.core.utils.FailedJobError,
            submitit.core.utils.UncompletedJobError,
        ) as error:
            logging.error("%s: %s", job.name, error)
            status = 1
        if status:
            failed.append(job.name)
            logging.error("%s failed; the end of %s:\n%s", job.name, job.log, _tail(job.log))
    return failed


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _tail(path: Path, lines: int = 12) -> str:
    return "\n".join(
        path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()[-lines:]
    )
