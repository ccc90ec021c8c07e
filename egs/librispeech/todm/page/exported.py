"""The exported nets of the report page, as stage 10 has measured them."""

from dataclasses import dataclass
from typing import Any

from todm.results.decode_results import RunFacts

SAME_TRAINING = ("updates", "training_seconds", "weights", "seed")  # they tell two trainings apart


@dataclass(frozen=True)
class Deployed:
    """A row of the table of exported subnets.

    Attributes:
      wers: of every split.
      peak_mib: memory of the process in MiB, at most.
    """

    name: str
    mode: str
    precision: str
    wers: list[float | None]
    real_time_factor: float
    latency_ms: float
    peak_mib: float
    megabytes: float


@dataclass(frozen=True)
class Export:
    """All that stage 10 has measured.

    Attributes:
      outdated: whether it is of another training than the results on the page.
    """

    splits: list[str]
    rows: list[Deployed]
    machine: str
    outdated: bool


def find_export(facts: dict[str, Any] | None, run: RunFacts) -> Export | None:
    """The exported nets out of export/results.json.

    Args:
      facts: the file's content; None: stage 10 has not run.
    """
    if facts is None:
        return None
    splits = list(dict.fromkeys(row["split"] for row in facts["rows"]))
    rows = []
    for measured in facts["benchmark"]:
        wers = {
            row["split"]: row["wer"]
            for row in reversed(facts["rows"])
            if all(row[key] == measured[key] for key in ("name", "mode", "precision"))
        }
        rows.append(
            Deployed(
                measured["name"],
                measured["mode"],
                measured["precision"],
                [wers.get(split) for split in splits],
                measured["real_time_factor"],
                measured["latency_ms"],
                measured["peak_mib"],
                measured["bytes"] / 1e6,
            )
        )
    outdated = any(facts.get(key) != getattr(run, key) for key in SAME_TRAINING)
    return Export(splits, rows, facts["machine"], outdated)
