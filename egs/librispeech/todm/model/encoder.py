"""The encoder: blocks of MH-SSM and FFN, any of which a subnet may shrink or leave out."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from todm.config.keys import ModelConfig
from todm.model.blockwise import BLOCK, SSMOperators, make_operators
from todm.model.feed_forward import FeedForward
from todm.model.frontend import Frontend
from todm.model.gates import Gate, Gates
from todm.model.mhssm import MultiHeadSSM
from todm.model.multi_rate import LowerRate, common_multiple, rate_groups
from todm.subnet import BlockChoice, Subnet

Operators = Sequence[Sequence[SSMOperators]]  # per block, per stacked SSM
# the same, of streaming: complex (C, B, N) each; in exported graphs real parts and imaginary parts
States = list[list[Any]]


def head_groups(config: ModelConfig) -> int:
    """The number of head groups of the MH-SSM, which a subnet keeps or leaves out as a whole: pairs
    of value and gating head, or without gating single heads."""
    return config.heads // 2 if config.gating else config.heads


def block_rates(config: ModelConfig) -> list[int]:
    """The encoder frames for one frame of every block: ``model.rates``, by default 1."""
    return config.rates or [1] * config.blocks


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
                config.direction != "causal",
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
        operators: Sequence[SSMOperators],
        states: list[Any] | None = None,
        gates: tuple[Gate, Gate] | None = None,
        causal: bool = False,
    ) -> Tensor:
        """The block with the parts that ``choice`` keeps: (B, T, dim) -> (B, T, dim).

        Args:
          mask: (B, T) bool, True at real frames. operators: of the block's SSMs.
          states: of its SSMs, in streaming. gates: of learned selection, of the SSM and the FFN.
          causal: whether the backward direction of a dual supernet is left out.
        """
        ssm_gate, ffn_gate = gates or (None, None)
        if choice.heads and self.ssm is not None:
            x = x + self.ssm(x, mask, choice.heads, operators, states, ssm_gate, causal)
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
        self.direction = config.direction
        self.groups = rate_groups(block_rates(config))
        self.multiple = common_multiple(config.rates)
        self.frontend = Frontend(config.frontend_channels, config.dim, config.tail_frames)
        chunk_dim = config.ffn_dim // ffn_chunks
        blocks = (Block(config, chunk_dim, g, c, adaptive_dropout) for g, c in self.full.sizes)
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))
        # of the groups with blocks at a lower rate, by the number of the group
        self.lower = nn.ModuleDict(
            {
                str(i): LowerRate(group.rate)
                for i, group in enumerate(self.groups)
                if group.rate > 1 and any(self.full.sizes[b] != (0, 0) for b in group.blocks)
            }
        )
        self.norm = nn.LayerNorm(config.dim, bias=False)

    def operators(self, chunk: int | None = None, block: int = BLOCK) -> Operators:
        """The operators of the SSMs of all blocks, made from their parameters once per step for
        all subnets.

        Args:
          chunk: in streaming the encoder frames of a chunk, which are then a block of the blockwise
            form, at the lower rates accordingly fewer; None: whole utterances.
          block: of whole utterances, frames in a block of the blockwise form.
        """
        ssms = [list(block.ssm.ssms) if block.ssm is not None else [] for block in self.blocks]
        made: list[list[SSMOperators]] = [[] for _ in self.blocks]
        with torch.autocast(self.norm.weight.device.type, enabled=False):
            for rate in sorted({group.rate for group in self.groups}):
                numbers = [i for group in self.groups if group.rate == rate for i in group.blocks]
                if not any(ssms[i] for i in numbers):
                    continue
                size = chunk // rate if chunk else block
                of_rate = iter(make_operators([x for i in numbers for x in ssms[i]], size))
                for i in numbers:
                    made[i] = [next(of_rate) for _ in ssms[i]]
        return made

    def require(self, subnet: Subnet) -> None:
        """Refuses a subnet that is none of this model.

        Raises:
          ValueError: it keeps something that the model lacks, or it leaves out the backward
            direction of a model that was not trained for that.
        """
        if not subnet.within(self.full):
            raise ValueError(f"subnet {subnet} does not fit the model: {self.full}")
        if subnet.causal and self.direction != "dual":
            raise ValueError(
                f"subnet {subnet} leaves out the backward direction, which only a supernet of "
                f"model.direction=dual learns to do without; this one is {self.direction}"
            )

    def can_stream(self, subnet: Subnet) -> bool:
        """Whether a subnet sees nothing of the future, so that it can decode audio as it
        arrives."""
        return subnet.causal or self.direction == "causal"

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
        self.require(subnet)
        length = x.shape[1]
        if self.multiple > 1:
            x = nn.functional.pad(x, (0, 0, 0, -length % self.multiple))
        return self.norm(self.run_blocks(x, lengths, subnet, operators, None, gates)[:, :length])

    def run_blocks(
        self,
        x: Tensor,
        lengths: Tensor,
        subnet: Subnet,
        operators: Operators,
        states: States | None,
        gates: Gates | None = None,
    ) -> Tensor:
        """The blocks that a subnet keeps, each at its rate: (B, T, dim) -> (B, T, dim).

        Args:
          x: its T is a multiple of every rate. lengths: (B,) real frames.
          states: in streaming, changed in place; None: whole utterances.
        """
        for number, (rate, blocks) in enumerate(self.groups):
            kept = [i for i in blocks if not subnet.blocks[i].dropped]
            if not kept:
                continue
            mask = _real_frames(lengths, x.shape[1])
            if rate == 1:
                frames = x
            else:
                lower = cast(LowerRate, self.lower[str(number)])
                frames = slow = lower.down(x, mask)
                mask = _real_frames((lengths + rate - 1) // rate, frames.shape[1])
            for i in kept:
                frames = self.blocks[i](
                    frames,
                    mask,
                    subnet.blocks[i],
                    operators[i],
                    None if states is None else states[i],
                    None if gates is None else gates.of_block(i),
                    subnet.causal,
                )
            x = frames if rate == 1 else lower.up(x, frames - slow)
        return x

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
          ValueError: the subnet is bidirectional, so it can not stream.
        """
        weight, subnet = self.norm.weight, subnet or self.full
        if not self.can_stream(subnet) and any(choice.heads for choice in subnet.blocks):
            raise ValueError(
                "a bidirectional net can not stream; train a causal one (model.direction=causal), "
                "or a supernet that has both (model.direction=dual)"
            )
        states: States = []
        for block, choice in zip(self.blocks, subnet.blocks):
            if block.ssm is None or not choice.heads:
                states.append([])
                continue
            groups = len(choice.heads)
            channels = groups * block.ssm.heads_per_group * block.ssm.head_dim
            states.append(
                [
                    weight.new_zeros(channels, batch, ssm.a_imag.shape[1], dtype=torch.complex64)
                    for ssm in block.ssm.ssms
                ]
            )
        return states

    def step(
        self,
        features: Tensor,
        states: States,
        subnet: Subnet,
        operators: Operators,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, States]:
        """One chunk of a stream: the next Q frames of what :meth:`forward` computes of the whole
        utterance.

        Args:
          features: (B, 4 Q + 3, 80), the last 3 frames of which are the first 3 of the next chunk;
            Q is a multiple of every rate.
          states: by :meth:`initial_states` or of the chunk before.
          operators: by ``operators(Q)``.
          lengths: (B,) real encoder frames of the chunk, where an utterance ends in it; None: Q.
        Returns:
          (B, Q, dim) and the states after it.
        """
        x = self.frontend(features)
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        states = [list(of_block) for of_block in states]
        return self.norm(self.run_blocks(x, lengths, subnet, operators, states)), states


def _real_frames(lengths: Tensor, frames: int) -> Tensor:
    """The mask of a padded batch, (B, frames) bool: True at real frames."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]
