"""The part of a batch that one net of a training step sees."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from utils.pruned_rnnt import Targets


@dataclass(frozen=True)
class Share:
    """Some utterances of a batch of B, or all of them.

    Attributes:
      rows: (B',) their numbers; None: all.
      scale: what their loss is multiplied by, so that its expectation is that of the whole batch.
    """

    rows: Tensor | None = None
    scale: float = 1.0

    @classmethod
    def drawn(cls, count: int, batch: int) -> "Share":
        """So many utterances of a batch, drawn without replacement."""
        return cls(torch.randperm(batch)[:count].sort().values, batch / count)

    def of(self, x: Tensor) -> Tensor:
        """The rows of something with a row for every utterance: (B, ...) -> (B', ...)."""
        return x if self.rows is None else x[self.rows.to(x.device)]

    def of_targets(self, targets: Targets) -> Targets:
        """The targets of its utterances."""
        if self.rows is None:
            return targets
        return replace(
            targets,
            symbols=self.of(targets.symbols),
            lengths=self.of(targets.lengths),
            frames=self.of(targets.frames),
            heard=None if targets.heard is None else self.of(targets.heard),
            on_host=None if targets.on_host is None else self.of_targets(targets.on_host),
        )
