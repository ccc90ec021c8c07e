"""What a learned selection keeps or leaves out, and what that costs: whole modules, or their
components."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from todm.config.keys import Config
from todm.model.encoder import full_architecture
from todm.model.gates import Gates, any_of
from todm.subnet import BlockChoice, Subnet
from todm.supernet.cost import CostModel

KINDS = ("heads", "ffn")  # of a block: the SSM's head groups, the FFN's chunks


@dataclass(frozen=True)
class Unit:
    """Parts of one module that are kept or left out together.

    Attributes:
      kind: ``heads`` for the SSM, ``ffn``. parts: the numbers of head groups or of chunks.
    """

    block: int
    kind: str
    parts: tuple[int, ...]

    def __str__(self) -> str:
        name = "SSM" if self.kind == "heads" else "FFN"
        return f"block {self.block} {name}" + (f" {self.parts[0]}" if len(self.parts) == 1 else "")


class Units:
    """The units of a model: every SSM and every FFN, or every head group and every chunk.

    Args:
      granularity: ``module`` or ``component``.
      cost_name: the cost that budgets bound: ``encoder_params``, ``total_params`` or ``macs``.
    """

    def __init__(self, config: Config, vocab_size: int, granularity: str, cost_name: str):
        self.full = full_architecture(config.model, config.supernet.ffn_chunks)
        costs = CostModel(config, vocab_size)
        self._cost = costs.function(cost_name)
        # groups of blocks whose way to a lower rate has parameters, as many as the rate is
        self.lower = [g for g in costs.groups if g.rate > 1 and cost_name != "macs"]
        self.modules = granularity == "module"
        self.items: list[Unit] = []
        for i, block in enumerate(self.full.blocks):
            for kind in KINDS:
                parts = getattr(block, kind)
                self.items += (
                    [Unit(i, kind, parts)]
                    if granularity == "module"
                    else [Unit(i, kind, (part,)) for part in parts]
                )
        self.unit_of = {
            kind: torch.tensor(
                [
                    [self._number(i, kind, part) for part in getattr(self.full.blocks[0], kind)]
                    for i in range(len(self.full.blocks))
                ]
            )
            for kind in KINDS
        }  # (blocks, parts)
        self.fixed = self.cost(self.subnet([]))
        self.part_cost, self.module_cost = self._module_costs()

    def __len__(self) -> int:
        return len(self.items)

    def _number(self, block: int, kind: str, part: int) -> int:
        return next(
            n
            for n, unit in enumerate(self.items)
            if (unit.block, unit.kind) == (block, kind) and part in unit.parts
        )

    def subnet(self, kept: Iterable[int]) -> Subnet:
        """The net of some units, by their numbers."""
        parts: dict[tuple[int, str], list[int]] = {}
        for unit in (self.items[i] for i in kept):
            parts.setdefault((unit.block, unit.kind), []).extend(unit.parts)
        return Subnet(
            tuple(
                BlockChoice(*(tuple(sorted(parts.get((i, kind), ()))) for kind in KINDS))
                for i in range(len(self.full.blocks))
            )
        )

    def cost(self, subnet: Subnet) -> float:
        """The exact cost of a net, in the unit of ``cost_name``."""
        return self._cost(subnet)

    @property
    def full_cost(self) -> float:
        """The cost of the largest net."""
        return self.cost(self.full)

    def _module_costs(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """For every block, by its rate, the cost of a part of a kind, and that of a module beside
        its parts (norm, bias): (blocks,) each."""
        blocks = range(len(self.full.blocks))
        part, module = {}, {}
        for kind in KINDS:
            most = len(getattr(self.full.blocks[0], kind))
            one = torch.tensor([self._alone(i, kind, 1) for i in blocks], dtype=torch.float64)
            every = torch.tensor([self._alone(i, kind, most) for i in blocks], dtype=torch.float64)
            part[kind] = (every - one) / (most - 1) if most > 1 else one
            module[kind] = one - part[kind]
        return part, module

    def _alone(self, block: int, kind: str, count: int) -> float:
        """What so many parts of one module cost in a net that has nothing else, without what its
        group of blocks needs for a lower rate."""
        blocks = [BlockChoice((), ())] * len(self.full.blocks)
        blocks[block] = BlockChoice(**{k: tuple(range(count)) if k == kind else () for k in KINDS})
        lower = sum(group.rate for group in self.lower if block in group.blocks)
        return self.cost(Subnet(tuple(blocks))) - self.fixed - lower

    def gates(self, values: Tensor) -> Gates:
        """The model's gates from one number per unit, which its parts share: (..., N) -> (...,
        blocks, parts) of each kind, and (..., blocks) for what the parts of a module share."""
        # (..., N) taken at (blocks, parts) -> (..., blocks, parts)
        gates = [values[..., self.unit_of[kind].to(values.device)] for kind in KINDS]
        # Gates above 1 (of stochastic depth) are one number for a whole module, and so is what its
        # parts share.
        shared = (
            gate[..., 0] if self.modules else any_of(gate) * gate.detach().amax(-1).clamp(min=1)
            for gate in gates
        )
        return Gates(*gates, *shared)

    def expected_cost(self, values: Tensor) -> Tensor:
        """The cost of the net under gates: (..., N) -> (...); where they are 0 or 1, that of the
        net they say, but for the rounding of MACs at lower rates."""
        gates = self.gates(values)
        cost = values.new_zeros(values.shape[:-1])
        for kind, gate, shared in zip(KINDS, gates[:2], gates[2:]):
            part, module = self.part_cost[kind].to(gate), self.module_cost[kind].to(gate)
            # (..., blocks, parts) and (..., blocks) -> (...)
            cost = cost + (part * gate.sum(-1) + module * shared).sum(-1)
        modules = torch.stack(gates[2:], dim=-1)  # (..., blocks, 2)
        for rate, blocks in self.lower:
            cost = cost + rate * any_of(modules[..., blocks.start : blocks.stop, :].flatten(-2))
        return self.fixed + cost

    def prefix_within(self, order: list[int], budget: float) -> list[int]:
        """The first units of an order, as many as a budget allows.

        Raises:
          ValueError: not even the first one fits.
        """
        kept = 0
        while kept < len(order) and self.cost(self.subnet(order[: kept + 1])) <= budget * (
            1 + 1e-9
        ):
            kept += 1
        if not kept:
            raise ValueError(
                f"nothing fits a budget of {budget:.6g}: the fixed part costs {self.fixed:.6g}"
            )
        return order[:kept]
