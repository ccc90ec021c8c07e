"""results.json: what stage 6 measured of every subnet, and the training that it comes from.

Lists of numbers, one of every utterance, are a line of text each in the file and tuples here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet
from utils.calibration import Calibration
from utils.errors import UserError
from utils.files import read_json, write_json_atomic

# What results.json says of a decoded split beside the subnet and the errors of every utterance.
MEASURED = (
    *("split", "role", "method"),
    *("wer", "substitutions", "insertions", "deletions", "words"),
    *("utterances", "audio_seconds", "real_time_factor"),
)

LATER = ("cer", "oracle_wer")  # what results of an earlier version, or some of them, lack


@dataclass(frozen=True)
class RunFacts:
    """A training and the weights that were decoded, as every results file names them.

    Attributes:
      name: the conf's name.
      weights: the update or the updates whose weights were decoded, in words.
      audio_hours_trained: hours of audio in all batches together, repetitions counted.
      largest: the largest net of the model.
      machine, torch, commit, command: where, with what and how it was decoded.
    """

    name: str
    corpus: str
    weights: str
    updates: int
    audio_hours_trained: float
    training_seconds: float
    seed: int
    largest: Subnet
    machine: str
    torch: str
    commit: str
    command: str

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON files have them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"largest": str(self.largest)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunFacts":
        """The inverse of :meth:`as_dict`; other keys are left alone.

        Raises:
          KeyError, ValueError: a key is missing, or the architecture is none.
        """
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(**known | {"largest": Subnet.parse(values["largest"])})


@dataclass(frozen=True)
class SplitUtterances:
    """The utterances of a split in the order of their ids: what intervals are computed from.

    Attributes:
      speakers: a label of every utterance. words: the length of every reference.
    """

    speakers: tuple[str, ...]
    words: tuple[int, ...]

    def as_dict(self) -> dict[str, str]:
        """The utterances as JSON files have them, a line of text for each list."""
        return {"speakers": " ".join(self.speakers), "words": numbers_to_text(self.words)}

    @classmethod
    def from_dict(cls, values: dict[str, str]) -> "SplitUtterances":
        """The inverse of :meth:`as_dict`."""
        return cls(tuple(values["speakers"].split()), text_to_numbers(values["words"]))


@dataclass(frozen=True)
class DecodeRow:
    """One subnet on one split with one search method.

    Attributes:
      role: ``dev`` or ``test``.
      method: ``greedy`` or ``beam``.
      wer: word error rate in percent; infinite where the references have no words.
      words: of all references together.
      audio_seconds: of all utterances together.
      real_time_factor: seconds of computing for a second of audio.
      utterance_errors: word errors of every utterance, in the order of their ids.
      cer: character error rate in percent; None: results from before it was kept.
      oracle_wer: of the best of every utterance's n-best list, in percent; None: not asked for.
      calibration: of the confidences of words; None: not of dev, or the search tells none.
    """

    entry: SubnetEntry
    split: str
    role: str
    method: str
    wer: float
    substitutions: int
    insertions: int
    deletions: int
    words: int
    utterances: int
    audio_seconds: float
    real_time_factor: float
    utterance_errors: tuple[int, ...]
    cer: float | None = None
    oracle_wer: float | None = None
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        """The name of the subnet."""
        return self.entry.name

    @property
    def errors(self) -> int:
        """Word errors of all utterances together."""
        return self.substitutions + self.insertions + self.deletions

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON files have it: the subnet's entry, then the measurements."""
        return (
            self.entry.as_dict()
            | {key: getattr(self, key) for key in MEASURED}
            | {k: v for k in LATER if (v := getattr(self, k)) is not None}
            | ({"calibration": self.calibration.as_dict()} if self.calibration else {})
            | {"utterance_errors": numbers_to_text(self.utterance_errors)}
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DecodeRow":
        """The inverse of :meth:`as_dict`.

        Raises:
          KeyError, ValueError, UserError: a key is missing, or a value is not of its kind.
        """
        return cls(
            entry=SubnetEntry.from_dict(values),
            utterance_errors=text_to_numbers(values["utterance_errors"]),
            **{key: values[key] for key in MEASURED},
            cer=values.get("cer"),
            oracle_wer=values.get("oracle_wer"),
            calibration=Calibration.from_dict(kept)
            if (kept := values.get("calibration"))
            else None,
        )


@dataclass(frozen=True)
class RunResults:
    """All results of one trained model.

    Attributes:
      utterances: of every split by its name. rows: at least one.
    """

    run: RunFacts
    utterances: dict[str, SplitUtterances]
    rows: tuple[DecodeRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """The results as results.json has them."""
        return self.run.as_dict() | {
            "utterances": {split: found.as_dict() for split, found in self.utterances.items()},
            "results": [row.as_dict() for row in self.rows],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunResults":
        """The inverse of :meth:`as_dict`; other keys are left alone.

        Raises:
          UserError: a key is missing, a value is not of its kind, or there is no row.
        """
        try:
            results = cls(
                RunFacts.from_dict(values),
                {s: SplitUtterances.from_dict(u) for s, u in values["utterances"].items()},
                tuple(map(DecodeRow.from_dict, values["results"])),
            )
        except KeyError as error:
            raise UserError(f"results of a decoding lack {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"results of a decoding are damaged: {error}") from error
        if not results.rows:
            raise UserError("results of a decoding have no row")
        return results

    def write(self, path: Path) -> None:
        """Writes results.json."""
        write_json_atomic(path, self.as_dict())


def read_results(path: Path) -> RunResults:
    """The results of stage 6 in results.json.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        return RunResults.from_dict(read_json(path))
    except FileNotFoundError as error:
        reason = f"{path} is missing; stage 6 makes it"
        raise UserError(f"{reason}: ./run.sh --stage 6 --stop-stage 6") from error
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{path} can not be read: {error}; stage 6 makes it anew") from error


def numbers_to_text(numbers: Iterable[int]) -> str:
    """Numbers in one line of a JSON file instead of a line each."""
    return " ".join(map(str, numbers))


def text_to_numbers(text: str) -> tuple[int, ...]:
    """The inverse of :func:`numbers_to_text`."""
    return tuple(map(int, text.split()))
