"""The passes of ScaledAdam over the memory of tensors, gradients and state.

Reading and writing memory is what a step of an optimiser costs. A large tensor is therefore gone
over in pieces, which stay in a CPU's caches from one operation to the next; small tensors, for
which starting an operation costs most, are copied together.
"""

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

# The most numbers that one operation goes over, by the type of device. On a CPU the five arrays of
# a piece are 2.5 MiB, and sums of so few numbers in float32 are exact enough. On a GPU it limits
# the memory of copies.
PIECE = {"cpu": 1 << 17}
OTHER_PIECE = 1 << 21
# A tensor with at most this share of a piece is copied together with others.
SMALL = 0.25


def piece_size(device: torch.device) -> int:
    """The most numbers that one operation on a device goes over."""
    return PIECE.get(device.type, OTHER_PIECE)


@dataclass
class ElementStep:
    """The numbers of a step that are the same for all elements::

        v = b2 v + (1 - b2) (factor g)^2
        m = b1 m + (1 - b1) (rate size g / (sqrt(v) + eps) + growth p)
        p += m

    The size and the growth are those of the tensor.
    """

    rate: float
    factor: float  # of clipping
    betas: tuple[float, float]
    eps: float


class Chunk:
    """One tensor, or several small ones that are copied together: flat arrays of K numbers.

    Args:
      tensors: the tensors, in the order of the arrays.
      momentum, second_moment: their state (K,), float32.

    Attributes:
      param, grad: the values, and the gradients before clipping, between :meth:`read` and
        :meth:`move` (K,), float32.
    """

    def __init__(self, tensors: list[Tensor], momentum: Tensor, second_moment: Tensor):
        self.tensors, self.momentum, self.second_moment = tensors, momentum, second_moment
        self.piece = piece_size(momentum.device)
        self.together = len(tensors) > 1
        sizes = [p.numel() for p in tensors]
        self.moves = [m.view(p.shape) for m, p in zip(momentum.split(sizes), tensors)]
        # Neighbours of one size, whose sums are taken at once: their size, and how many they are.
        self.runs = [(size, len(list(run))) for size, run in groupby(sizes)]
        if self.together:
            self.param, self.grad = torch.empty_like(momentum), torch.empty_like(momentum)
            self.sizes = torch.tensor(sizes, device=momentum.device)

    def read(self) -> None:
        """Copies the present values and gradients, or finds those of a single tensor. A missing
        gradient counts as zero."""
        params = [p.reshape(-1) for p in self.tensors]
        grads = [
            torch.zeros_like(flat) if p.grad is None else p.grad.reshape(-1)
            for p, flat in zip(self.tensors, params)
        ]
        if self.together:
            torch.cat(params, out=self.param)
            torch.cat(grads, out=self.grad)
        else:
            self.param, self.grad = params[0].float(), grads[0].float()

    def _tensor_rows(self, x: Tensor) -> list[Tensor]:
        """The tensors' parts of an array (K,) as rows: for every run (tensors, size)."""
        parts = x.split([size * count for size, count in self.runs])
        return [part.view(count, size) for part, (size, count) in zip(parts, self.runs)]

    def norms(self, x: Tensor) -> Tensor:
        """The norms of the tensors' parts of an array, (K,) -> (tensors,)."""
        if self.together:
            return torch.cat([torch.linalg.vector_norm(y, dim=1) for y in self._tensor_rows(x)])
        pieces = [torch.linalg.vector_norm(y) for y in x.split(self.piece)]
        return torch.linalg.vector_norm(torch.stack(pieces)).view(1)

    def products(self) -> Tensor:
        """The inner product of every tensor and its gradient (tensors,)."""
        if self.together:
            rows = zip(self._tensor_rows(self.param), self._tensor_rows(self.grad))
            return torch.cat([torch.linalg.vecdot(p, g) for p, g in rows])
        pieces = zip(self.param.split(self.piece), self.grad.split(self.piece))
        return torch.stack([torch.dot(p, g) for p, g in pieces]).sum().view(1)

    def per_element(self, x: Tensor) -> Tensor:
        """A number of every tensor for each of its elements: (tensors,) -> (K,), or (1,) of one."""
        if self.together:
            return x.repeat_interleave(self.sizes, output_size=len(self.momentum))
        return x

    def move(self, step: ElementStep, size: Tensor, growth: Tensor | None, scratch: Tensor) -> None:
        """Takes the step of every element.

        Args:
          size, growth: from :meth:`per_element`; None: nothing grows.
          scratch: memory of a piece, or of all K numbers where these are fewer.
        """
        beta1, beta2 = step.betas
        in_place = self.param.data_ptr() == self.tensors[0].data_ptr()
        arrays = (self.param, self.grad, self.momentum, self.second_moment)
        for p, g, m, v in zip(*(x.split(self.piece) for x in arrays)):
            d = scratch[: len(v)]
            v.mul_(beta2).addcmul_(g, g, value=(1 - beta2) * step.factor**2)
            torch.sqrt(v, out=d).add_(step.eps)
            torch.div(g, d, out=d)
            m.mul_(beta1).addcmul_(d, size, value=(1 - beta1) * step.rate)
            if growth is not None:
                m.addcmul_(p, growth, value=1 - beta1)
            if in_place:
                p.add_(m)
        if not in_place:
            torch._foreach_add_(self.tensors, self.moves)
        if not self.together:
            # They are not the chunk's own: who frees gradients after a step gets their memory.
            del self.param, self.grad
