"""The pruned RNN-T loss through one interface: k2, else fast_rnnt, else the PyTorch twin, all
tested equal."""

import importlib
import logging
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from utils.text import first_line
from utils.tokens import BLANK

MODULES = {"k2": "k2", "fast_rnnt": "fast_rnnt", "torch": "utils.pruned_rnnt_torch"}


def choose_backend(name: str, device: torch.device) -> ModuleType:
    """The module that computes the loss.

    Args:
      name: ``auto``, ``k2``, ``fast_rnnt`` or ``torch``.
    Raises:
      RuntimeError: a backend that was asked for by name can not be imported or can not run on
        ``device``.
    """
    problems = []
    for candidate in ("k2", "fast_rnnt", "torch") if name == "auto" else (name,):
        try:
            module = importlib.import_module(MODULES[candidate])
            _try(module, device)
        except Exception as error:  # a broken extension raises anything
            problems.append(f"{candidate}: {first_line(error)}")
            continue
        skipped = f" ({'; '.join(problems)})" if problems else ""
        logging.info("transducer loss: %s on %s%s", candidate, device.type, skipped)
        return module
    raise RuntimeError(
        f"loss.backend={name} can not be used on {device.type}: {'; '.join(problems)}; "
        "loss.backend=auto takes what works"
    )


def _try(module: ModuleType, device: torch.device) -> None:
    """Compute one tiny loss: an extension built for the CPU alone imports well and fails on a
    GPU."""
    lm, am = torch.zeros(1, 2, 3, device=device), torch.zeros(1, 2, 3, device=device)
    boundary = torch.tensor([[0, 0, 1, 2]], device=device)
    symbols = torch.ones(1, 1, dtype=torch.long, device=device)
    module.rnnt_loss_smoothed(
        lm=lm,
        am=am,
        symbols=symbols,
        termination_symbol=0,
        lm_only_scale=0.0,
        am_only_scale=0.0,
        boundary=boundary,
        rnnt_type="modified",
        delay_penalty=0.0,
        reduction="sum",
        return_grad=True,
    )


@dataclass(frozen=True)
class Targets:
    """The transcripts and lengths of a batch, as the losses need them.

    Attributes:
      symbols: (B, S) token ids, padded with blank. lengths: (B,) their numbers S_b.
      frames: (B,) encoder frames T_b.
      heard: (B,) the filterbank frames that the encoder frames were made of, for a model that adds
        some of its own.
      on_host: the same targets in the CPU's memory, where these are on a GPU; None: these are.
    """

    symbols: Tensor
    lengths: Tensor
    frames: Tensor
    heard: Tensor | None = None
    on_host: "Targets | None" = None

    @property
    def host(self) -> "Targets":
        """The same targets in the CPU's memory, where reading a number waits for no GPU."""
        return self.on_host or self

    def to(self, device: torch.device) -> "Targets":
        """These targets, which are in the CPU's memory, on a device.  The copies to a GPU are
        queued: nothing waits for them."""
        if device.type == "cpu":
            return self

        def queued(x: Tensor) -> Tensor:
            return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

        return Targets(
            queued(self.symbols),
            queued(self.lengths),
            queued(self.frames),
            None if self.heard is None else queued(self.heard),
            on_host=self.host,
        )

    @property
    def boundary(self) -> Tensor:
        """The lattice of every utterance as the backends take it, (B, 4): [0, 0, S_b, T_b]."""
        zeros = torch.zeros_like(self.lengths)
        return torch.stack([zeros, zeros, self.lengths, self.frames], dim=1)

    def real_frames(self, length: int) -> Tensor:
        """The mask of a padded batch, (B, length) bool: True at real frames."""
        return torch.arange(length, device=self.frames.device) < self.frames[:, None]

    def check(self, names: list[str]) -> None:
        """Refuse a batch that the transducer loss is not defined for.

        Raises:
          ValueError: utterances, by their names, have more tokens than encoder frames, or no token.
        """
        sizes = zip(names, self.host.lengths.tolist(), self.host.frames.tolist())
        bad = [
            (name, tokens, frames) for name, tokens, frames in sizes if not 1 <= tokens <= frames
        ]
        if bad:
            listing = ", ".join(f"{name} ({s} tokens, {t} frames)" for name, s, t in bad)
            raise ValueError(f"the transducer loss needs 1 <= tokens <= encoder frames: {listing}")


class TransducerLoss:
    """The simple and the pruned transducer loss, in fp32, summed over the batch, by one of the
    backends.

    Args:
      rnnt_type: the lattice: ``regular`` (a frame may emit any number of symbols), ``modified`` or
        ``constrained`` (one at most), as :mod:`utils.pruned_rnnt_torch` writes them out.
      delay_penalty: what a symbol loses with every frame it comes later; 0: nothing.
    """

    def __init__(
        self,
        backend: ModuleType,
        prune_range: int,
        lm_scale: float,
        am_scale: float,
        rnnt_type: str = "regular",
        delay_penalty: float = 0.0,
    ):
        self.backend, self.prune_range, self.lm_scale, self.am_scale = (
            backend,
            prune_range,
            lm_scale,
            am_scale,
        )
        self.lattice = {"rnnt_type": rnnt_type, "delay_penalty": delay_penalty}

    def simple(self, am: Tensor, lm: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """The loss of the trivial joiner, and the pruning ranges it gives: am (B, T, V) and lm (B,
        S+1, V) -> () and (B, T, R)."""
        with torch.autocast(am.device.type, enabled=False):
            loss, (px_grad, py_grad) = self.backend.rnnt_loss_smoothed(
                lm=lm.float(),
                am=am.float(),
                symbols=targets.symbols,
                termination_symbol=BLANK,
                lm_only_scale=self.lm_scale,
                am_only_scale=self.am_scale,
                boundary=targets.boundary,
                reduction="sum",
                return_grad=True,
                **self.lattice,
            )
            ranges = self.backend.get_rnnt_prune_ranges(
                px_grad.detach(), py_grad.detach(), targets.boundary, self.prune_range
            )
        return loss, ranges

    def prune(self, encoder: Tensor, predictor: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
        """The joiner's inputs on the kept nodes: (B, T, J) and (B, S+1, J) -> two of (B, T, R,
        J)."""
        return self.backend.do_rnnt_pruning(am=encoder, lm=predictor, ranges=ranges)

    def pruned(self, logits: Tensor, ranges: Tensor, targets: Targets) -> Tensor:
        """The loss on the kept nodes: logits (B, T, R, V) -> ()."""
        with torch.autocast(logits.device.type, enabled=False):
            return self.backend.rnnt_loss_pruned(
                logits=logits.float(),
                symbols=targets.symbols,
                ranges=ranges,
                termination_symbol=BLANK,
                boundary=targets.boundary,
                reduction="sum",
                **self.lattice,
            )
