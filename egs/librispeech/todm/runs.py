"""The runs behind the tables: which trainings a conf with tables asks for, and which of them have finished."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egs.librispeech.todm.config import Config, load
from egs.librispeech.todm.stages import STAGES
from egs.librispeech.todm.subnets_file import read_subnets
from utils import config as configuration
from utils.files import read_json
from utils.stages import StageError
from utils.text import file_name

# A model of one size, of the same conf: every row of method that is about subnets is off.
ALONE = ("method.subnets_per_step=0", "method.smallest=false", "method.distill=none", "method.dropout=constant")
SUPERNET, INDIVIDUAL = "supernet", "individual"
SAME = ""  # the setting of a grid that changes nothing


@dataclass(frozen=True)
class Run:
    """One training and its results.

    Attributes:
      variant: what is compared: ``supernet``, ``individual BUDGET`` or the name of an ablation.
      setting: of the variant's grid; empty: the conf's own values.
      nets: architectures that are decoded.
    """

    variant: str
    setting: str
    seed: int
    overrides: tuple[str, ...]
    nets: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its folder and its record: ``individual-0.45-lr-0.07-seed1``."""
        parts = [file_name(self.variant)]
        for item in self.setting.split():
            key, _, value = item.partition("=")
            parts.append(f"{key.rpartition('.')[2]}-{value}")
        return "-".join([*parts, f"seed{self.seed}"])

    def exp(self, config: Config) -> Path:
        """Its experiment; stage 4's own for the supernet that stage 4 trains."""
        if self.variant == SUPERNET and self.seed == config.train.seed:
            return config.exp_dir
        return config.exp_dir / "runs" / self.name

    def all_overrides(self, config: Config) -> list[str]:
        """What turns the conf of the tables into that of this run."""
        return [*self.overrides, *self.setting.split(), f"train.seed={self.seed}", f"exp={self.exp(config)}"]


@dataclass(frozen=True)
class Variant:
    """A row of a table before it is spread over seeds and settings."""

    name: str
    overrides: tuple[str, ...]
    grid: tuple[str, ...]   # first the same settings (empty), where they make sense
    nets: tuple[str, ...]

    def runs(self, config: Config, tuned: str | None) -> Iterator[Run]:
        """All settings with the first seed; with the others the same settings and, once it is known, the best one."""
        first, *others = config.tables.seeds
        for setting in self.grid:
            yield self.run(setting, first)
        again = [s for s in self.grid if s == SAME or s == tuned]
        for seed in others:
            for setting in again:
                yield self.run(setting, seed)

    def run(self, setting: str, seed: int) -> Run:
        return Run(self.name, setting, seed, self.overrides, self.nets)


def supernet_variant(config: Config, searched: list[str]) -> Variant:
    return Variant(SUPERNET, (), (SAME,), tuple(dict.fromkeys([*searched, *three_nets(config)])))


def individual_variants(config: Config, searched: dict[str, str]) -> list[Variant]:
    """A stand-alone model for every budget of ``tables.budgets``, of the searched subnet's size."""
    return [Variant(f"{INDIVIDUAL} {budget}", (*ALONE, f'model.architecture="{searched[budget]}"'),
                    (SAME, *config.tables.individual_grid), (searched[budget],)) for budget in config.tables.budgets]


def ablation_variants(config: Config) -> list[Variant]:
    return [Variant(a.name, tuple(a.overrides), tuple(a.grid) or (SAME,), three_nets(config)) for a in config.tables.ablations]


def three_nets(config: Config) -> tuple[str, ...]:
    """The largest, a middle and the smallest net."""
    from egs.librispeech.todm.search_space import SearchSpace

    space = SearchSpace(config, config.bpe.vocab_size)
    return tuple(str(net) for net in space.ladder(3))


def searched_subnets(config: Config) -> dict[str, str]:
    """Architecture by budget, of stage 5.

    Raises:
      StageError: it has not run, or not for every budget of ``tables.budgets``.
    """
    found = {entry["budget"]: entry["architecture"] for entry in read_subnets(config.exp_dir / "subnets.json") if "budget" in entry}
    missing = [budget for budget in config.tables.budgets if budget not in found]
    if missing:
        raise StageError(f"{config.exp_dir}/subnets.json has no subnet for the budgets {missing}; stage 5 finds them with "
                         "select.method=evolution: ./run.sh --stage 5 --stop-stage 5")
    return found


def searched_nets(config: Config) -> list[str]:
    """All that stage 5 found, with its baselines: decoded with the supernets of every seed."""
    return [entry["architecture"] for entry in read_subnets(config.exp_dir / "subnets.json", baselines=True)]


class Records:
    """The finished runs' results, a small JSON file each, in a folder that is kept in the repository."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"

    def all(self) -> list[dict]:
        return [read_json(path) for path in sorted(self.folder.glob("*.json"))]

    def get(self, run: Run, values: dict) -> dict | None:
        """The record of a run, if it was made with these values of the conf."""
        path = self.path(run)
        record = read_json(path) if path.is_file() else None
        return record if record and not differences(record["conf"], values) else None


def differences(recorded: dict, values: dict) -> list[str]:
    """Which values differ, in words; a value that is new since then counts only if the record has it."""
    return [f"{key} was {recorded[key]!r}, is {value!r}" for key, value in values.items() if key in recorded and recorded[key] != value]


def run_values(conf: str, overrides: list[str], config: Config, run: Run) -> dict:
    """The conf values that a run's result depends on, flat."""
    resolved = load(conf, [*overrides, *run.all_overrides(config)])
    values: dict = {}
    for number in (0, 1, 2, 3, 4, 6):
        values |= STAGES[number].values(resolved)
    return values | configuration.select(resolved, ("model.architecture",)) | {"nets": list(run.nets)}


def best_setting(records: list[dict]) -> str | None:
    """The setting of the lowest WER on dev, averaged over nets; of equals the first. None without records."""
    def dev_wer(record: dict) -> float:
        rows = [row for row in record["results"] if row["role"] == "dev"]
        return sum(row["wer"] for row in rows) / len(rows)

    return min(records, key=dev_wer)["setting"] if records else None
