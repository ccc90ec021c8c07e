"""The number of processes that stage 4 trains with when the user names none."""

import torch

from todm.config.keys import Config


def default_processes(config: Config) -> int:
    """One process with a GPU, ``train.cpu_processes`` without."""
    return 1 if torch.cuda.is_available() else config.train.cpu_processes
