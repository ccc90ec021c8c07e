"""TODM's adaptive dropout (arXiv 2309.01947): narrower subnets drop less."""


def dropout_probability(p_max: float, width: int, max_width: int, adaptive: bool) -> float:
    """The dropout probability of a module of which a part runs: p_c = p_max c / c_max.

    Args:
      p_max: ``model.dropout``, of the largest net.
      width: c, the head groups or FFN chunks that run. max_width: c_max, those that there are.
      adaptive: False (``method.dropout=constant``): p_max whatever runs.
    """
    return p_max * width / max_width if adaptive else p_max
