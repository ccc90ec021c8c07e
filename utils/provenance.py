"""The origin of a result: machine, versions, commit, command."""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch


def provenance() -> dict:
    """The facts about this run that stand beside its numbers."""
    return {
        "machine": machine(),
        "torch": torch.__version__,
        "commit": commit(),
        "command": os.environ.get("TODM_COMMAND") or shlex.join(sys.argv),
    }


def machine() -> str:
    """The processor and its cores, or the GPUs."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{_cpu_name()}, {os.cpu_count()} cores, no GPU"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def commit() -> str:
    """The repository's commit, with ``+`` when files were changed since; ``unknown`` outside
    git."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
