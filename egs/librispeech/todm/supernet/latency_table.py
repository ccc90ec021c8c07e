"""A table of measured latencies: what a subnet takes, as the sum over its blocks."""

from dataclasses import dataclass

from todm.subnet import Subnet


@dataclass(frozen=True)
class LatencyTable:
    """Latencies in milliseconds per second of audio, one utterance at a time on one thread.

    Attributes:
      engine: what ran it: sherpa-onnx or torch.
      fixed: frontend, final norm, greedy search. blocks: of a block by (head groups, FFN chunks).
    """

    machine: str
    engine: str
    fixed: float
    blocks: dict[tuple[int, int], float]

    def milliseconds(self, subnet: Subnet) -> float:
        """The sum over the subnet's blocks. A size that was not measured is an error of the caller
        (KeyError)."""
        return self.fixed + sum(self.blocks[size] for size in subnet.sizes if size != (0, 0))

    def as_dict(self) -> dict:
        """The table as latency.json has it."""
        return {
            "machine": self.machine,
            "engine": self.engine,
            "unit": "ms per second of audio, one thread",
            "fixed": self.fixed,
            "blocks": {f"{h},{c}": ms for (h, c), ms in self.blocks.items()},
        }

    @classmethod
    def from_dict(cls, values: dict) -> "LatencyTable":
        """The inverse of :meth:`as_dict`; a table without an engine was measured in torch."""
        blocks = {}
        for size, milliseconds in values["blocks"].items():
            groups, chunks = map(int, size.split(","))
            blocks[groups, chunks] = milliseconds
        return cls(values["machine"], values.get("engine", "torch"), values["fixed"], blocks)
