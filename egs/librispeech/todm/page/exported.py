"""The exported nets of the report page, as stage 10 has measured them."""

from dataclasses import dataclass

from todm.results.decode_results import RunFacts
from todm.results.export_results import ExportResults

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


def find_export(results: ExportResults | None, run: RunFacts) -> Export | None:
    """The exported nets out of export/results.json.

    Args:
      results: what the file holds; None: stage 10 has not run.
      run: the training that the page is about.
    """
    if results is None:
        return None
    rows = [
        Deployed(
            *measured.variant,
            [results.row(measured.variant, split).wer for split in results.splits],
            measured.real_time_factor,
            measured.latency_ms,
            measured.peak_mib,
            measured.bytes / 1e6,
        )
        for measured in results.benchmark
    ]
    outdated = any(getattr(results.run, key) != getattr(run, key) for key in SAME_TRAINING)
    return Export(results.splits, rows, results.run.machine, outdated)
