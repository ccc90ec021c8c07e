"""The command line of the benchmark."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from todm.config.paths import ROOT

CONFS = "mini", "librispeech-100h", "librispeech-960h"


def parse(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the benchmark.

    Args:
      arguments: instead of those of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m todm.benchmark",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--confs", nargs="+", default=list(CONFS), metavar="CONF", help="names or paths of confs")
    several: dict[str, Any] = {"action": "extend", "nargs": "+", "default": []}
    add("--only", **several, metavar="NAME", help="workloads, also as patterns: 'load*'")
    add("--list", action="store_true", help="list the workloads and end")
    add("--compare", metavar="REV", help="another revision of this repository, measured in turns")
    add("--set", **several, metavar="KEY=VALUE", help="of the confs of this checkout")
    add("--set-old", **several, metavar="KEY=VALUE", help="of the confs of the other revision")
    add("--rounds", type=_positive, default=11, help="of a workload at most (11)")
    add(
        "--seconds",
        type=float,
        default=8.0,
        help="for the rounds of a workload with one conf and revision, beyond its least rounds (8)",
    )
    add("--timeout", type=float, default=900.0, help="seconds for a single measurement (900)")
    add("--threads", type=_positive, default=1, help="of torch and onnxruntime (1)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: of training alone")
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
