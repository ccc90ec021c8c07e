"""Files of stage 10 as values: checked.json and export.json of every exported folder, and
results.json above them."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from todm.results.decode_results import RunFacts
from todm.results.export_files import FACTS
from todm.results.export_rows import BenchmarkRow, ClientRow, Difference, KeptLayer, Variant
from todm.results.subnets import SubnetEntry
from utils.errors import UserError
from utils.files import read_json, write_json_atomic
from utils.text import first_line

FINDINGS = "checked.json"  # in an exported folder: what was found of its subnet
RESULTS = "results.json"  # beside the exported folders
KeptLayers = dict[str, tuple[KeptLayer, ...]]  # by mode
File = TypeVar("File")


def read_file(path: Path, parse: Callable[[Any], File]) -> File:
    """Reads one of these files.

    Raises:
      FileNotFoundError: there is none.
      UserError: it is damaged.
    """
    try:
        return parse(read_json(path))
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}; export it again") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {first_line(error)}; export it again") from error


@contextlib.contextmanager
def damage_told(what: str) -> Iterator[None]:
    """Says of what a key is missing, or a value is not of its kind, in a UserError."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{what} lack {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{what} are damaged: {error}") from error


def kept_from_dict(values: dict[str, list]) -> KeptLayers:
    """The layers that stay in fp32 by mode, out of lists."""
    return {
        mode: tuple(KeptLayer(node, error) for node, error in layers)
        for mode, layers in values.items()
    }


def kept_as_dict(kept: KeptLayers) -> dict[str, list]:
    """The inverse of :func:`kept_from_dict`."""
    return {mode: [list(layer) for layer in layers] for mode, layers in kept.items()}


@dataclass(frozen=True)
class Findings:
    """The findings of stage 10 about one subnet, as checked.json has them.

    Attributes:
      key: what the files and the findings depend on.
      graph_errors: the largest difference of an encoder's outputs from torch's, by mode.
      int8_kept_in_fp32: layers that cost too much WER in int8, by mode.
    """

    key: dict[str, Any]
    rows: tuple[ClientRow, ...]
    differences: tuple[Difference, ...]
    graph_errors: dict[str, float]
    int8_kept_in_fp32: KeptLayers

    def as_dict(self) -> dict[str, Any]:
        """The findings as checked.json has them."""
        return {
            "key": self.key,
            "rows": [row.as_dict() for row in self.rows],
            "differences": [each.as_dict() for each in self.differences],
            "graph_errors": self.graph_errors,
            "int8_kept_in_fp32": kept_as_dict(self.int8_kept_in_fp32),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Findings":
        """The inverse of :meth:`as_dict`.

        Raises:
          UserError: a key is missing, or a value is not of its kind.
        """
        with damage_told("the findings of stage 10"):
            return cls(
                values["key"],
                tuple(map(ClientRow.from_dict, values["rows"])),
                tuple(map(Difference.from_dict, values["differences"])),
                values["graph_errors"],
                kept_from_dict(values["int8_kept_in_fp32"]),
            )


@dataclass(frozen=True)
class Measured:
    """All that is found and measured of one subnet, with its origin, as export.json has it."""

    rows: tuple[ClientRow, ...]
    benchmark: tuple[BenchmarkRow, ...]
    graph_errors: dict[str, float]
    int8_kept_in_fp32: KeptLayers
    corpus: str
    weights: str
    updates: int
    commit: str
    machine: str

    def as_dict(self) -> dict[str, Any]:
        """The values as export.json has them."""
        return asdict(self) | {
            "rows": [row.as_dict() for row in self.rows],
            "benchmark": [row.as_dict() for row in self.benchmark],
            "int8_kept_in_fp32": kept_as_dict(self.int8_kept_in_fp32),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Measured":
        """The inverse of :meth:`as_dict`; other keys are left alone.

        Raises:
          KeyError, UserError: a key is missing, or a value is not of its kind.
        """
        facts = ("corpus", "weights", "updates", "commit", "machine")
        return cls(
            tuple(map(ClientRow.from_dict, values["rows"])),
            tuple(map(BenchmarkRow.from_dict, values["benchmark"])),
            values["graph_errors"],
            kept_from_dict(values["int8_kept_in_fp32"]),
            **{key: values[key] for key in facts},
        )


@dataclass(frozen=True)
class ExportFacts:
    """The content of export.json: the facts of one exported subnet.

    Attributes:
      entry: the subnet as subnets.json has it.
      longest_seconds: of speech that the net has learnt to recognise at once; None: not known.
      measured: None until stage 10 has been through all subnets.
    """

    entry: SubnetEntry
    longest_seconds: float | None
    measured: Measured | None = None

    def as_dict(self) -> dict[str, Any]:
        """The facts as export.json has them."""
        measured = self.measured.as_dict() if self.measured else {}
        return self.entry.as_dict() | {"longest_seconds": self.longest_seconds} | measured

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ExportFacts":
        """The inverse of :meth:`as_dict`; other keys are left alone.

        Raises:
          UserError: a key is missing, or a value is not of its kind.
        """
        with damage_told("the facts of an exported subnet"):
            measured = Measured.from_dict(values) if "rows" in values else None
            return cls(SubnetEntry.from_dict(values), values.get("longest_seconds"), measured)

    @classmethod
    def read(cls, folder: Path) -> "ExportFacts":
        """Reads export.json of an exported folder, as :func:`read_file` does."""
        return read_file(folder / FACTS, cls.from_dict)

    def write(self, folder: Path) -> None:
        """Writes export.json into an exported folder."""
        write_json_atomic(folder / FACTS, self.as_dict())


@dataclass(frozen=True)
class ExportResults:
    """All that stage 10 found and measured, as export/results.json has it.

    Attributes:
      torch_results: WER of stage 6 in percent, by subnet, split and method: ``NAME/SPLIT/METHOD``.
      pieces: the number of BPE pieces; None in files of earlier versions.
      graph_errors, int8_kept_in_fp32: as in :class:`Findings`, by subnet.
    """

    run: RunFacts
    torch_results: dict[str, float]
    pieces: int | None
    rows: tuple[ClientRow, ...]
    differences: tuple[Difference, ...]
    graph_errors: dict[str, dict[str, float]]
    int8_kept_in_fp32: dict[str, KeptLayers]
    benchmark: tuple[BenchmarkRow, ...]

    @property
    def splits(self) -> list[str]:
        """The splits that the client decoded, in order."""
        return list(dict.fromkeys(row.split for row in self.rows))

    def row(self, variant: Variant, split: str) -> ClientRow:
        """The row of a variant and a split, of the search that was asked for first."""
        return next(row for row in self.rows if (row.variant, row.split) == (variant, split))

    def torch_wer(self, name: str, split: str, method: str) -> float | None:
        """WER of stage 6 in percent; None where it did not decode this."""
        return self.torch_results.get(f"{name}/{split}/{method}")

    def measured(self, name: str) -> Measured:
        """The part that is about one subnet."""
        return Measured(
            tuple(row for row in self.rows if row.name == name),
            tuple(row for row in self.benchmark if row.name == name),
            self.graph_errors[name],
            self.int8_kept_in_fp32[name],
            *(self.run.corpus, self.run.weights, self.run.updates),
            *(self.run.commit, self.run.machine),
        )

    def as_dict(self) -> dict[str, Any]:
        """The results as export/results.json has them."""
        pieces = {} if self.pieces is None else {"pieces": self.pieces}
        kept = {name: kept_as_dict(modes) for name, modes in self.int8_kept_in_fp32.items()}
        return (
            self.run.as_dict()
            | {"torch_results": self.torch_results}
            | pieces
            | {
                "rows": [row.as_dict() for row in self.rows],
                "differences": [each.as_dict() for each in self.differences],
                "graph_errors": self.graph_errors,
                "int8_kept_in_fp32": kept,
                "benchmark": [row.as_dict() for row in self.benchmark],
            }
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ExportResults":
        """The inverse of :meth:`as_dict`; other keys are left alone.

        Raises:
          UserError: a key is missing, or a value is not of its kind.
        """
        with damage_told("the results of stage 10"):
            kept = values["int8_kept_in_fp32"]
            return cls(
                RunFacts.from_dict(values),
                values["torch_results"],
                values.get("pieces"),
                tuple(map(ClientRow.from_dict, values["rows"])),
                tuple(map(Difference.from_dict, values["differences"])),
                values["graph_errors"],
                {name: kept_from_dict(modes) for name, modes in kept.items()},
                tuple(map(BenchmarkRow.from_dict, values["benchmark"])),
            )

    @classmethod
    def read(cls, root: Path) -> "ExportResults":
        """Reads results.json of the folder of all exported subnets, as :func:`read_file` does."""
        return read_file(root / RESULTS, cls.from_dict)

    def write(self, root: Path) -> None:
        """Writes results.json into the folder of all exported subnets."""
        write_json_atomic(root / RESULTS, self.as_dict())
