"""The number of processes that stage 4 trains with when the user names none.

``python -m todm.recipe.processes --conf X [key=value ...]`` prints it: run.sh asks so, because only
torch knows of GPUs and run.sh does without torch.
"""

import os
import sys

import torch

from todm.config.keys import Config
from todm.config.load import load
from todm.recipe.command_line import parse_arguments
from utils.errors import UserError


def default_processes(config: Config) -> int:
    """One process with a GPU, ``train.cpu_processes`` without."""
    return 1 if torch.cuda.is_available() else config.train.cpu_processes


def main() -> None:
    """Prints the number for a conf."""
    arguments = parse_arguments(__doc__)
    try:
        print(default_processes(load(arguments.conf, arguments.overrides)), flush=True)
    except BrokenPipeError:  # who asked has been killed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
