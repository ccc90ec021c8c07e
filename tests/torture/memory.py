"""How much memory a process has held at most.

The kernel's ``ru_maxrss`` of a process begins with that of the process that started it, even after
``exec``: a large parent would be taken for a large child.
"""

import resource
import subprocess
import sys
from pathlib import Path


def own_peak() -> int:
    """Bytes that this program has held at once since it was started."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def children_peak() -> int:
    """Bytes that the largest of this process's ended children, and of theirs, has held at once; at
    the least those that this process held when it started them."""
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def measured(command: list[str], report: Path) -> list[str]:
    """A command that runs another from a small process, ends with its status, and writes the
    largest peak of it and its children, in bytes."""
    return [sys.executable, "-S", __file__, str(report), *map(str, command)]


if __name__ == "__main__":
    status = subprocess.call(sys.argv[2:])
    Path(sys.argv[1]).write_text(str(children_peak()))
    sys.exit(status if status >= 0 else 128 - status)
