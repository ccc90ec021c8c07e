"""The tensors that ScaledAdam updates together, and their state."""

from collections.abc import Iterator, MutableMapping

import torch
from torch import Tensor

from utils.scaled_adam_chunk import SMALL, Chunk, ElementStep, piece_size


class Bundle:
    """Tensors that are updated together: either all of them have one element, or none has.

    State is kept by stacks of the n tensors of one shape: ``step``, ``momentum`` and
    ``second_moment`` (n, ...), and where tensors have more than one element ``rms`` and
    ``size_second_moment`` (n, 1, ...) and ``size_grads`` (steps since sizes were last changed, n,
    1, ...). All these are views of the arrays of the bundle.

    Args:
      params: the N tensors.
      states: the state of every stack by its first parameter. A new bundle's is made.

    Raises:
      ValueError: some of the tensors have a state, and others have none: the list of a group was
        changed.

    Attributes:
      scalar: whether the tensors have one element.
      rms, size_second_moment, size_grads: (N,), (N,), (steps, N); not of scalars.
      grad_norms, products: |g| before clipping and sum(p g) of every tensor (N,), after
        :meth:`read`.
      sizes: what steps are multiplied by, as :meth:`per_element` gives it; kept for the optimiser.
    """

    def __init__(self, params: list[Tensor], states: MutableMapping[Tensor, dict]):
        self.params, self.scalar = params, params[0].numel() == 1
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for p in params:
            by_shape.setdefault(p.shape, []).append(p)
        # Small tensors beside each other, because a chunk is a part of the arrays.
        stacks = sorted(by_shape.values(), key=lambda stack: stack[0].numel())
        self.stacks = [(stack, states[stack[0]]) for stack in stacks]
        self.tensors = [p for stack in stacks for p in stack]
        self.counts = torch.tensor([max(1, p.numel()) for p in self.tensors])
        self.counts = self.counts.to(params[0].device)
        is_new = not any(state for _, state in self.stacks)
        if not is_new:
            self._require_states()
        if is_new:
            self._set_step(0)
        self.momentum = self._of_elements("momentum", is_new)
        self.second_moment = self._of_elements("second_moment", is_new)
        self.chunks = list(self._chunks())
        self.sizes: list[Tensor] = []
        largest = max(len(chunk.momentum) for chunk in self.chunks)
        self.scratch = self.momentum.new_empty(min(largest, piece_size(self.momentum.device)))
        self.read()
        if not self.scalar:
            zeros = torch.zeros_like(self.grad_norms)
            self.rms = self._of_tensors("rms", self.present_rms() if is_new else None)
            self.size_second_moment = self._of_tensors(
                "size_second_moment", zeros if is_new else None
            )
            self.set_size_grads(zeros.new_zeros(0, len(zeros)) if is_new else self._size_grads())

    def _require_states(self) -> None:
        for stack, state in self.stacks:
            have = len(state["momentum"]) if state else 0
            if have != len(stack):
                raise ValueError(
                    f"{len(stack)} tensors of shape {tuple(stack[0].shape)} are to be updated, and "
                    f"there is a state of {have}: the parameters of a group can not change after "
                    "its first step; give new ones a group of their own (add_param_group)"
                )

    def _of_elements(self, key: str, is_new: bool) -> Tensor:
        """A state of elements: one array of all, of which the stacks' are views from now on."""
        sizes = [len(stack) * stack[0].numel() for stack, _ in self.stacks]
        if is_new:
            array = torch.zeros(sum(sizes), device=self.params[0].device)
        else:
            array = torch.cat([state[key].float().reshape(-1) for _, state in self.stacks])
        for (stack, state), part in zip(self.stacks, array.split(sizes)):
            state[key] = part.view(len(stack), *stack[0].shape)
        return array

    def _of_tensors(self, key: str, array: Tensor | None) -> Tensor:
        """A state of tensors (N,): the given one, or the stacks', which become views of it."""
        if array is None:
            array = torch.cat([state[key].float().reshape(-1) for _, state in self.stacks])
        for (stack, state), part in zip(self.stacks, self._by_stack(array)):
            state[key] = part.view(-1, *(1,) * stack[0].ndim)
        return array

    def _by_stack(self, x: Tensor) -> tuple[Tensor, ...]:
        """Numbers of tensors, (..., N) -> (..., n) for every stack."""
        return x.split([len(stack) for stack, _ in self.stacks], dim=-1)

    def _size_grads(self) -> Tensor:
        of_stacks = [state["size_grads"].float() for _, state in self.stacks]
        return torch.cat([x.reshape(x.shape[:2]) for x in of_stacks], dim=1)

    def set_size_grads(self, size_grads: Tensor) -> None:
        """Sets the size gradients since sizes were last changed (steps, N)."""
        self.size_grads = size_grads
        for (stack, state), part in zip(self.stacks, self._by_stack(size_grads)):
            state["size_grads"] = part.view(*part.shape, *(1,) * stack[0].ndim)

    def _set_step(self, step: int) -> None:
        for _, state in self.stacks:
            state["step"] = step

    def count_step(self) -> int:
        """Counts a step. Returns the number of those before it."""
        step = self.stacks[0][1]["step"]
        self._set_step(step + 1)
        return step

    def _chunks(self) -> Iterator[Chunk]:
        """The tensors in turn: each large one alone, small ones together up to a piece."""
        piece = piece_size(self.momentum.device)
        together: list[Tensor] = []
        begin = end = 0
        for p in self.tensors:
            fits = p.numel() <= SMALL * piece and end - begin + p.numel() <= piece
            if together and not fits:
                yield self._chunk(together, begin, end)
                together, begin = [], end
            together.append(p)
            end += p.numel()
        yield self._chunk(together, begin, end)

    def _chunk(self, tensors: list[Tensor], begin: int, end: int) -> Chunk:
        return Chunk(tensors, self.momentum[begin:end], self.second_moment[begin:end])

    def read(self) -> None:
        """Reads the present values and gradients, and measures the gradients."""
        for chunk in self.chunks:
            chunk.read()
        self.grad_norms = torch.cat([chunk.norms(chunk.grad) for chunk in self.chunks])
        self.products = torch.cat([chunk.products() for chunk in self.chunks])

    def drop_gradients(self) -> None:
        """Makes all gradients zero for this step, also those that are not finite."""
        self.products = torch.zeros_like(self.products)
        for chunk in self.chunks:
            chunk.grad = torch.zeros_like(chunk.grad)

    def present_rms(self) -> Tensor:
        """The root mean square of every tensor as it was read (N,)."""
        norms = torch.cat([chunk.norms(chunk.param) for chunk in self.chunks])
        return norms / self.counts.sqrt()

    def per_element(self, x: Tensor) -> list[Tensor]:
        """Numbers of all tensors (N,), as every chunk needs them for its elements."""
        parts = x.split([len(chunk.tensors) for chunk in self.chunks])
        return [chunk.per_element(part) for chunk, part in zip(self.chunks, parts)]

    def move(self, step: ElementStep, growth: Tensor | None) -> None:
        """Takes the step of all elements, and adds to tensors these shares of theirs (N,)."""
        growths = [None] * len(self.chunks) if growth is None else self.per_element(growth)
        for chunk, size, share in zip(self.chunks, self.sizes, growths):
            chunk.move(step, size, share, self.scratch)
