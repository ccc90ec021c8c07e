"""Stage 8: the full method, its ablations (table b) and learned selections (table d) with every
seed."""

from argparse import Namespace

from todm.config.keys import Config
from todm.recipe.stage_main import stage_main
from todm.tables.run_tables import Table
from todm.tables.runs import ablation_variants, pinned_subnets, selection_variants, supernet_variant


def run_ablations(config: Config, arguments: Namespace) -> None:
    """Carries out the runs of tables (b) and (d) (stage 8)."""
    variants = [
        supernet_variant(config, pinned_subnets(config)),
        *ablation_variants(config),
        *selection_variants(config),
    ]
    Table(config, arguments).run(variants)


def main() -> None:
    """Runs stage 8 from the command line."""
    stage_main(8, run_ablations, __doc__)


if __name__ == "__main__":
    main()
