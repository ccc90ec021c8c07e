"""A worker process that is given inputs one by one, and is watched for tracebacks, time and
memory."""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.torture.memory import children_peak, own_peak
from tests.torture.trials import ROOT, last_line, recipe_environment

MOST_SECONDS = 10  # of processor time that one input may take; of the clock six times as much
MOST_MEMORY = 1 << 30  # bytes that the worker or a child of it may hold at once
ADDRESS_SPACE = 10 << 30  # beyond this the worker's allocations fail, so that the machine lives on


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
      held: it was taken or refused with a message, in time and in little memory.
      said: the message, or what was lost.
    """

    held: bool
    said: str


class Worker:
    """The worker, started when it is first needed and again after every input that it does not
    survive.

    Args:
      log: the file that gets what it prints.
    """

    def __init__(self, log: Path):
        self.log = log
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the worker and what it has started."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None

    def ask(self, kind: str, **what: object) -> Outcome:
        """Hands over an input, and waits for its outcome.

        Args:
          kind, what: a name in ``tests.torture.inputs.KINDS``, and the arguments of its function.
        """
        process = self.process or self._start()
        assert process.stdin
        process.stdin.write(json.dumps({"kind": kind, **what}) + "\n")
        process.stdin.flush()
        answer = self._answer(process, 6 * MOST_SECONDS)
        if answer is None:
            self.end()
            return Outcome(False, f"no answer within {6 * MOST_SECONDS} s of the clock")
        if not answer:
            status = process.wait()
            self.end()
            why = f"more than {MOST_SECONDS} s of processor time"
            return Outcome(
                False,
                why
                if status == -signal.SIGXCPU
                else f"the process ended with status {status}: "
                f"{last_line(self.log.read_text(errors='replace'))}",
            )
        found = json.loads(answer)
        if found["memory"] > MOST_MEMORY:
            self.end()
            return Outcome(False, f"{found['memory'] / 2**30:.1f} GiB of memory; {found['said']}")
        return Outcome(found["held"], found["said"])

    def _start(self) -> subprocess.Popen[str]:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.watched"],
                cwd=ROOT,
                env=recipe_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        if self._answer(self.process, 300) != "ready\n":
            raise RuntimeError(f"the worker does not start; see {self.log}")
        return self.process

    def _answer(self, process: subprocess.Popen[str], seconds: float) -> str | None:
        """The next line; empty where the worker has ended, None where it takes too long."""
        assert process.stdout
        until = time.monotonic() + seconds
        while not select.select([process.stdout], [], [], max(until - time.monotonic(), 0))[0]:
            if time.monotonic() >= until:
                return None
        return process.stdout.readline()


def work() -> None:
    """Takes inputs from standard input until it ends; the outcomes go to standard output, all that
    is printed meanwhile to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from tests.torture.inputs import in_one_process, outcome  # heavy: they import torch

    in_one_process()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    answers.write("ready\n")
    answers.flush()
    requests = sys.stdin
    for line in requests:
        what = json.loads(line)
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (round(used) + MOST_SECONDS + 1, hard))
        held, said = outcome(**what)
        memory = max(own_peak(), children_peak())
        answers.write(json.dumps({"held": held, "said": said, "memory": memory}) + "\n")
        answers.flush()


if __name__ == "__main__":
    work()
