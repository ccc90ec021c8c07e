"""What a subnet may cost: the costs a search can bound, and budgets as people write them."""

import math
from collections.abc import Callable

from todm.config.check_selection import BUDGET
from todm.config.keys import LEARNED, Config
from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet
from todm.supernet.cost import CostModel
from todm.supernet.latency_table import LatencyTable
from todm.supernet.search_space import SearchSpace
from utils.errors import UserError

UNIT_OF_COST = {
    "encoder_params": "encoder parameters",
    "total_params": "parameters",
    "macs": "MACs per second of audio",
    "latency": "ms per second of audio",
}
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "ms": 1.0}


def cost_function(
    name: str, costs: CostModel, latency: LatencyTable | None = None
) -> Callable[[Subnet], float]:
    """The cost that ``search.cost`` names, as a function of the subnet, in ``UNIT_OF_COST``.

    Args:
      latency: the measured table, for the cost ``latency``.
    """
    if name != "latency":
        return costs.function(name)
    if latency is None:
        raise ValueError("the cost latency needs a table of measured latencies")
    return latency.milliseconds


def parse_budget(
    text: str, name: str, smallest: float, largest: float, key: str = "search.budgets"
) -> float:
    """``0.5`` or ``50%`` of the largest net's cost; ``600k``, ``3M``, ``2.5ms`` or any number above
    1: absolute.

    Args:
      key: where the user wrote it, for the message.
    Raises:
      UserError: not a budget, or no subnet is that small; the feasible range is named.
    """
    match = BUDGET.match(text.strip())
    written, unit = (match[1], match[2] or "") if match else ("", "")
    feasible = (
        f"feasible: {_rounded_up(smallest)} to {_rounded_up(largest)} {UNIT_OF_COST[name]}, "
        f"that is {_rounded_up(smallest / largest)} to 1 of the largest net"
    )
    try:
        number = float(written)
    except (TypeError, ValueError):
        raise UserError(
            f"{key}: {text!r} is not a budget such as 0.5, 50%, 600k or 3M; {feasible}"
        ) from None
    if unit == "%":
        budget = number / 100 * largest
    elif not unit and number <= 1:
        budget = number * largest
    else:
        budget = number * _FACTORS[unit]
    if math.isclose(budget, smallest, rel_tol=1e-9):  # the smallest net itself, but for rounding
        return smallest
    if budget < smallest:
        raise UserError(
            f"{key}: no subnet fits {text} ({budget:.6g} {UNIT_OF_COST[name]}); {feasible}"
        )
    return budget


def within_budget(text: str, name: str, entries: list[SubnetEntry], key: str) -> SubnetEntry:
    """The best of some subnets of subnets.json within a budget: the lowest WER on dev; where that
    is not known, the largest.

    Args:
      name: the cost that the budget bounds; latency is known of subnets that a search by latency
        has found.
    Raises:
      UserError: not a budget, or none of them is that small.
    """
    field = {"macs": "macs_per_second", "latency": "cost"}.get(name, name)
    costs = [getattr(entry, field) for entry in entries]
    if name == "latency" and any(entry.cost_unit != UNIT_OF_COST["latency"] for entry in entries):
        raise UserError(
            f"{key}: the latency of these subnets is not known; use search.cost=encoder_params, "
            "or select them by latency in stage 5"
        )
    budget = parse_budget(text, name, min(costs), max(costs), key)
    fitting = [entry for entry in entries if getattr(entry, field) <= budget]
    scored = all(entry.dev_score is not None for entry in fitting)
    return min(fitting, key=lambda e: (e.dev_score if scored else 0, -getattr(e, field)))


def _rounded_up(value: float) -> str:
    """A bound as people write it; rounded up, so that what is printed is feasible itself."""
    return str(math.ceil(value)) if value >= 1000 else f"{math.ceil(value * 1e4) / 1e4:g}"


def parse_budgets(config: Config, smallest: float, largest: float) -> dict[str, float]:
    """``search.budgets`` as bounds, by their text."""
    return {
        text: parse_budget(text, config.search.cost, smallest, largest)
        for text in config.search.budgets
    }


def check_budgets(config: Config, space: SearchSpace) -> None:
    """Refuse a search that can not succeed before the hours of training that it comes after.

    Raises:
      UserError: nothing is elastic, or no subnet fits a budget. Latencies are not known yet and are
      checked by the search.
    """
    if config.select.method in ("uniform", *LEARNED) or space.fixed:
        return
    if space.largest == space.smallest:
        raise UserError(
            f"select.method={config.select.method} has nothing to search: supernet.min_blocks and "
            "supernet.min_ffn_chunks leave one net "
            "alone; lower them, or use select.method=uniform"
        )
    if config.search.cost == "latency":
        return
    cost, causal = cost_function(config.search.cost, space.costs), searches_causal(config, space)
    parse_budgets(config, cost(space.smallest_of(causal)), cost(space.largest_of(causal)))


def searches_causal(config: Config, space: SearchSpace) -> bool:
    """Whether the search is among the causal nets of a dual supernet (``search.direction``)."""
    return config.search.direction == "causal" and True in space.kinds
