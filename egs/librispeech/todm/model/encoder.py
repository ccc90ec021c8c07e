"""The encoder: blocks of MH-SSM and FFN, any of which a subnet may shrink or leave out."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from todm.config.keys import ModelConfig
from todm.model.feed_forward import FeedForward
from todm.model.frontend import Frontend
from todm.model.gates import Gate, Gates
from todm.model.mhssm import MultiHeadSSM
from todm.model.ssm import BLOCK, BlockwiseOperators, make_operators
from todm.subnet import BlockChoice, Subnet

Operators = list[list[BlockwiseOperators]]  # per block, per stacked SSM
States = list[list[Tensor]]  # the same, (C, B, 2N) each: of streaming


def head_groups(config: ModelConfig) -> int:
    """The number of head groups of the MH-SSM, which a subnet keeps or leaves out as a whole: pairs
    of value and gating head, or without gating single heads."""
    return config.heads // 2 if config.gating else config.heads


def full_architecture(config: ModelConfig, ffn_chunks: int) -> Subnet:
    """The largest net: every head group and every chunk of every block."""
    return Subnet.leading([(head_groups(config), ffn_chunks)] * config.blocks)


class Block(nn.Module):
    """One block of the encoder: x + MultiHeadSSM(x), then x + FFN(x). A module of size 0 is not
    built."""

    ssm: MultiHeadSSM | None
    ffn: FeedForward | None

    def __init__(
        self, config: ModelConfig, chunk_dim: int, groups: int, chunks: int, adaptive: bool
    ):
        super().__init__()
        self.ssm = self.ffn = None
        if groups:
            self.ssm = MultiHeadSSM(
                config.dim,
                config.ssm_dim // config.heads,
                groups,
                config.gating,
                config.modes,
                config.stack,
                config.direction == "bidirectional",
                (config.dt_min, config.dt_max),
                config.dropout,
                adaptive,
                head_groups(config),
            )
        if chunks:
            self.ffn = FeedForward(config.dim, chunk_dim, chunks, config.dropout, adaptive)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        choice: BlockChoice,
        operators: list[BlockwiseOperators],
        states: list[Tensor] | None = None,
        gates: tuple[Gate, Gate] | None = None,
    ) -> Tensor:
        """The block with the parts that ``choice`` keeps: (B, T, dim) -> (B, T, dim).

        Args:
          mask: (B, T) bool, True at real frames. operators: of the block's SSMs.
          states: of its SSMs, in streaming. gates: of learned selection, of the SSM and the FFN.
        """
        ssm_gate, ffn_gate = gates or (None, None)
        if choice.heads and self.ssm is not None:
            x = x + self.ssm(x, mask, choice.heads, operators, states, ssm_gate)
        if choice.ffn and self.ffn is not None:
            x = x + self.ffn(x, choice.ffn, ffn_gate)
        return x


class Encoder(nn.Module):
    """The encoder: frontend, blocks, final LayerNorm.

    Args:
      architecture: what to build of the largest net; its own blocks are then numbered from 0
        (``architecture.packed()``).
      adaptive_dropout: scale dropout with the width of the subnet that runs.
    """

    def __init__(
        self,
        config: ModelConfig,
        ffn_chunks: int,
        architecture: Subnet,
        adaptive_dropout: bool = True,
    ):
        super().__init__()
        self.full = architecture.packed()
        self.frontend = Frontend(config.frontend_channels, config.dim, config.tail_frames)
        chunk_dim = config.ffn_dim // ffn_chunks
        blocks = (Block(config, chunk_dim, g, c, adaptive_dropout) for g, c in self.full.sizes)
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))
        self.norm = nn.LayerNorm(config.dim, bias=False)

    def operators(self, block: int = BLOCK) -> Operators:
        """The operators of the SSMs of all blocks, made from their parameters once per step for
        all subnets.

        Args:
          block: frames in a block of the blockwise form; in streaming the encoder frames of a
            chunk.
        """
        ssms = [list(block.ssm.ssms) if block.ssm is not None else [] for block in self.blocks]
        with torch.autocast(self.norm.weight.device.type, enabled=False):
            made = iter(
                make_operators([ssm for of_block in ssms for ssm in of_block], block)
                if any(ssms)
                else []
            )
        return [[next(made) for _ in of_block] for of_block in ssms]

    def encode(
        self,
        x: Tensor,
        lengths: Tensor,
        subnet: Subnet,
        operators: Operators,
        gates: Gates | None = None,
    ) -> Tensor:
        """The blocks of one subnet: frontend output (B, T', dim), lengths (B,) in encoder frames ->
        (B, T', dim).

        Args:
          gates: of learned selection: what the parts of the largest net, which ``subnet`` then is,
            are multiplied by.
        """
        if not subnet.within(self.full):
            raise ValueError(
                f"the subnet does not fit this model.\n  subnet: {subnet}\n  model:  {self.full}"
            )
        mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        for i, (block, choice, ops) in enumerate(zip(self.blocks, subnet.blocks, operators)):
            x = block(x, mask, choice, ops, gates=None if gates is None else gates.of_block(i))
        return self.norm(x)

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        subnet: Subnet | None = None,
        operators: Operators | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, T, 80) features and their lengths (B,) -> (B, T', dim) and lengths (B,), of whole
        utterances."""
        x, lengths = self.frontend(features, lengths), self.frontend.length(lengths)
        return self.encode(x, lengths, subnet or self.full, operators or self.operators()), lengths

    def initial_states(self, batch: int, subnet: Subnet | None = None) -> States:
        """The states of a causal subnet's SSMs before the first chunk of a stream, which are 0.

        Raises:
          ValueError: the model is bidirectional, so it can not stream.
        """
        weight = self.norm.weight
        states: States = []
        for block, choice in zip(self.blocks, (subnet or self.full).blocks):
            if block.ssm is None or not choice.heads:
                states.append([])
                continue
            if block.ssm.directions == 2:
                raise ValueError(
                    "a bidirectional model can not stream; train a causal one "
                    "(model.direction=causal)"
                )
            channels = len(block.ssm.ssm_index(choice.heads, weight.device))
            sizes = [2 * ssm.a_imag.shape[1] for ssm in block.ssm.ssms]
            states.append([weight.new_zeros(channels, batch, size) for size in sizes])
        return states

    def step(
        self, features: Tensor, states: States, subnet: Subnet, operators: Operators
    ) -> tuple[Tensor, States]:
        """One chunk of a stream: the next Q frames of what :meth:`forward` computes of the whole
        utterance.

        Args:
          features: (B, 4 Q + 3, 80), the last 3 frames of which are the first 3 of the next chunk.
          states: by :meth:`initial_states` or of the chunk before.
          operators: by ``operators(Q)``.
        Returns:
          (B, Q, dim) and the states after it.
        """
        x = self.frontend(features)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        states = [list(of_block) for of_block in states]
        for block, choice, ops, of_block in zip(self.blocks, subnet.blocks, operators, states):
            x = block(x, mask, choice, ops, of_block)
        return self.norm(x), states
