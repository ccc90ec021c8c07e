"""A table of measured latencies: what a subnet takes, as the sum over its blocks."""

from dataclasses import dataclass, field

from todm.model.multi_rate import rate_groups
from todm.subnet import Subnet

# A block as its time depends on it: encoder frames for one of its frames, head groups, FFN chunks.
TimedBlock = tuple[int, int, int]


@dataclass(frozen=True)
class LatencyTable:
    """Latencies in milliseconds per second of audio, one utterance at a time on one thread.

    Attributes:
      engine: what ran it: sherpa-onnx or torch.
      rates: encoder frames for one frame of every block of the supernet.
      fixed: frontend, final norm, greedy search. blocks: of a block.
      groups: of the way to a lower rate and back, which consecutive blocks share, by the rate.
    """

    machine: str
    engine: str
    rates: tuple[int, ...]
    fixed: float
    blocks: dict[TimedBlock, float]
    groups: dict[int, float] = field(default_factory=dict)

    def milliseconds(self, subnet: Subnet) -> float:
        """The sum over the subnet's blocks and rates. A size that was not measured is an error of
        the caller (KeyError)."""
        blocks, groups = timed_parts(subnet, self.rates)
        return (
            self.fixed
            + sum(self.blocks[block] for block in blocks)
            + sum(self.groups[rate] for rate in groups)
        )

    def as_dict(self) -> dict:
        """The table as latency.json has it."""
        return {
            "machine": self.machine,
            "engine": self.engine,
            "unit": "ms per second of audio, one thread",
            "rates": list(self.rates),
            "fixed": self.fixed,
            "blocks": {f"{r},{h},{c}": ms for (r, h, c), ms in self.blocks.items()},
            "groups": {str(rate): ms for rate, ms in self.groups.items()},
        }

    @classmethod
    def from_dict(cls, values: dict) -> "LatencyTable":
        """The inverse of :meth:`as_dict`.

        Of a table from before there were rates, ``rates`` are empty, and so are ``blocks``, whose
        rates are not known.
        """
        blocks: dict[TimedBlock, float] = {}
        rates = values.get("rates", [])
        for block, milliseconds in values["blocks"].items() if rates else ():
            rate, groups, chunks = map(int, block.split(","))
            blocks[rate, groups, chunks] = milliseconds
        return cls(
            values["machine"],
            values.get("engine", "torch"),
            tuple(rates),
            values["fixed"],
            blocks,
            {int(rate): ms for rate, ms in values.get("groups", {}).items()},
        )


def timed_parts(subnet: Subnet, rates: tuple[int, ...]) -> tuple[list[TimedBlock], list[int]]:
    """The parts of a subnet that take time: its blocks, and the rates of the groups of blocks that
    go to a lower rate and back."""
    blocks = [(rate, *size) for rate, size in zip(rates, subnet.sizes, strict=True) if any(size)]
    groups = [
        rate
        for rate, numbers in rate_groups(list(rates))
        if rate > 1 and any(not subnet.blocks[i].dropped for i in numbers)
    ]
    return blocks, groups


def needed_blocks(rates: tuple[int, ...], sizes: list[tuple[int, int]]) -> list[TimedBlock]:
    """Every block that a table must have, where blocks keep any of some sizes (head groups, FFN
    chunks)."""
    return [(rate, *size) for rate in sorted(set(rates)) for size in sizes]
