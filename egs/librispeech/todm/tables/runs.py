"""The runs behind the tables: which trainings a conf with tables asks for, and which of them have
finished."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from todm.config.keys import Config
from todm.config.load import load
from todm.recipe.lineage import data_values
from todm.recipe.stages import result_values
from todm.results.records import Record
from todm.results.subnets import SubnetEntry, read_subnets
from todm.supernet.search_space import SearchSpace
from utils.config_values import literal
from utils.errors import UserError
from utils.files import read_json, write_json_atomic
from utils.text import file_name

# A model of one size, of the same conf: every row of method that is about subnets is off.
ALONE = (
    "method.subnets_per_step=0",
    "method.smallest=false",
    "method.distill=none",
    "method.dropout=constant",
)
SUPERNET, INDIVIDUAL = "supernet", "individual"
SAME = ""  # the setting of a grid that changes nothing


@dataclass(frozen=True)
class Run:
    """One training and its results.

    Attributes:
      variant: what is compared: ``supernet``, ``individual BUDGET`` or the name of an ablation.
      setting: of the variant's grid; empty: the conf's own values.
      nets: architectures that are decoded; none: those that the run itself has selected.
    """

    variant: str
    setting: str
    seed: int
    overrides: tuple[str, ...]
    nets: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its folder and of its record: ``individual-0.45-lr-0.07-seed1``."""
        parts = [file_name(self.variant)]
        for item in self.setting.split():
            key, _, value = item.partition("=")
            parts.append(f"{key.rpartition('.')[2]}-{value}")
        return "-".join([*parts, f"seed{self.seed}"])

    def exp(self, config: Config) -> Path:
        """The folder of its experiment; stage 4's own for the supernet that stage 4 trains."""
        if self.variant == SUPERNET and self.seed == config.train.seed:
            return config.exp_dir
        return config.exp_dir / "runs" / self.name

    def all_overrides(self, config: Config) -> list[str]:
        """The overrides that turn the conf of the tables into that of this run."""
        return [
            *self.overrides,
            *self.setting.split(),
            f"train.seed={self.seed}",
            f"exp={literal(str(self.exp(config)))}",
        ]


@dataclass(frozen=True)
class Variant:
    """A row of a table before it is spread over seeds and settings.

    Attributes:
      overrides: that make it of the conf of the tables.
      grid: settings that are tried; the first is the same as the conf (empty), where that makes
        sense.
      nets: architectures that are decoded; none: those that a run itself has selected.
    """

    name: str
    overrides: tuple[str, ...]
    grid: tuple[str, ...]
    nets: tuple[str, ...]

    def runs(self, config: Config, tuned: str | None) -> Iterator[Run]:
        """All settings with the first seed; with the others the same settings and, once it is
        known, the best one."""
        first, *others = config.tables.seeds
        for setting in self.grid:
            yield self.run(setting, first)
        again = [s for s in self.grid if s == SAME or s == tuned]
        for seed in others:
            for setting in again:
                yield self.run(setting, seed)

    def run(self, setting: str, seed: int) -> Run:
        """The run of one setting and one seed."""
        return Run(self.name, setting, seed, self.overrides, self.nets)


def supernet_variant(config: Config, subnets: list[SubnetEntry]) -> Variant:
    """The supernet, decoded with all that the search found and with the three nets of the
    ablations."""
    return Variant(
        SUPERNET,
        (),
        (SAME,),
        tuple(dict.fromkeys([*(str(entry.subnet) for entry in subnets), *three_nets(config)])),
    )


def individual_variants(config: Config, subnets: list[SubnetEntry]) -> list[Variant]:
    """A stand-alone model for every budget of ``tables.budgets``, of the searched subnet's size."""
    searched = searched_subnets(subnets)
    return [
        Variant(
            f"{INDIVIDUAL} {budget}",
            (*ALONE, f'model.architecture="{searched[budget]}"'),
            (SAME, *config.tables.individual_grid),
            (searched[budget],),
        )
        for budget in config.tables.budgets
    ]


def ablation_variants(config: Config) -> list[Variant]:
    """The ablations of ``tables.ablations`` (table b)."""
    return [
        Variant(a.name, tuple(a.overrides), tuple(a.grid) or (SAME,), three_nets(config))
        for a in config.tables.ablations
    ]


def selection_variants(config: Config) -> list[Variant]:
    """The learned selections of ``tables.selections`` (table d); decoded is what they select."""
    return [
        Variant(s.name, tuple(s.overrides), tuple(s.grid) or (SAME,), ())
        for s in config.tables.selections
    ]


def three_nets(config: Config) -> tuple[str, ...]:
    """The largest, a middle and the smallest net."""
    space = SearchSpace(config, config.bpe.vocab_size)
    return tuple(str(net) for net in space.ladder(3))


def tables_folder(config: Config) -> Path:
    """The folder of ``tables.records``: tables, pictures, the pinned subnets and the records."""
    return config.records_dir.parent


def pinned_subnets(config: Config) -> list[SubnetEntry]:
    """The subnets that the tables are about, baselines included: those of stage 5, kept beside the
    records from then on.

    A later search may find others; the records would then be of other nets.  On a machine without
    the supernet the kept file is enough to go on with the runs.

    Raises:
      UserError: stage 5 has not run and there is no such file, or it lacks a budget of
      ``tables.budgets``.
    """
    pinned, found = tables_folder(config) / "subnets.json", config.exp_dir / "subnets.json"
    if not pinned.is_file():
        read_subnets(found)  # names stage 5 when it is missing
        write_json_atomic(pinned, read_json(found))
    elif found.is_file() and read_json(found) != read_json(pinned):
        logging.warning(
            "%s differs from %s, of which the records are and which is used; delete that and %s "
            "to begin the tables anew",
            found,
            pinned,
            config.records_dir,
        )
    entries = read_subnets(pinned, baselines=True)
    missing = [
        budget for budget in config.tables.budgets if budget not in searched_subnets(entries)
    ]
    if missing:
        raise UserError(
            f"{pinned} has no subnet for the budgets {missing}; stage 5 finds them with "
            "select.method=evolution (then delete this "
            "file): ./run.sh --stage 5 --stop-stage 5"
        )
    return entries


def searched_subnets(entries: list[SubnetEntry]) -> dict[str, str]:
    """The architectures by budget: the first entry of every budget is the search's own."""
    found: dict[str, str] = {}
    for entry in entries:
        if entry.budget is not None:
            found.setdefault(entry.budget, str(entry.subnet))
    return found


class Records:
    """The finished runs' results, a small JSON file each, in a folder that is kept in the
    repository."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, run: Run) -> Path:
        """The file of a run's record."""
        return self.folder / f"{run.name}.json"

    def all(self) -> list[Record]:
        """Every record of the folder, by name."""
        return [Record.read(path) for path in sorted(self.folder.glob("*.json"))]

    def read(self, run: Run) -> Record | None:
        """The record of a run of that name, whatever its conf was; None: there is none."""
        path = self.path(run)
        return Record.read(path) if path.is_file() else None

    def get(self, run: Run, values: dict[str, Any]) -> Record | None:
        """The record of a run, if it was made with these values of the conf."""
        record = self.read(run)
        return record if record and not differences(record.plan.conf, values) else None


def differences(recorded: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """The values that differ, in words.

    A key that the record lacks, because it is newer than the record, says nothing: records stay
    good when the recipe gets new keys.
    """
    return [
        f"{key} was {recorded[key]!r}, is {value!r}"
        for key, value in values.items()
        if key in recorded and recorded[key] != value
    ]


def run_values(conf: str, overrides: list[str], config: Config, run: Run) -> dict[str, Any]:
    """The conf values that a run's result depends on, flat, and a digest of the data where they are
    here."""
    resolved = load(conf, [*overrides, *run.all_overrides(config)])
    return result_values(resolved) | {"nets": list(run.nets)} | data_values(resolved)


def best_setting(records: list[Record]) -> str | None:
    """The setting of the lowest WER on dev, averaged over nets; of equals the first. None without
    records."""

    def dev_wer(record: Record) -> float:
        rates = [row.wer for row in record.rows if row.role == "dev"]
        return sum(rates) / len(rates)

    return min(records, key=dev_wer).setting if records else None
