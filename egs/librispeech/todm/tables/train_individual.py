"""Stage 7: supernets of every seed, and models trained alone for the sizes of tables.budgets, tuned
on dev (table a)."""

from argparse import Namespace

from todm.config.keys import Config
from todm.recipe.stage_main import stage_main
from todm.tables.run_tables import Table
from todm.tables.runs import individual_variants, pinned_subnets, supernet_variant


def train_individual(config: Config, arguments: Namespace) -> None:
    """Carries out the runs of table (a) (stage 7)."""
    subnets = pinned_subnets(config)
    Table(config, arguments).run(
        [supernet_variant(config, subnets), *individual_variants(config, subnets)]
    )


def main() -> None:
    """Runs stage 7 from the command line."""
    stage_main(7, train_individual, __doc__)


if __name__ == "__main__":
    main()
