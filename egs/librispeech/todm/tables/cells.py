"""The cells that the tables have in common: a WER with its interval, and a difference of two."""

from todm.tables.evidence import Evidence, System
from utils.statistics import Difference


def rate_cell(evidence: Evidence, system: System, split: str) -> str:
    """A WER in percent with its interval, and that of each seed; ``not run`` without any."""
    rate = evidence.rate(system, split)
    if rate is None:
        return "not run"
    by_seed = ", ".join(f"{wer:.2f}" for wer in evidence.by_seed(system, split).values())
    return f"{rate.wer:.2f} [{rate.low:.1f}, {rate.high:.1f}] ({by_seed})"


def difference_cell(found: tuple[Difference, int] | None) -> str:
    """A difference in percent of WER with its interval; a star where it is significant and has the
    same sign with each of several seeds.

    Args:
      found: the difference and the number of seeds; None: an empty cell.
    """
    if found is None:
        return ""
    d, seeds = found
    star = "*" if d.p < 0.05 and d.seeds_agree and seeds > 1 else ""
    return (
        f"{d.absolute:+.2f} [{d.low:+.1f}, {d.high:+.1f}], {d.relative:+.1f} % rel., p "
        f"{d.p:.3f}{star}"
    )
