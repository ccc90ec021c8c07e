"""Checkpoints: written whole or not at all, read without running code, the last few kept, and
averages of them."""

import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.files import atomic_path
from utils.text import first_line

_NAME = re.compile(r"update-(\d+)\.pt$")


class CheckpointError(UserError):
    """A checkpoint is missing or can not be read; the message names the file."""


def checkpoint_path(folder: Path, update: int) -> Path:
    """The file of the checkpoint of an update."""
    return folder / f"update-{update}.pt"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Every checkpoint in a folder as ``(update, path)``, oldest first."""
    found = [
        (int(m.group(1)), p) for p in folder.glob("update-*.pt") if (m := _NAME.search(p.name))
    ]
    return sorted(found)


def save_checkpoint(folder: Path, update: int, state: dict, keep_last: int, every: int = 1) -> Path:
    """Write a checkpoint atomically, then delete those before the newest ``keep_last`` regular
    ones.

    Args:
      every: regular checkpoints are those of its multiples; others, of a training's end or of an
        interrupt, do not count.
    """
    path = checkpoint_path(folder, update)
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
    found = list_checkpoints(folder)
    regular = [u for u, _ in found if u % every == 0]
    for old, old_path in found:
        if len(regular) >= keep_last and old < regular[-keep_last] and old != update:
            old_path.unlink()
    return path


def window_start(found: list[tuple[int, Path]], count: int, every: int) -> tuple[int, Path] | None:
    """The checkpoint after whose update a mean over the last ``count`` intervals of ``every``
    updates begins.

    It does not depend on what other checkpoints interrupts have left.  The last interval may be
    shorter, when a training ends between multiples of ``every``.  Where that checkpoint is missing:
    the next one before it, or else the oldest regular one.  None: there is only one checkpoint.
    """
    *earlier, (last, _) = found
    wanted = (-(-last // every) - count) * every
    regular = [x for x in earlier if x[0] % every == 0] or earlier
    return max((x for x in earlier if x[0] <= wanted), default=regular[0]) if earlier else None


def load_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict:
    """Read a checkpoint with ``weights_only=True``: tensors and plain containers, never code.

    Raises:
      CheckpointError: the file is missing or damaged.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint; move it away and run again")
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    try:
        require_no_growth(path)
        require_intact(path)
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise CheckpointError(
            f"{path} is damaged ({first_line(error)}); delete it and run again"
        ) from error


def load_finite(path: Path, map_location: str | torch.device = "cpu") -> dict:
    """Read a checkpoint as :func:`load_checkpoint` does, and refuse weights that are no numbers.

    Raises:
      CheckpointError: the file is missing or damaged, or a weight or its mean is NaN or infinite.
    """
    state = load_checkpoint(path, map_location)
    weights = {k: state.get(k) for k in ("model", "average")} if isinstance(state, dict) else {}
    if name := next(not_finite(weights), None):
        raise CheckpointError(
            f"{path} holds weights that are not finite ({name}): the training had diverged. Delete "
            "it to go on from the one before"
        )
    return state


def not_finite(state: object, name: str = "") -> Iterator[str]:
    """Yields the names of the tensors in a state that hold NaN or infinity, in whatever
    dictionaries and lists they lie."""
    if isinstance(state, Tensor):
        if state.is_floating_point() and not bool(state.isfinite().all()):
            yield name
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        for i, value in enumerate(state):
            yield from not_finite(value, f"{name}.{i}")


def require_intact(path: Path) -> None:
    """Compares a checkpoint's tensors with their check sums (CRC-32), which torch writes and does
    not read.

    Raises:
      ValueError, zipfile.BadZipFile: they are not what was written.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return  # the form of torch before 1.6, or none at all, of which torch will say so
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"the check sum of {damaged} is wrong")


def require_no_growth(path: Path) -> None:
    """Refuses a checkpoint with more in it than there is room in the file: torch compresses
    nothing, so it was made to fill the memory.

    Raises:
      ValueError: it is such a file. zipfile.BadZipFile: it is damaged.
    """
    if not zipfile.is_zipfile(path):
        return  # of an old torch, or damaged
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > path.stat().st_size:
        raise ValueError(f"it says that it holds {size:,} bytes, and is shorter itself")


def load_newest(folder: Path) -> tuple[int, dict] | None:
    """The newest checkpoint that can be used; one that is damaged, or whose weights are not finite,
    is passed over with a warning."""
    for update, path in reversed(list_checkpoints(folder)):
        try:
            return update, load_finite(path)
        except CheckpointError as error:
            logging.warning("%s; trying the one before", error)
    return None


class RunningAverage:
    """The mean of a model's parameters over all updates so far, in fp64, sampled every few
    updates."""

    def __init__(self, model: nn.Module):
        self.weight = 0.0  # updates averaged over
        self.values = {
            k: v.detach().double().clone()
            for k, v in model.state_dict().items()
            if v.is_floating_point()
        }

    @torch.no_grad()
    def add(self, model: nn.Module, updates: int) -> None:
        """Count the model's present parameters for the ``updates`` since the last call."""
        self.weight += updates
        share = updates / self.weight
        state = model.state_dict()
        for name, mean in self.values.items():
            mean += (state[name].double() - mean) * share

    def state_dict(self) -> dict:
        """The mean and the number of updates it is over, for a checkpoint."""
        return {"weight": self.weight, "values": self.values}

    def load_state_dict(self, state: dict) -> None:
        """The inverse of :meth:`state_dict`."""
        self.weight = state["weight"]
        for name, mean in self.values.items():
            mean.copy_(state["values"][name])


def average_between(start: dict | None, end: dict) -> dict[str, Tensor]:
    """The mean parameters over the updates after ``start`` up to ``end``.

    Args:
      start, end: states of a running average; ``start`` None: from the beginning.
    Raises:
      CheckpointError: there is no update between them.
    """
    if start is None or start["weight"] == 0:
        return {k: v.float() for k, v in end["values"].items()}
    span = end["weight"] - start["weight"]
    if span <= 0:
        raise CheckpointError("the range of checkpoints to average holds no update")
    return {
        k: ((v * end["weight"] - start["values"][k] * start["weight"]) / span).float()
        for k, v in end["values"].items()
    }
