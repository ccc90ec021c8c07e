"""The blockwise form of SSMs (:mod:`todm.model.blockwise`) as exported graphs compute it.

Graphs have no complex numbers, so a state is its real parts and then its imaginary parts.  The
operators are constants of the graph: to make them from the parameters would cost a client time and
much more memory whenever it loads a model.  They are those of short blocks, which makes them small.

The states between blocks are a ``Scan``, which can not be written in PyTorch: the exporter writes a
node of its own for it, which :func:`todm.deploy.onnx_graph.write_graph` replaces.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from todm.model.blockwise import BlockwiseOperators
from todm.model.encoder import Encoder

BLOCK = 8  # frames in a block of exported offline encoders
CARRY_STATE = "todm::CarryState"

RealState = tuple[Tensor, Tensor]  # real and imaginary parts


class GraphOperators(nn.Module):
    """The operators of one SSM as constants: C channels, Q frames in a block, N modes.

    Args:
      operators: of blocks of Q frames.
    """

    collect: Tensor  # (C, Q, 2N): a block's inputs -> their part of the state at its end
    emit: Tensor  # (C, Q + 2N, Q): a block's inputs and the state before it -> its outputs
    decay_real: Tensor  # (C, 1, N)
    decay_imag: Tensor
    skip: Tensor  # (C, 1, 1)

    def __init__(self, operators: BlockwiseOperators):
        super().__init__()
        toeplitz, collect, decay, emit, skip = (x.detach() for x in operators)
        self.channels, self.block, _ = toeplitz.shape
        constants = {
            "collect": torch.cat([collect[..., 0::2], collect[..., 1::2]], dim=2),
            "emit": torch.cat([toeplitz, emit[:, 0::2], emit[:, 1::2]], dim=1),
            "decay_real": decay.real[:, None],
            "decay_imag": decay.imag[:, None],
            "skip": skip[:, None, None],
        }
        for name, value in constants.items():
            self.register_buffer(name, value.clone(memory_format=torch.contiguous_format))

    def run(self, u: Tensor) -> Tensor:
        """Whole sequences from the zero state: ``u`` (C, B, T) -> (C, B, T), causal, of any
        length."""
        length = u.shape[2]
        blocks = (length + self.block - 1) // self.block
        x = nn.functional.pad(u, (0, blocks * self.block - length))
        x = x.reshape(self.channels, -1, self.block)  # (C, B blocks, Q)
        arriving = torch.bmm(x, self.collect).reshape(self.channels, -1, blocks, self.modes * 2)
        real, imag = arriving.split(self.modes, dim=3)  # (C, B, blocks, N)
        zero = torch.zeros_like(real[:, :, 0])
        before = CarryState.apply(zero, zero, real, imag, self.decay_real, self.decay_imag)
        together = [x, *(h.reshape(self.channels, -1, self.modes) for h in before)]
        y = torch.bmm(torch.cat(together, dim=2), self.emit)
        return y.reshape(self.channels, -1, blocks * self.block)[..., :length] + self.skip * u

    def step(self, u: Tensor, state: RealState) -> tuple[Tensor, RealState]:
        """One block from the state before it: ``u`` (C, B, Q), state (C, B, N) twice -> output (C,
        B, Q) and the next state."""
        y = torch.bmm(torch.cat([u, *state], dim=2), self.emit) + self.skip * u
        real, imag = torch.bmm(u, self.collect).split(self.modes, dim=2)
        return y, carried(*state, real, imag, self.decay_real, self.decay_imag)

    def select(self, channels: Tensor) -> "GraphOperators":
        """Not for exported models, which are built from the parts that they keep.

        Raises:
          ValueError: always.
        """
        raise ValueError("an exported model runs with all of its channels")

    @property
    def modes(self) -> int:
        """N."""
        return self.decay_real.shape[2]


def carried(
    real: Tensor,
    imag: Tensor,
    add_real: Tensor,
    add_imag: Tensor,
    lam_real: Tensor,
    lam_imag: Tensor,
) -> RealState:
    """The complex number lam h + add, in real numbers."""
    return (
        add_real + (lam_real * real - lam_imag * imag),
        add_imag + (lam_real * imag + lam_imag * real),
    )


class CarryState(torch.autograd.Function):
    """The states before each block, as :func:`todm.model.blockwise.carry_state`; in a graph the
    node that becomes a ``Scan``."""

    @staticmethod
    def forward(
        ctx: Any,
        real: Tensor,
        imag: Tensor,
        add_real: Tensor,
        add_imag: Tensor,
        lam_real: Tensor,
        lam_imag: Tensor,
    ) -> RealState:
        """The first state (C, B, N), what each block adds (C, B, blocks, N) and the decay (C, 1,
        N), in parts -> (C, B, blocks, N) twice."""
        states = [(real, imag)]
        for more in zip(add_real.unbind(2)[:-1], add_imag.unbind(2)[:-1]):
            states.append(carried(*states[-1], *more, lam_real, lam_imag))
        reals, imags = zip(*states)
        return torch.stack(reals, dim=2), torch.stack(imags, dim=2)

    @staticmethod
    def symbolic(g: Any, *inputs: Any) -> Any:
        """The node in the graph."""
        before = g.op(CARRY_STATE, *inputs, outputs=2)
        for output in before:
            output.setType(inputs[2].type())
        return before


def graph_operators(encoder: Encoder, chunk: int | None = None) -> nn.ModuleList:
    """The operators of all blocks as constants, by block and stacked SSM.

    Args:
      chunk: encoder frames of a chunk of a stream; None: whole utterances.
    """
    with torch.no_grad():
        made = encoder.operators(chunk) if chunk else encoder.operators(block=BLOCK)
    return nn.ModuleList(
        nn.ModuleList(GraphOperators(cast(BlockwiseOperators, one)) for one in of_block)
        for of_block in made
    )
