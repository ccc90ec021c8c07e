"""Rows of what stage 10 finds and measures, as its files have them (see
:mod:`~todm.results.export_results`); imports no torch, so that a device needs none."""

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, TypeVar

from utils.errors import UserError

Row = TypeVar("Row")


def parsed(kind: type[Row], values: Any) -> Row:
    """Makes a flat dataclass of the values that a JSON file has; other keys are left alone.

    Raises:
      UserError: a key is missing, or the values are none.
    """
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{key: value for key, value in values.items() if key in names})
    except (TypeError, AttributeError) as error:
        raise UserError(f"a row of stage 10 ({kind.__name__}) is damaged: {error}") from error


class Variant(NamedTuple):
    """One way in which an exported subnet is used: ``offline`` or ``streaming``, in ``fp32`` or
    ``int8``."""

    name: str
    mode: str
    precision: str


@dataclass(frozen=True)
class ClientRow:
    """A row of results: what the client recognised of a split, beside the references and beside
    torch.

    Attributes:
      name: the subnet's. method: ``greedy`` or ``beam``. role: ``dev`` or ``test``.
      wer: in percent.
      substitutions, insertions, deletions, words: the numbers of words behind it.
      utterances: how many were decoded.
      equal: how many of the hypotheses are torch's from the same audio; None in int8, which torch
        does not have.
      torch_wer: WER of torch from the same audio, in percent; None in int8.
    """

    name: str
    mode: str
    precision: str
    method: str
    split: str
    role: str
    wer: float
    substitutions: int
    insertions: int
    deletions: int
    words: int
    utterances: int
    equal: int | None = None
    torch_wer: float | None = None

    @property
    def variant(self) -> Variant:
        """The way in which the subnet was used."""
        return Variant(self.name, self.mode, self.precision)

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON files have it; without torch's part where there is none."""
        values = asdict(self)
        if self.equal is None:
            del values["equal"], values["torch_wer"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClientRow":
        """The inverse of :meth:`as_dict`."""
        return parsed(cls, values)


@dataclass(frozen=True)
class Difference:
    """An utterance whose hypothesis in the client is not torch's from the same audio.

    Attributes:
      name: the subnet's. id: the utterance's. reference, torch, client: the three texts.
    """

    name: str
    mode: str
    method: str
    split: str
    id: str
    reference: str
    torch: str
    client: str

    def as_dict(self) -> dict[str, Any]:
        """The difference as JSON files have it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Difference":
        """The inverse of :meth:`as_dict`."""
        return parsed(cls, values)


class KeptLayer(NamedTuple):
    """A product of an int8 encoder that stays in fp32.

    Attributes:
      node: its name in the graph. error: the relative error of the output if it alone were in int8.
    """

    node: str
    error: float


@dataclass(frozen=True)
class Figures:
    """The figures that one process measures of one variant.

    Attributes:
      real_time_factor: seconds of computing per second of audio.
      first_token_ms: from the first token's time stamp until it is shown (median); None offline,
        and where nothing is recognised.
      latency_ms: of computing for an utterance (median), or for a chunk where it is streamed.
      load_seconds: until the recogniser is there.
      model_mib, peak_mib: the most memory above the process without a model, when it is loaded and
        after 30 s of audio in one piece.
    """

    real_time_factor: float
    first_token_ms: float | None
    latency_ms: float
    load_seconds: float
    model_mib: float
    peak_mib: float

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Figures":
        """The figures of a JSON file, in which ``first_token_ms`` may be missing."""
        return parsed(cls, {"first_token_ms": None} | values)


@dataclass(frozen=True)
class BenchmarkRow:
    """Medians of the figures of several processes that measured one variant in turns.

    Attributes:
      bytes: of all files that a device needs for the variant.
      real_time_factor, ..., peak_mib: as in :class:`Figures`.
      spread: the lowest and the highest real-time factor.
      rounds: the number of processes. audio_seconds: of speech that each of them decoded.
      algorithmic_ms: latency without computing; None offline.
    """

    name: str
    mode: str
    precision: str
    bytes: int
    real_time_factor: float
    first_token_ms: float | None
    latency_ms: float
    load_seconds: float
    model_mib: float
    peak_mib: float
    spread: tuple[float, float]
    rounds: int
    audio_seconds: float
    algorithmic_ms: float | None = None

    @property
    def variant(self) -> Variant:
        """The way in which the subnet was used."""
        return Variant(self.name, self.mode, self.precision)

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON files have it; the keys of streaming stand in rows of streaming alone."""
        values = asdict(self) | {"spread": list(self.spread)}
        if self.mode != "streaming":
            del values["first_token_ms"], values["algorithmic_ms"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BenchmarkRow":
        """The inverse of :meth:`as_dict`."""
        lowest, highest = values["spread"]
        return parsed(cls, {"first_token_ms": None} | values | {"spread": (lowest, highest)})
