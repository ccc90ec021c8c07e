"""The sums over the batches of one update, which are read from a GPU once: every read waits until
the GPU has done all that it was given."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepSums:
    """One rank's sums over the batches of an update.

    Attributes:
      values: (1 + nets,) in fp64, on the device: the loss whose gradient is taken, then the
        transducer loss of every net.
      seconds: of audio. frames: encoder frames.
    """

    values: Tensor
    seconds: float
    frames: int

    @classmethod
    def of_batch(
        cls, loss: Tensor, losses: list[Tensor], seconds: float, frames: int
    ) -> "StepSums":
        """The sums over one batch."""
        return cls(torch.stack([loss.detach(), *losses]).double(), seconds, frames)

    def __add__(self, other: "StepSums") -> "StepSums":
        return StepSums(
            self.values + other.values, self.seconds + other.seconds, self.frames + other.frames
        )

    def read(self, norm: Tensor) -> list[float]:
        """The numbers that ranks add up, with one read from the device: 1 where the loss is not
        finite, 1 where the gradients' norm () is not, the loss of every net, seconds of audio,
        encoder frames."""
        loss, *losses, length = torch.cat([self.values, norm.double()[None]]).tolist()
        bad = [float(not math.isfinite(x)) for x in (loss, length)]
        return [*bad, *losses, self.seconds, float(self.frames)]


@dataclass(frozen=True)
class UpdateSums:
    """The sums of an update over all ranks, as :meth:`StepSums.read` has them.

    Attributes:
      bad_losses, bad_gradients: the ranks whose loss, and whose gradients, are not finite.
      losses: of every net, the largest first. seconds: of audio. frames: encoder frames.
    """

    bad_losses: float
    bad_gradients: float
    losses: list[float]
    seconds: float
    frames: int

    @classmethod
    def of_ranks(cls, sums: list[float]) -> "UpdateSums":
        """The sums over ranks by their names."""
        bad_losses, bad_gradients, *losses, seconds, frames = sums
        return cls(bad_losses, bad_gradients, losses, seconds, int(frames))

    @property
    def finite(self) -> bool:
        """True where every rank's loss and gradients are finite."""
        return not self.bad_losses and not self.bad_gradients
