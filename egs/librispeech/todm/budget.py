"""What a subnet may cost: the costs a search can bound, and budgets as people write them."""

import re
from collections.abc import Callable

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.cost import cost
from egs.librispeech.todm.latency import LatencyTable
from egs.librispeech.todm.subnet import Subnet
from utils.stages import StageError

UNITS = {"encoder_params": "encoder parameters", "total_params": "parameters", "macs": "MACs per second of audio",
         "latency": "ms per second of audio"}
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "ms": 1.0}
_BUDGET = re.compile(r"^([0-9.]+(?:[eE][+-]?\d+)?)\s*(k|M|G|ms|%)?$")


def cost_function(name: str, config: Config, vocab_size: int, latency: LatencyTable | None) -> Callable[[Subnet], float]:
    """The cost that ``search.cost`` names, as a function of the subnet."""
    if name == "latency":
        return latency.milliseconds
    field = {"macs": "macs_per_second"}.get(name, name)
    return lambda subnet: float(getattr(cost(config, vocab_size, subnet), field))


def parse_budget(text: str, name: str, smallest: float, largest: float) -> float:
    """``0.5`` or ``50%`` of the largest net's cost; ``600k``, ``3M``, ``2.5ms`` or any number above 1: absolute.

    Raises:
      StageError: not a budget, or no subnet is that small; the feasible range is named.
    """
    match = _BUDGET.match(text.strip())
    feasible = (f"feasible: {smallest:,.6g} to {largest:,.6g} {UNITS[name]}, that is "
                f"{_up(smallest / largest)} to 1 of the largest net")
    try:
        number = float(match[1])
    except (TypeError, ValueError):
        raise StageError(f"search.budgets: {text!r} is not a budget such as 0.5, 50%, 600k or 3M; {feasible}") from None
    unit = match[2] or ""
    if unit == "%":
        budget = number / 100 * largest
    elif not unit and number <= 1:
        budget = number * largest
    else:
        budget = number * _FACTORS[unit]
    if budget < smallest:
        raise StageError(f"search.budgets: no subnet fits {text} ({budget:,.6g} {UNITS[name]}); {feasible}")
    return budget


def _up(fraction: float) -> str:
    """Rounded up, so that what is printed is feasible itself."""
    return f"{int(fraction * 1000 + 1) / 1000:.3f}"
