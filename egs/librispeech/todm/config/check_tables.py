"""Checks of the trainings that the tables compare."""

from dataclasses import replace

from todm.config.keys import Config
from todm.config.ranges import SEED
from utils.conf import check_types, read_layers
from utils.errors import ConfigError, need
from utils.text import file_name


def check_tables(config: Config) -> None:
    """Checks the names, seeds, budgets and settings of the runs."""
    check_runs(config)
    check_settings(run_settings(config))


def check_runs(config: Config) -> None:
    """Refuses rows of the same name, and seeds and sizes that the supernet is not trained with."""
    t = config.tables
    names = [file_name(variant.name) for variant in t.ablations + t.selections]
    need(
        all(names)
        and len(set(names)) == len(names)
        and not any(n.startswith(("supernet", "individual")) for n in names),
        "tables.ablations and tables.selections need distinct names that do not begin like "
        f"supernet or individual; as file names they are {names}",
    )
    need(
        not t.records or bool(t.seeds) and len(set(t.seeds)) == len(t.seeds),
        f"tables.seeds must be distinct and at least one, not {t.seeds}",
    )
    need(all(seed in SEED for seed in t.seeds), f"tables.seeds is {t.seeds}; each must be {SEED}")
    need(
        not t.records or config.train.seed in t.seeds,
        f"train.seed {config.train.seed} is not among tables.seeds {t.seeds}",
    )
    strange = [b for b in t.budgets if b not in config.search.budgets]
    need(
        not strange,
        f"tables.budgets has {strange}, which search.budgets {config.search.budgets} lacks",
    )


def run_settings(config: Config) -> list[tuple[str, list[str]]]:
    """The overrides that runs will be made with, each with where they stand in the conf.

    Raises:
      ConfigError: a row has the same override or setting twice.
    """
    t = config.tables
    settings = [("tables.individual_grid", setting.split()) for setting in t.individual_grid]
    for variant in t.ablations + t.selections:
        where = f"tables, {variant.name!r}"
        need(
            len(set(variant.overrides)) == len(variant.overrides)
            and len(set(variant.grid)) == len(variant.grid),
            f"{where} has an override or a setting of its grid twice",
        )
        settings += [
            (where, variant.overrides),
            *((where, setting.split()) for setting in variant.grid),
        ]
    return settings


def check_settings(settings: list[tuple[str, list[str]]]) -> None:
    """Refuses overrides that can not be read, now instead of in stage 7 or 8.

    Args:
      settings: as :func:`run_settings` returns them.
    """
    layers = []
    for where, overrides in settings:
        try:
            layers += [
                replace(layer, source=f"{where}: {layer.source}")
                for layer in read_layers(Config, None, overrides)
            ]
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    if layers:
        check_types(Config, layers)
