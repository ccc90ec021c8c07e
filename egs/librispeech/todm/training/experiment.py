"""An experiment's folder: what a checkpoint holds, and how a model comes back out of it.

Nothing of learned selection is imported here: whoever needs its nets makes the selector from the
state that :class:`Experiment` holds (``learned_selection.methods.restore_selector``).
"""

import logging
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from todm.config.keys import Config
from todm.data.learnt_length import learnt_seconds_of_data
from todm.model.transducer import Transducer, require_no_larger
from todm.subnet import Subnet
from utils import conf as configuration
from utils.checkpoint import (
    CheckpointError,
    average_between,
    list_checkpoints,
    load_finite,
    window_start,
)
from utils.errors import UserError
from utils.text import first_line
from utils.tokens import Tokenizer

FORMAT = 1


def checkpoint_folder(exp: Path) -> Path:
    """The folder of an experiment's checkpoints."""
    return exp / "checkpoints"


def describe(config: Config, tokenizer: Tokenizer, longest: float | None = None) -> dict:
    """The part of every checkpoint with which it can be used without any other file.

    Args:
      longest: seconds that the net learns to recognise at once (``learnt_length.py``).
    """
    return {
        "longest_seconds": longest,
        "format": FORMAT,
        "config": configuration.to_dict(config),
        "bpe": torch.frombuffer(bytearray(tokenizer.proto), dtype=torch.uint8),
    }


def in_present_form(state: dict) -> dict:
    """A checkpoint as training writes it now, whichever version of the recipe wrote it.

    Older ones have the scores and masks of learned selection among the model's values and their
    averages, by names that begin with ``selector.``.
    """
    if "selector" in state:
        return state

    def model_only(values: dict) -> dict:
        return {k: v for k, v in values.items() if not k.startswith("selector.")}

    average = dict(state.get("average") or {})
    if "values" in average:
        average["values"] = model_only(average["values"])
    selector = {
        k.removeprefix("selector."): v
        for k, v in state["model"].items()
        if k.startswith("selector.")
    }
    return state | {
        "model": model_only(state["model"]),
        "average": average,
        "selector": selector or None,
    }


def set_seeds(seed: int) -> None:
    """Seed every random generator that training uses."""
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):
        set_seed(seed)


def rng_state() -> dict:
    """The state of every random generator that training uses, as plain containers."""
    kind, keys, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "python": [version, list(internal), gauss],
    }


def set_rng_state(state: dict) -> None:
    """The inverse of :func:`rng_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


@dataclass(frozen=True)
class Experiment:
    """A trained supernet, ready for use: the model with the chosen weights, its conf and its
    tokenizer."""

    config: Config
    model: Transducer
    tokenizer: Tokenizer
    update: int
    hours: float  # of audio seen in training
    seconds: float  # of training, wall clock
    weights: str  # which weights these are, in words
    longest: float | None = None  # seconds that it has learnt to recognise at once; None: not known
    selector: dict | None = None  # state of learned selection's scores and masks; None: it has none

    def require(self, subnet: Subnet, where: object) -> None:
        """Refuses a subnet that the model does not hold.

        Args:
          where: the subnet was found, for the message.
        Raises:
          UserError: the subnet does not fit.
        """
        try:
            self.model.encoder.require(subnet)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None


def load_experiment(
    exp: Path, weights: str | None, count: int | None, device: torch.device
) -> Experiment:
    """Build the model of an experiment from its folder alone.

    Args:
      weights: ``last`` (the last checkpoint), ``running`` (the mean over all of training) or
        ``range``.
        None: as the conf it was trained with says (``decode.weights``, ``decode.range``).
      count: for ``range``: the mean over the updates between the regular checkpoint (of a multiple
        of ``train.save_every``) this many before the last and the last; checkpoints of interrupts
        do not count.
    Raises:
      CheckpointError: there is no usable checkpoint.
    """
    found = list_checkpoints(checkpoint_folder(exp))
    if not found:
        raise CheckpointError(
            f"no checkpoint in {checkpoint_folder(exp)}; stage 4 makes them: ./run.sh --stage 4 "
            "--stop-stage 4"
        )
    path = found[-1][1]
    try:
        return _built(found, weights, count, device)
    except torch.OutOfMemoryError:
        raise
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        if isinstance(error, UserError):
            raise
        raise CheckpointError(
            f"{path} does not hold what a training writes ({first_line(error)}); delete it and run "
            "again"
        ) from error


def _built(
    found: list[tuple[int, Path]], weights: str | None, count: int | None, device: torch.device
) -> Experiment:
    update, path = found[-1]
    last = in_present_form(load_finite(path, device))
    config = configuration.from_dict(Config, last["config"])
    if weights is None:
        weights, count = config.decode.weights, config.decode.range
    words, state = f"update {update}", last["model"]
    if weights != "last" and not last.get("average", {}).get("weight"):
        logging.warning(
            "%s has no mean of the weights yet, because train.average_every is %d: those of "
            "update %d are used as they are",
            path,
            config.train.average_every,
            update,
        )
    elif weights == "running":
        words, state = (
            f"mean over updates 1 to {update}",
            last["model"] | average_between(None, last["average"]),
        )
    elif weights == "range" and (start := window_start(found, count or 0, config.train.save_every)):
        first = in_present_form(load_finite(start[1], device))
        words = f"mean over updates {start[0] + 1} to {update}"
        state = last["model"] | average_between(first["average"], last["average"])
    tokenizer = Tokenizer(last["bpe"].cpu().numpy().tobytes())
    require_no_larger(config, tokenizer.vocab_size, state)
    model = Transducer(config, tokenizer.vocab_size).to(device)
    model.load_state_dict(state)
    longest = last.get("longest_seconds") or learnt_seconds_of_data(config)
    return Experiment(
        config,
        model.eval(),
        tokenizer,
        update,
        last["hours"],
        last["seconds"],
        words,
        longest,
        last["selector"],
    )
