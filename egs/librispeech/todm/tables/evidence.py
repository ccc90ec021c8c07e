"""The records of finished runs, as arrays of errors that can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from todm.tables.runs import INDIVIDUAL, SAME, SUPERNET, best_setting
from utils.statistics import Difference, Rate, paired_difference, wer_interval


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


def text_to_numbers(text: str) -> np.ndarray:
    return np.array([int(n) for n in text.split()], dtype=np.int64)


class Evidence:
    """All records of a folder.

    Args:
      records: of :class:`~todm.tables.runs.Records`, at least one; every one holds each split with
        one search method first.
      first_seed: the one with which all settings of a grid were tried.
    """

    def __init__(self, records: Sequence[dict], first_seed: int):
        self.records, self.first_seed = list(records), first_seed
        self.splits = list(
            dict.fromkeys((row["split"], row["role"]) for r in self.records for row in r["results"])
        )
        self.rows: dict[tuple[System, str, int], dict] = {}
        for record in self.records:
            for row in record["results"]:
                if row["method"] == record["results"][0]["method"]:
                    system = System(
                        record["variant"], record["setting"], row.get("budget", row["architecture"])
                    )
                    self.rows[system, row["split"], record["seed"]] = row

    def variants(self) -> list[str]:
        return list(dict.fromkeys(r["variant"] for r in self.records))

    def of(self, variant: str, setting: str | None = None) -> list[dict]:
        """Records of a variant, by seed; of one setting, if given."""
        found = [
            r for r in self.records if r["variant"] == variant and setting in (None, r["setting"])
        ]
        return sorted(found, key=lambda r: r["seed"])

    def tuned_setting(self, variant: str) -> str:
        """The best on dev among all settings of the variant's first seed."""
        return best_setting([r for r in self.of(variant) if r["seed"] == self.first_seed]) or SAME

    def budgets(self) -> list[str]:
        """Of the models trained alone, smallest first."""
        return sorted(
            (v.removeprefix(f"{INDIVIDUAL} ") for v in self.variants() if v.startswith(INDIVIDUAL)),
            key=lambda b: self.size(self.alone(b, SAME).net),
        )

    def alone(self, budget: str, setting: str) -> System:
        variant = f"{INDIVIDUAL} {budget}"
        return System(variant, setting, self.of(variant)[0]["results"][0]["architecture"])

    def supernet(self, net: str) -> System:
        return System(SUPERNET, SAME, net)

    def size(self, net: str) -> int:
        """Encoder parameters of an architecture; the same in every variant."""
        return next(
            row["encoder_params"] for (system, _, _), row in self.rows.items() if system.net == net
        )

    def seeds(self, system: System, split: str) -> list[int]:
        return sorted(seed for other, at, seed in self.rows if (other, at) == (system, split))

    def errors(self, system: System, split: str, seeds: Sequence[int]) -> np.ndarray:
        """(seeds, utterances)."""
        return np.stack(
            [text_to_numbers(self.rows[system, split, seed]["utterance_errors"]) for seed in seeds]
        )

    def utterances(self, split: str) -> tuple[np.ndarray, list[str]]:
        """Words and speakers of a split's utterances."""
        found = next(r["utterances"][split] for r in self.records if split in r["utterances"])
        return text_to_numbers(found["words"]), found["speakers"].split()

    def rate(self, system: System, split: str) -> Rate | None:
        """WER over all seeds that have run; None: none has."""
        seeds = self.seeds(system, split)
        return (
            wer_interval(self.errors(system, split, seeds), *self.utterances(split))
            if seeds
            else None
        )

    def by_seed(self, system: System, split: str) -> dict[int, float]:
        return {seed: self.rows[system, split, seed]["wer"] for seed in self.seeds(system, split)}

    def difference(self, a: System, b: System, split: str) -> tuple[Difference, int] | None:
        """A against B over the seeds that both have, and the number of those; None: they share
        none."""
        seeds = sorted(set(self.seeds(a, split)) & set(self.seeds(b, split)))
        if not seeds:
            return None
        return paired_difference(
            self.errors(a, split, seeds), self.errors(b, split, seeds), *self.utterances(split)
        ), len(seeds)

    def cost(self, records: Sequence[dict]) -> dict[str, float]:
        """What some trainings took together."""
        return {
            "runs": len(records),
            "updates": sum(r["updates"] for r in records),
            "audio_hours": sum(r["audio_hours_trained"] for r in records),
            "wall_hours": sum(r["training_seconds"] for r in records) / 3600,
            "process_hours": sum(r["training_seconds"] * r["processes"] for r in records) / 3600,
        }
