"""Pictures by matplotlib, saved whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.files import atomic_path


@contextlib.contextmanager
def picture(path: Path, columns: int = 1) -> Iterator[list]:
    """Gives axes side by side, which are saved as a PNG when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(7 * columns, 4.5), squeeze=False)
    try:
        yield list(axes[0])
        for one in axes[0]:
            one.grid(alpha=0.3)
            if one.get_legend_handles_labels()[0]:
                one.legend(fontsize=8)
        figure.tight_layout()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150)
    finally:
        plt.close(figure)


def plain_log_scale(axis: Any) -> None:
    """Makes the vertical axis of a picture logarithmic, with plain numbers at 1, 2, 3 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
