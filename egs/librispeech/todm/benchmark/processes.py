"""The worker processes of the benchmark, as the process sees them that asks."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from todm.benchmark.revisions import Revision
from todm.benchmark.settings import Settings
from todm.benchmark.workloads import Workload
from todm.config.paths import ROOT
from utils.processes import signal_when_parent_dies

WORKER = Path(__file__).with_name("worker.py")
LAST_LINES = 3  # of what a worker that died has printed
# libraries that would otherwise use every core
THREADS = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"


class WorkerDied(Exception):
    """A worker process ended, or was ended because it took too long; the message says how."""


class WorkerProcess:
    """A process that carries out workloads with the code of one revision. As a context it is ended
    with the block.

    Args:
      log: the file that gets what it prints.
      plain_memory: run without path.sh's settings of malloc.
      timeout: seconds after which a request is given up.
    """

    def __init__(
        self, revision: Revision, settings: Settings, log: Path, plain_memory: bool, timeout: float
    ):
        self.log, self.timeout = log, timeout
        self.received = b""
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), settings.as_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,  # where the data of confs of older revisions are looked for
                env=environment(revision, settings.threads, plain_memory),
                preexec_fn=lambda: signal_when_parent_dies(signal.SIGKILL),
            )

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, action: str, workload: Workload | None = None) -> dict[str, Any]:
        """The answer to a request, as ``worker.py`` describes it.

        Raises:
          WorkerDied: there will be none.
        """
        request: dict[str, Any] = {"action": action}
        if workload is not None:
            request |= {"program": workload.program, "arguments": workload.arguments}
        assert self.process.stdin
        try:
            self.process.stdin.write(f"{json.dumps(request)}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerDied(self._last_words()) from None
        return json.loads(self._line())

    def _line(self) -> bytes:
        """The next line that the worker writes."""
        assert self.process.stdout
        descriptor, deadline = self.process.stdout.fileno(), time.monotonic() + self.timeout
        while b"\n" not in self.received:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                self.process.kill()
                raise WorkerDied(f"ended after {self.timeout:g} s, see --timeout")
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise WorkerDied(self._last_words())
            self.received += piece
        line, _, self.received = self.received.partition(b"\n")
        return line

    def _last_words(self) -> str:
        """How the process ended, and what it said last."""
        status = self.process.wait()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return ": ".join([f"the process ended with {how}", *said[-LAST_LINES:]])

    @property
    def alive(self) -> bool:
        """Whether the process can still be asked."""
        return self.process.poll() is None

    def close(self) -> None:
        """Ends the process, and waits until its memory is free."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def environment(revision: Revision, threads: int, plain_memory: bool) -> dict[str, str]:
    """The environment of a worker: its revision's modules, its threads, and with ``plain_memory``
    the system's own settings of malloc."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (plain_memory and name.startswith("MALLOC_"))
    }
    return kept | dict.fromkeys(THREADS, str(threads)) | {"PYTHONPATH": revision.python_path}
