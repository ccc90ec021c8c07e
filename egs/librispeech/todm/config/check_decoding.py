"""Checks of decoding and export."""

from todm.config.check_selection import check_budget
from todm.config.keys import Config
from todm.subnet import Subnet
from utils.errors import ConfigError, need

METHODS = ("greedy", "beam")


def check_decoding(config: Config) -> None:
    """Refuses unknown search methods, subnets that can not be read and chunks that do not fit."""
    d, e = config.decode, config.export
    for key, methods in (("decode.methods", d.methods), ("export.methods", e.methods)):
        need(
            bool(methods) and set(methods) <= set(METHODS),
            f"{key} is {methods}; known: {', '.join(METHODS)}, at least one of them",
        )
    need(
        d.nbest <= d.beam,
        f"decode.nbest={d.nbest} asks for more hypotheses than decode.beam={d.beam} keeps",
    )
    for text in d.subnets:
        try:
            Subnet.parse(text)
        except ValueError as error:
            raise ConfigError(f"decode.subnets: {error}") from error
    need(
        4 <= e.chunk_frames <= 100_000 and e.chunk_frames % 4 == 0,
        f"export.chunk_frames {e.chunk_frames} is not a multiple of 4, the subsampling, from 4 to "
        "100,000",
    )
    need(
        not (e.subnets and e.budget),
        "export.subnets and export.budget are both set; one of them says what is exported",
    )
    if e.budget is not None:
        check_budget("export.budget", e.budget, config.search.cost)
