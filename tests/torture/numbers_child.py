"""One of several processes that train together, the loss of one of which is attacked.

torchrun -m tests.torture.numbers_child FACTOR CALLS RANK GRADIENT [key=value ...]
"""

import sys
from argparse import Namespace

from tests.torture.number_attacks import OnLoss
from todm.config.load import load
from todm.training import train
from utils.errors import UserError


def main(factor: str, calls: str, rank: str, gradient: str, *overrides: str) -> None:
    """Trains as stage 4 does; the exit status is a stage's."""
    numbers = None if calls == "all" else tuple(map(int, calls.split(",")))
    attack = OnLoss(float(factor), numbers, int(rank), bool(int(gradient)))

    class Attacked(train.Trainer):
        def run(self) -> None:
            attack(self)
            super().run()

    train.Trainer = Attacked  # type: ignore[misc]
    try:
        train.train(load("conf/debug.yaml", list(overrides)), Namespace(force=False))
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
