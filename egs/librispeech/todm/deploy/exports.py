"""Which subnets are exported, and in which ways each can be used."""

from dataclasses import dataclass
from pathlib import Path

from todm.config.keys import Config
from todm.results.export_files import graph, parts
from todm.results.export_rows import Variant
from todm.results.subnets import SubnetEntry
from todm.training.experiment import Experiment

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Exports:
    """The subnets that stage 10 exports.

    Attributes:
      config: the conf of the export; the training's own is in ``experiment``.
      root: where the folders of the subnets lie.
    """

    config: Config
    experiment: Experiment
    entries: list[SubnetEntry]
    root: Path

    @property
    def ctc(self) -> bool:
        """Whether the subnets are CTC models."""
        return self.experiment.model.is_ctc

    def modes(self, entry: SubnetEntry) -> list[str]:
        """``offline``, and ``streaming`` for a causal transducer; no client streams our CTC
        models."""
        causal = self.experiment.model.encoder.can_stream(entry.subnet)
        return ["offline", "streaming"] if causal and not self.ctc else ["offline"]

    @property
    def methods(self) -> list[str]:
        """The searches that dev is decoded with, of which test is decoded with the first; the
        client searches CTC models greedily alone."""
        return ["greedy"] if self.ctc else self.config.export.methods

    @property
    def variants(self) -> list[Variant]:
        """All ways in which all subnets can be used."""
        return [
            Variant(entry.name, mode, precision)
            for entry in self.entries
            for mode in self.modes(entry)
            for precision in PRECISIONS
        ]

    def graphs(self, entry: SubnetEntry) -> list[str]:
        """File names of the graphs in a subnet's folder."""
        modes = self.modes(entry)
        needed = dict.fromkeys(part for mode in modes for part in parts(mode, self.ctc))
        return [graph(part, precision) for part in needed for precision in PRECISIONS]

    def folder(self, entry: SubnetEntry) -> Path:
        """The folder of a subnet."""
        return self.root / entry.name

    def encoder(self, entry: SubnetEntry, mode: str, precision: str) -> Path:
        """The graph of a subnet's encoder, or of a whole CTC model."""
        return self.folder(entry) / graph(parts(mode, self.ctc)[0], precision)
