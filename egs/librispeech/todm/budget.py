"""What a subnet may cost: the costs a search can bound, and budgets as people write them."""

import math
from collections.abc import Callable

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.config_check import BUDGET
from egs.librispeech.todm.cost import cost
from egs.librispeech.todm.latency import LatencyTable
from egs.librispeech.todm.subnet import Subnet
from utils.stages import StageError

UNITS = {
    "encoder_params": "encoder parameters",
    "total_params": "parameters",
    "macs": "MACs per second of audio",
    "latency": "ms per second of audio",
}
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "ms": 1.0}


def cost_function(
    name: str, config: Config, vocab_size: int, latency: LatencyTable | None
) -> Callable[[Subnet], float]:
    """The cost that ``search.cost`` names, as a function of the subnet."""
    if name == "latency":
        return latency.milliseconds
    field = {"macs": "macs_per_second"}.get(name, name)
    return lambda subnet: float(getattr(cost(config, vocab_size, subnet), field))


def parse_budget(
    text: str, name: str, smallest: float, largest: float, key: str = "search.budgets"
) -> float:
    """``0.5`` or ``50%`` of the largest net's cost; ``600k``, ``3M``, ``2.5ms`` or any number above
    1: absolute.

    Args:
      key: where the user wrote it, for the message.
    Raises:
      StageError: not a budget, or no subnet is that small; the feasible range is named.
    """
    match = BUDGET.match(text.strip())
    feasible = (
        f"feasible: {_rounded_up(smallest)} to {_rounded_up(largest)} {UNITS[name]}, that is "
        f"{_rounded_up(smallest / largest)} to 1 of the largest net"
    )
    try:
        number = float(match[1])
    except (TypeError, ValueError):
        raise StageError(
            f"{key}: {text!r} is not a budget such as 0.5, 50%, 600k or 3M; {feasible}"
        ) from None
    unit = match[2] or ""
    if unit == "%":
        budget = number / 100 * largest
    elif not unit and number <= 1:
        budget = number * largest
    else:
        budget = number * _FACTORS[unit]
    if math.isclose(budget, smallest, rel_tol=1e-9):  # the smallest net itself, but for rounding
        return smallest
    if budget < smallest:
        raise StageError(f"{key}: no subnet fits {text} ({budget:.6g} {UNITS[name]}); {feasible}")
    return budget


def within_budget(text: str, name: str, entries: list[dict], key: str) -> dict:
    """The best of some subnets of subnets.json within a budget: the lowest WER on dev; where that
    is not known, the largest.

    Args:
      name: the cost that the budget bounds; latency is known of subnets that a search by latency
        has found.
    Raises:
      StageError: not a budget, or none of them is that small.
    """
    field = {"macs": "macs_per_second", "latency": "cost"}.get(name, name)
    if not all(
        field in entry and (name != "latency" or entry["cost_unit"] == UNITS["latency"])
        for entry in entries
    ):
        raise StageError(
            f"{key}: the latency of these subnets is not known; use search.cost=encoder_params, "
            "or select them by latency in stage 5"
        )
    costs = [entry[field] for entry in entries]
    budget = parse_budget(text, name, min(costs), max(costs), key)
    fitting = [entry for entry in entries if entry[field] <= budget]
    scored = all(entry.get("dev_score") is not None for entry in fitting)
    return min(fitting, key=lambda e: (e["dev_score"] if scored else 0, -e[field]))


def _rounded_up(value: float) -> str:
    """A bound as people write it; rounded up, so that what is printed is feasible itself."""
    return str(math.ceil(value)) if value >= 1000 else f"{math.ceil(value * 1e4) / 1e4:g}"
