"""torchrun with the same arguments and messages for people: when a process fails, its own words are
the last, and its exit status is that of the whole.

    python -m utils.torchrun --standalone --nproc-per-node 2 -m MODULE ...
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as run_torchrun

# exit statuses of a process that has said why it ended: an error, a user's mistake, or a signal
SAID_ITSELF = (1, 2, 129, 130, 143)


def run() -> int:
    """Runs torchrun with the arguments of this process; returns the exit status as a shell has
    it."""
    # torchrun tells in pages how it ends the other processes
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run_torchrun()
    except SignalException as stop:
        return 128 + stop.sigval.value
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        status = failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
        if status not in SAID_ITSELF:
            signal = (
                f" by signal {-failure.exitcode}"
                if failure.exitcode < 0
                else f" with status {status}"
            )
            print(
                f"\nERROR: process {rank} of this training was ended{signal}; the same command "
                "goes on from the last checkpoint",
                file=sys.stderr,
            )
        return status
    return 0


def main() -> None:
    """Runs torchrun, and ends with its exit status."""
    sys.exit(run())


if __name__ == "__main__":
    main()
