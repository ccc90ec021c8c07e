"""Checks of the selection of subnets and of the budgets they are selected for."""

import math
import re

from todm.config.keys import LEARNED, Config
from todm.config.phases import in_updates
from utils.errors import ConfigError, need

# a number and perhaps a unit
BUDGET = re.compile(r"^((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(k|M|G|ms|%)?$")


def check_selection(config: Config) -> None:
    """Checks the budgets, and what learned selection asks of the other keys."""
    search = config.search
    need(bool(search.budgets), "search.budgets is empty")
    for text in search.budgets:
        check_budget("search.budgets", text, search.cost)
    need(
        config.model.direction != "dual" or search.cost != "latency",
        "search.cost=latency is measured of nets of one direction, and model.direction is dual: "
        "search.cost=macs",
    )
    if config.select.method in LEARNED:
        need(
            config.model.direction != "dual",
            f"select.method={config.select.method} learns which nets of one direction are good, "
            "and model.direction is dual: select.method=uniform or evolution",
        )
        last = round(config.learn.share * config.train.updates)
        need(
            in_updates(config).method.subnets_from < last,
            f"step 1 ends at update {last:.0f} (learn.share), before it begins "
            "(method.subnets_from)",
        )
        need(
            search.cost != "latency",
            f"select.method={config.select.method} counts parameters or MACs, not latency: "
            "search.cost=macs",
        )
        need(
            not config.model.architecture,
            f"select.method={config.select.method} needs the whole search space, not "
            "model.architecture",
        )


def check_budget(key: str, text: str, cost: str) -> None:
    """Refuses a text that is no budget, or one in another unit than ``cost`` is counted in.

    Whether any subnet is that small can only be told when the net is there.

    Args:
      key: where ``text`` stands, for the message.
    """
    match = BUDGET.match(text.strip())
    if match is None:
        raise ConfigError(f"{key}: {text!r} is not a budget such as 0.5, 50%, 600k or 3M")
    need(0 < float(match[1]) < math.inf, f"{key}: {text!r} must be above 0")
    need(
        (match[2] == "ms") <= (cost == "latency"),
        f"{key}: {text!r} is a time, and search.cost is {cost}; search.cost=latency counts "
        "milliseconds",
    )
    need(
        cost != "latency" or match[2] not in ("k", "M", "G"),
        f"{key}: {text!r} is a size, and search.cost is latency; write e.g. 2.5ms or 50%",
    )
