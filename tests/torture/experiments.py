"""Whole experiments of the torture: their command, what makes two of them equal, and half files."""

import gzip
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import safetensors.torch
import torch
import yaml
from onnx import numpy_helper
from torch import Tensor

from todm.recipe.stages import STAGES
from utils.checkpoint import list_checkpoints
from utils.written_files import DAMAGED

# one search, two subnets and a short benchmark: stages 5 to 10 are not what takes the time
QUICK = (
    "decode.methods=[greedy]",
    "select.num_subnets=2",
    "export.methods=[greedy]",
    "export.benchmark_rounds=1",
    "export.benchmark_seconds=1",
)
# what is measured or says where and when, and so differs between equal runs
VOLATILE = {
    *("command", "commit", "training_seconds", "real_time_factor", "seconds", "machine", "torch"),
    *("benchmark", "client", "milliseconds", "date"),
}
RESULTS = {  # what is compared, by the stage that makes it
    1: ("data/manifests/*", "data/dropped.tsv"),
    2: ("data/features/*.gz", "data/features/*.json", "data/features/*.lca"),
    3: ("data/lang/*.*", "data/cuts/*"),
    5: ("exp/subnets.json",),
    6: ("exp/results.json", "exp/decode/*"),
    9: ("exp/report.md",),
    10: (
        *("exp/export/*/*.onnx", "exp/export/*/*.safetensors", "exp/export/*/bpe*"),
        *("exp/export/*/tokens.txt", "exp/export/*/checked.json"),
    ),
}
TRAINING = 4
HIDDEN = {".lock", ".stamps"}  # the files that may begin with a dot


def arguments(folder: Path, *overrides: str, data: Path | None = None) -> list[str]:
    """What follows ``./run.sh`` and its stages for an experiment below ``folder``.

    Args:
      data: the data folder, where it is another experiment's.
    """
    return [
        *("--conf", "conf/debug.yaml", "name=torture"),
        *(f"data.dir={data or folder / 'data'}", f"exp={folder / 'exp'}"),
        *overrides,
    ]


def difference(
    expected: Path, found: Path, tolerance: float = 0.0, last: int = 10, made_at: Path | None = None
) -> str | None:
    """Says in which file, and how, the results of two experiments differ; None: in none.

    Final weights, tables, recognised texts and exported models are compared, and the data where
    both experiments have their own.

    Args:
      tolerance: the absolute and relative error that numbers may have; 0: bit by bit.
      last: the stage up to which both have gone.
      made_at: where the second lay when it was made; None: where it is.
    """
    both = (expected / "data").is_dir() and (found / "data").is_dir()
    stages = [stage for stage in RESULTS if stage <= last and (both or stage >= TRAINING)]
    patterns = [pattern for stage in stages for pattern in RESULTS[stage]]
    names = [
        sorted(str(path.relative_to(root)) for pattern in patterns for path in root.glob(pattern))
        for root in (expected, found)
    ]
    if names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]))
        return f"{odd[0]} is in one of the two alone"
    if last >= TRAINING:
        names[0].append(f"exp/checkpoints/{last_checkpoint(expected).name}")
    for name in names[0]:
        if not (found / name).is_file():
            return f"{name} is missing"
        roots = (made_at or found, expected, found)
        values = [content(root / name, roots) for root in (expected, found)]
        if reason := unlike(*values, tolerance):
            return f"{name}: {reason}"
    return None


def copy_until(source: Path, target: Path, stage: int, data: bool = True) -> None:
    """Copies an experiment as it was when a stage of it began.

    Args:
      data: whether the data are copied, too.
    """
    for part in ("data", "exp"):
        wanted = data if part == "data" else stage > TRAINING
        if (source / part).is_dir() and wanted:
            shutil.copytree(source / part, target / part)
    for number in range(stage, max(STAGES) + 1):
        folder = target / STAGES[number].folder
        (folder / f".stamps/stage-{number}.json").unlink(missing_ok=True)
        for output in (*STAGES[number].outputs, *STAGES[number].beside):
            if (folder / output).is_dir():
                shutil.rmtree(folder / output)
            (folder / output).unlink(missing_ok=True)


def last_checkpoint(root: Path) -> Path:
    """The newest checkpoint of an experiment."""
    return list_checkpoints(root / "exp/checkpoints")[-1][1]


def content(path: Path, roots: tuple[Path, ...]) -> Any:
    """What a file of an experiment says, without what differs between equal runs, such as its own
    folder: tensors by name, values of JSON, rows of tables, or bytes."""
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        return {"model": state["model"], "average": state["average"]}
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if path.suffix == ".onnx":
        graph = onnx.load(path).graph
        weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
        return {"weights": weights, "nodes": [node.op_type for node in graph.node]}
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.name == "report.md":
        return [line for line in path.read_text().splitlines() if line.startswith("|")]
    found = path.read_bytes()
    if path.suffix == ".gz":
        found = gzip.decompress(found)
    for root in roots:
        found = found.replace(f"{root}/".encode(), b"")
    return found


def unlike(a: Any, b: Any, tolerance: float, where: str = "") -> str | None:
    """Says where two values differ; None: nowhere."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{where} has other keys"
        pairs: Iterator = ((key, a[key], b[key]) for key in a if key not in VOLATILE)
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{where} has {len(a)} and {len(b)} entries"
        pairs = ((i, x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)))
    else:
        same = equal(a, b, tolerance)
        return None if same else f"{where} differs"
    return next((found for k, x, y in pairs if (found := unlike(x, y, tolerance, f"{k}"))), None)


def equal(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two tensors, numbers or texts are the same, numbers up to a tolerance."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.is_floating_point() and tolerance and a.shape == b.shape:
            return torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        return torch.equal(a, b)
    if tolerance and isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return bool(a == b)


def half_files(root: Path) -> list[str]:
    """The temporary files below a folder, and the files that can not be read, with the reason."""
    found = []
    for path in sorted(root.rglob("*")):
        if DAMAGED in path.parts:
            continue
        if path.name.startswith("."):
            if path.name not in HIDDEN:
                found.append(f"{path} was left")
        elif path.is_file():
            try:
                read_whole(path)
            except Exception as error:  # whatever the reader of this kind raises
                found.append(f"{path} can not be read: {type(error).__name__}")
    return found


def read_whole(path: Path) -> None:
    """Reads a file as what its ending says that it is; raises what its reader raises."""
    if path.suffix == ".pt":
        torch.load(path, weights_only=True)
    elif path.suffix == ".safetensors":
        safetensors.torch.load_file(path)
    elif path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path))
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix in (".yaml", ".yml"):
        yaml.safe_load(path.read_text(encoding="utf-8"))
    elif path.name.endswith(".jsonl.gz"):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            json.loads(line)
