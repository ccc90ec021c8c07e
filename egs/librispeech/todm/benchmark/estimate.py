"""An estimate of how long the benchmark takes, for its progress bar."""

from todm.benchmark.runner import Limits
from todm.benchmark.workloads import FRESH, Workload
from todm.config.keys import ModelConfig

LARGE = 512 * 16 * (2 * 2048 + 3 * 512)  # size of the net that Workload.cost is of
START_SECONDS = 1.5  # of a new process


def size(model: ModelConfig) -> int:
    """The weights of the encoder's products, about."""
    return model.dim * model.blocks * (2 * model.ffn_dim + 3 * model.ssm_dim)


def expected_seconds(workload: Workload, model: ModelConfig, limits: Limits, sides: int) -> float:
    """The seconds that a workload takes with a conf, over all sides.

    Args:
      limits: of rounds and time. sides: how many revisions there are.
    """
    once = workload.cost * size(model) / LARGE
    once += START_SECONDS if workload.process == FRESH else 0.1
    rounds = min(limits.rounds, max(workload.least, limits.seconds / once))
    return sides * rounds * once
