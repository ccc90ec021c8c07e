"""The records of finished runs, as arrays of errors that can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from todm.results.decode_results import DecodeRow, SplitUtterances
from todm.results.records import Record
from todm.tables.runs import INDIVIDUAL, SAME, SUPERNET, best_setting
from utils.statistics import Difference, Rate, paired_difference, wer_interval

FEWEST_SPEAKERS = 4  # over which a bootstrap draws: with one, every interval would have no width


@dataclass(frozen=True)
class System:
    """One net of one variant with one setting: what a cell of a table is about.

    Attributes:
      net: its architecture; of a learned selection, whose nets differ by seed, the budget it was
        selected for.
    """

    variant: str
    setting: str
    net: str


class Evidence:
    """The rows of all records of a folder, by net, split and seed.

    Args:
      records: of :class:`~todm.tables.runs.Records`, at least one; every one holds each split with
        one search method first.
      first_seed: the one with which all settings of a grid were tried.
    """

    def __init__(self, records: Sequence[Record], first_seed: int):
        self.records, self.first_seed = list(records), first_seed
        self.splits = list(
            dict.fromkeys((row.split, row.role) for r in self.records for row in r.rows)
        )
        self.rows: dict[tuple[System, str, int], DecodeRow] = {}
        for record in self.records:
            for row in record.rows:
                if row.method == record.rows[0].method:
                    net = row.entry.budget or str(row.entry.subnet)
                    system = System(record.variant, record.setting, net)
                    self.rows[system, row.split, record.seed] = row

    def variants(self) -> list[str]:
        """The variants that have run."""
        return list(dict.fromkeys(r.variant for r in self.records))

    def of(self, variant: str, setting: str | None = None) -> list[Record]:
        """The records of a variant, by seed; of one setting, if given."""
        found = [r for r in self.records if r.variant == variant and setting in (None, r.setting)]
        return sorted(found, key=lambda r: r.seed)

    def tuned_setting(self, variant: str) -> str:
        """The setting that is best on dev among all that the first seed tried of a variant."""
        return best_setting([r for r in self.of(variant) if r.seed == self.first_seed]) or SAME

    def tuned(self, variant: str) -> list[Record]:
        """The records of a variant with its best setting, by seed."""
        return self.of(variant, self.tuned_setting(variant))

    def budgets(self) -> list[str]:
        """The budgets of the models trained alone, the smallest first."""
        return sorted(
            (v.removeprefix(f"{INDIVIDUAL} ") for v in self.variants() if v.startswith(INDIVIDUAL)),
            key=lambda b: self.size(self.alone(b, SAME).net),
        )

    def alone(self, budget: str, setting: str) -> System:
        """The model trained alone for a budget, with one setting."""
        variant = f"{INDIVIDUAL} {budget}"
        return System(variant, setting, str(self.of(variant)[0].rows[0].entry.subnet))

    def supernet(self, net: str) -> System:
        """A subnet of the supernet, by its architecture."""
        return System(SUPERNET, SAME, net)

    def size(self, net: str) -> int:
        """The encoder parameters of an architecture; the same in every variant."""
        return next(
            row.entry.encoder_params
            for (system, _, _), row in self.rows.items()
            if system.net == net
        )

    def sizes(self, system: System) -> list[int]:
        """The encoder parameters that a system has with any seed, each once, the smallest first."""
        found = (
            r.entry.encoder_params for (other, _, _), r in self.rows.items() if other == system
        )
        return sorted(set(found))

    def seeds(self, system: System, split: str) -> list[int]:
        """The seeds with which a system was decoded on a split."""
        return sorted(seed for other, at, seed in self.rows if (other, at) == (system, split))

    def errors(self, system: System, split: str, seeds: Sequence[int]) -> np.ndarray:
        """The word errors with every seed, (seeds, utterances)."""
        rows = [self.rows[system, split, seed] for seed in seeds]
        return np.array([row.utterance_errors for row in rows], dtype=np.int64)

    def speakers(self, split: str) -> tuple[str, ...]:
        """The speaker of every utterance of a split."""
        return self._utterances(split).speakers

    def utterances(self, split: str) -> tuple[np.ndarray, Sequence[str]]:
        """Words (utterances,) of a split's utterances, and the groups that a bootstrap draws: their
        speakers, or where there are too few of them the utterances themselves."""
        words = np.array(self._utterances(split).words, dtype=np.int64)
        alone = list(map(str, range(len(words))))
        return words, self.speakers(split) if self.by_speaker(split) else alone

    def by_speaker(self, split: str) -> bool:
        """Whether a split has enough speakers for a bootstrap over them."""
        return len(set(self.speakers(split))) >= FEWEST_SPEAKERS

    def _utterances(self, split: str) -> SplitUtterances:
        return next(r.utterances[split] for r in self.records if split in r.utterances)

    def rate(self, system: System, split: str) -> Rate | None:
        """The WER over all seeds that have run; None: none has."""
        seeds = self.seeds(system, split)
        return (
            wer_interval(self.errors(system, split, seeds), *self.utterances(split))
            if seeds
            else None
        )

    def by_seed(self, system: System, split: str) -> dict[int, float]:
        """The WER in percent, by seed."""
        return {seed: self.rows[system, split, seed].wer for seed in self.seeds(system, split)}

    def difference(self, a: System, b: System, split: str) -> tuple[Difference, int] | None:
        """A against B over the seeds that both have, and the number of those; None: they share
        none."""
        seeds = sorted(set(self.seeds(a, split)) & set(self.seeds(b, split)))
        if not seeds:
            return None
        return paired_difference(
            self.errors(a, split, seeds), self.errors(b, split, seeds), *self.utterances(split)
        ), len(seeds)


@dataclass(frozen=True)
class TrainingCost:
    """The cost of some trainings together.

    Attributes:
      wall_hours: one training after the other.
      process_hours: of accelerators, or of processes on cores.
    """

    runs: int
    updates: int
    audio_hours: float
    wall_hours: float
    process_hours: float


def training_cost(records: Sequence[Record]) -> TrainingCost:
    """The cost of the trainings of some records together."""
    runs = [record.results.run for record in records]
    return TrainingCost(
        len(records),
        sum(run.updates for run in runs),
        sum(run.audio_hours_trained for run in runs),
        sum(run.training_seconds for run in runs) / 3600,
        sum(r.results.run.training_seconds * r.plan.processes for r in records) / 3600,
    )
