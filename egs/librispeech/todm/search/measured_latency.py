"""The latency table that a search bounds its candidates by: given, kept from an earlier search, or
measured now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from todm.config.keys import Config
from todm.model.transducer import Transducer
from todm.search import client_latency, torch_latency
from todm.search.timing import log_check
from todm.supernet.latency_table import LatencyTable, needed_blocks
from todm.supernet.search_space import SearchSpace
from utils.errors import UserError
from utils.files import read_json, write_json_atomic
from utils.provenance import machine

Sizes = list[tuple[int, int]]  # of blocks: head groups and FFN chunks
Measure = Callable[
    [Transducer, Config, SearchSpace, Sizes], tuple[LatencyTable, list[dict[str, Any]]]
]


def latency_table(
    path: Path,
    given: str | None,
    engine: str,
    model: Transducer,
    config: Config,
    space: SearchSpace,
    measure: Measure | None = None,
) -> LatencyTable:
    """The latency table of this machine and this engine.

    Args:
      path: where a table is kept; it is measured anew where it is of another machine or engine.
      given: ``search.latency_table``, which is used as it is.
      engine: ``search.latency_engine``.
      measure: the measurement; None: the engine's.

    Raises:
      UserError: the given table is missing, or lacks a size of this search space.
    """
    source = Path(given) if given else path
    if given and not source.is_file():
        raise UserError(f"search.latency_table: no such file: {source}")
    sizes, rates = [(h, w) for h in space.heads for w in space.widths], tuple(space.costs.rates)
    if source.is_file():
        table = LatencyTable.from_dict(read_json(source))
        missing = [block for block in needed_blocks(rates, sizes) if block not in table.blocks]
        fits = table.rates == rates and not missing
        if fits and (given or (table.machine, table.engine) == (machine(), engine)):
            return table
        if given and table.rates != rates:
            raise UserError(
                f"search.latency_table: {source} is of a supernet whose blocks have the rates "
                f"{list(table.rates) or 'that it does not say'}, and model.rates here are "
                f"{list(rates)}; measure it anew: python -m todm.search.client_latency exp/NAME "
                f"{source.name}"
            )
        if given:
            raise UserError(
                f"search.latency_table: {source} lacks blocks of (rate, head groups, FFN chunks) "
                f"{missing[:5]}"
            )
    if measure is None:
        measure = torch_latency.measure if engine == "torch" else client_latency.measure
    table, check = measure(model, config, space, sizes)
    write_json_atomic(path, table.as_dict() | {"check": check})
    log_check(check)
    return table
