"""A record: the small JSON file that a finished run of the tables leaves, and that a table is made
from."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from todm.results.decode_results import (
    DecodeRow,
    RunResults,
    SplitUtterances,
    numbers_to_text,
    text_to_numbers,
)
from utils.errors import UserError
from utils.files import read_json, write_json_atomic


@dataclass(frozen=True)
class RunPlan:
    """A run of the tables before it has results.

    Attributes:
      run: its name, which its folder and its record have too.
      variant: what is compared: ``supernet``, ``individual BUDGET`` or the name of an ablation.
      setting: of the variant's grid; empty: the conf's own values.
      tuned_by: the split that the setting is chosen on; empty: the setting was not tuned.
      processes: of its training.
      conf: the values of the conf that its results depend on, by dotted key.
      command: the command line of its training.
    """

    run: str
    variant: str
    setting: str
    tuned_by: str
    processes: int
    conf: dict[str, Any]
    command: str

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON files have it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunPlan":
        """The inverse of :meth:`as_dict`; other keys are left alone.

        Raises:
          KeyError: a key is missing.
        """
        return cls(**{field.name: values[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class RunJob:
    """run.json: what is decoded once a run's training has finished, and where the record goes.

    Attributes:
      conf, overrides: the configuration as one types it after ``--conf``.
      nets: architectures that are decoded; none: those that the run itself has selected.
      record: path of the record to write.
      facts: what the record says of the run.
    """

    conf: str
    overrides: tuple[str, ...]
    nets: tuple[str, ...]
    record: str
    facts: RunPlan

    def write(self, path: Path) -> None:
        """Writes run.json."""
        write_json_atomic(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "RunJob":
        """Reads run.json.

        Raises:
          UserError: a key is missing.
        """
        values = read_json(path)
        try:
            return cls(
                values["conf"],
                tuple(values["overrides"]),
                tuple(values["nets"]),
                values["record"],
                RunPlan.from_dict(values["facts"]),
            )
        except KeyError as error:
            raise UserError(f"{path} lacks {error}") from error


@dataclass(frozen=True)
class Curve:
    """A loss over the updates of a training. Attributes: values: of every update, 4 digits."""

    updates: tuple[int, ...]
    values: tuple[float, ...]

    def as_dict(self) -> dict[str, str]:
        """The curve as JSON files have it, a line of text for each list."""
        return {
            "updates": numbers_to_text(self.updates),
            "values": " ".join(f"{value:.4f}" for value in self.values),
        }

    @classmethod
    def from_dict(cls, values: dict[str, str]) -> "Curve":
        """The inverse of :meth:`as_dict`."""
        return cls(text_to_numbers(values["updates"]), tuple(map(float, values["values"].split())))


@dataclass(frozen=True)
class Record:
    """A finished run of the tables.

    Attributes:
      curves: losses by tensorboard's tag.
    """

    plan: RunPlan
    results: RunResults
    curves: dict[str, Curve]

    @property
    def variant(self) -> str:
        """The variant that the run is of."""
        return self.plan.variant

    @property
    def setting(self) -> str:
        """The setting of the variant's grid; empty: the conf's own values."""
        return self.plan.setting

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.results.run.seed

    @property
    def rows(self) -> tuple[DecodeRow, ...]:
        """The results of every net, split and search method."""
        return self.results.rows

    @property
    def utterances(self) -> dict[str, SplitUtterances]:
        """The utterances of every split."""
        return self.results.utterances

    def as_dict(self) -> dict[str, Any]:
        """The record as its file has it: the plan, the results, the curves."""
        curves = {tag: curve.as_dict() for tag, curve in self.curves.items()}
        return self.plan.as_dict() | self.results.as_dict() | {"curves": curves}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Record":
        """The inverse of :meth:`as_dict`.

        Raises:
          UserError: a key is missing, or a value is not of its kind.
        """
        try:
            plan = RunPlan.from_dict(values)
            curves = {tag: Curve.from_dict(curve) for tag, curve in values["curves"].items()}
        except KeyError as error:
            raise UserError(f"a record lacks {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"a record is damaged: {error}") from error
        return cls(plan, RunResults.from_dict(values), curves)

    def write(self, path: Path) -> None:
        """Writes the record's file."""
        write_json_atomic(path, self.as_dict())

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Reads a record's file.

        Raises:
          UserError: it is damaged.
        """
        try:
            return cls.from_dict(read_json(path))
        except (UserError, ValueError) as error:
            advice = "stages 7 and 8 make it anew once it is deleted"
            raise UserError(f"{path} can not be read: {error}; {advice}") from error
