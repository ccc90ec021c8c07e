"""Stage 8: the full method, its ablations (table b) and learned selections (table d) with every
seed."""

from argparse import Namespace

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.run_tables import Table, require_tables
from egs.librispeech.todm.runs import (
    ablation_variants,
    pinned_subnets,
    selection_variants,
    supernet_variant,
)
from egs.librispeech.todm.stages import stage_main


def run_ablations(config: Config, arguments: Namespace) -> None:
    if require_tables(config):
        variants = [
            supernet_variant(config, pinned_subnets(config)),
            *ablation_variants(config),
            *selection_variants(config),
        ]
        Table(config, arguments).run(variants)


if __name__ == "__main__":
    stage_main(8, run_ablations, __doc__)
