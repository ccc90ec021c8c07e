"""Checks of the model's sizes and of the search space in it."""

from todm.config.keys import Config
from todm.subnet import Subnet
from utils.errors import ConfigError, need

RATES = (1, 2, 4, 8)
SUBSAMPLING = 4  # filterbank frames for one encoder frame


def head_groups(config: Config) -> int:
    """The number of head groups in a block: with gating, a value head and its gate are one."""
    return config.model.heads // 2 if config.model.gating else config.model.heads


def check_model(config: Config) -> None:
    """Refuses sizes that can not be divided as the model divides them, and empty search spaces."""
    m, s = config.model, config.supernet
    groups = head_groups(config)
    need(
        m.stack in (1, 2),
        f"model.stack is {m.stack}; 1 or 2 SSM convolutions per head are supported",
    )
    need(
        m.ssm_dim % m.heads == 0,
        f"model.ssm_dim {m.ssm_dim} is not divisible by model.heads {m.heads}",
    )
    need(
        not m.gating or m.heads % 2 == 0,
        f"model.gating pairs heads, so model.heads must be even, not {m.heads}",
    )
    need(
        s.ffn_chunks >= 1 and m.ffn_dim % s.ffn_chunks == 0,
        f"model.ffn_dim {m.ffn_dim} is not divisible by supernet.ffn_chunks {s.ffn_chunks}",
    )
    need(
        1 <= s.min_ffn_chunks <= s.ffn_chunks,
        f"supernet.min_ffn_chunks {s.min_ffn_chunks} is not between 1 and supernet.ffn_chunks "
        f"{s.ffn_chunks}",
    )
    need(
        1 <= s.min_blocks <= m.blocks,
        f"supernet.min_blocks {s.min_blocks} is not between 1 and model.blocks {m.blocks}",
    )
    need(
        not s.elastic_heads or 1 <= s.min_heads <= groups,
        f"supernet.min_heads {s.min_heads} is not between 1 and the {groups} head groups",
    )
    need(
        m.dt_min <= m.dt_max,
        f"model.dt_min {m.dt_min:g} must be positive and at most model.dt_max {m.dt_max:g}",
    )
    check_rates(config)
    if m.architecture is not None:
        check_architecture("model.architecture", m.architecture, config)


def check_rates(config: Config) -> None:
    """Refuses rates that are not one for every block, or that chunks of a stream can not be divided
    by."""
    m = config.model
    need(
        not m.rates or len(m.rates) == m.blocks,
        f"model.rates has {len(m.rates)} numbers, and model.blocks is {m.blocks}: every block has "
        "a rate",
    )
    need(
        all(rate in RATES for rate in m.rates),
        f"model.rates may have {', '.join(map(str, RATES))}, not {m.rates}",
    )
    chunk, step = config.export.chunk_frames, SUBSAMPLING * max(m.rates, default=1)
    need(
        m.direction == "bidirectional" or chunk % step == 0,
        f"export.chunk_frames {chunk} is not a multiple of {step}, {SUBSAMPLING} times the largest "
        "of model.rates",
    )


def check_architecture(key: str, text: str, config: Config) -> None:
    """Refuses an architecture that is not a subnet of the conf's largest net.

    Args:
      key: where ``text`` stands, for the message.
    """
    try:
        subnet = Subnet.parse(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    m = config.model
    largest = Subnet.leading([(head_groups(config), config.supernet.ffn_chunks)] * m.blocks)
    need(
        len(subnet.blocks) == m.blocks,
        f"{key} {text!r} has {len(subnet.blocks)} blocks; model.blocks is {m.blocks} (a dropped "
        "block is -)",
    )
    need(
        subnet.within(largest),
        f"{key} {text!r} is no part of the largest net, whose blocks are {str(largest).split()[0]}",
    )
    need(not all(block.dropped for block in subnet.blocks), f"{key} {text!r} drops every block")
    need(
        not subnet.causal,
        f"{key} {text!r}: a net that is built alone leaves out no direction; its direction is "
        "model.direction=causal",
    )
