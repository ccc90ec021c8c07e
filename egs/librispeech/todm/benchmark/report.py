"""The figures of all rounds as medians and quartiles, as a table and as JSON."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from todm.benchmark.workloads import Figure, Workload
from utils.text import markdown_table

NEW, OLD = "new", "old"  # the sides: this checkout, and the revision of --compare
Taken = dict[str, list[Any]]  # figure -> [value, wall], of one side in one round


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles.

    Attributes:
      low, high: the first and the third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """The median and the quartiles of some values, between which they are interpolated; None
        for no value."""
        if not values:
            return None
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    def as_dict(self) -> dict[str, Any]:
        """The spread as it stands in the JSON file."""
        return {
            "median": rounded(self.median),
            "quartiles": [rounded(self.low), rounded(self.high)],
        }


@dataclass(frozen=True)
class Row:
    """A figure of a workload with one conf, over all rounds.

    Attributes:
      values: by side, one a round; a round in which it could not be told is left out.
      wall: the same by the clock on the wall; empty: it is no time.
      ratios: of both sides in every round that both have, new over old.
    """

    conf: str
    workload: Workload
    figure: Figure
    values: dict[str, list[float]]
    wall: dict[str, list[float]]
    ratios: list[float]

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in the JSON file."""
        sides: dict[str, Any] = {}
        for side, values in self.values.items():
            spread = Spread.of(values)
            if spread:
                sides[side] = spread.as_dict() | {"values": list(map(rounded, values))}
                if self.wall[side]:
                    sides[side]["wall"] = list(map(rounded, self.wall[side]))
        ratio = Spread.of(self.ratios)
        return {
            "conf": self.conf,
            "workload": self.workload.name,
            "figure": self.figure.name,
            "unit": self.figure.unit,
            "more_is_better": self.figure.more_is_better,
            **sides,
            "new / old": ratio.as_dict() | {"values": list(map(rounded, self.ratios))}
            if ratio
            else None,
        }


@dataclass(frozen=True)
class Gap:
    """A workload that a side could not do.

    Attributes:
      failed: whether it is an error; else it is merely not there, such as data.
    """

    conf: str
    workload: str
    side: str
    reason: str
    failed: bool = False


@dataclass
class Report:
    """All that was measured.

    Attributes:
      facts: machine, versions, commits, command and options.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as it stands in the JSON file."""
        descriptions = {row.workload.name: row.workload.description for row in self.rows}
        return {
            **self.facts,
            "workloads": descriptions,
            "results": [row.as_dict() for row in self.rows],
            "missing": [vars(gap) for gap in self.gaps],
        }

    def table(self) -> str:
        """The report as tables for people, one for each conf."""
        compared = any(OLD in row.values for row in self.rows)
        parts = []
        for conf in dict.fromkeys(row.conf for row in self.rows):
            rows = [row for row in self.rows if row.conf == conf]
            parts.append(f"{conf}\n\n{_table(rows, compared)}")
        if self.gaps:
            parts.append("\n".join(self._gap_lines(compared)))
        return "\n\n".join(parts)

    def _gap_lines(self, compared: bool) -> Iterator[str]:
        """A line for every reason for which something was not measured."""
        workloads: dict[tuple[str, str, bool, str], list[str]] = {}
        for gap in self.gaps:
            key = gap.conf, gap.side, gap.failed, gap.reason
            workloads.setdefault(key, []).append(gap.workload)
        for (conf, side, failed, reason), names in workloads.items():
            where = f"{conf} ({side})" if compared else conf
            how = "failed" if failed else "not measured"
            yield f"{where}: {', '.join(names)}: {how}: {reason}"


def make_rows(
    conf: str, workload: Workload, sides: Sequence[str], rounds: Sequence[dict[str, Taken]]
) -> list[Row]:
    """The rows of a workload.

    Args:
      rounds: what each side gave in every round.
    """
    return [_row(conf, workload, figure, sides, rounds) for figure in workload.figures]


def _row(
    conf: str,
    workload: Workload,
    figure: Figure,
    sides: Sequence[str],
    rounds: Sequence[dict[str, Taken]],
) -> Row:
    values: dict[str, list[float]] = {side: [] for side in sides}
    wall: dict[str, list[float]] = {side: [] for side in sides}
    ratios = []
    for taken in rounds:
        got = {side: taken[side][figure.name] for side in sides if side in taken}
        for side, (value, on_the_wall) in got.items():
            if value is not None:
                values[side].append(value)
            if on_the_wall is not None:
                wall[side].append(on_the_wall)
        new, old = (got.get(side, [None])[0] for side in (NEW, OLD))
        if new is not None and old:
            ratios.append(new / old)
    return Row(conf, workload, figure, values, wall, ratios)


def _table(rows: Sequence[Row], compared: bool) -> str:
    """The table of one conf."""
    titles = ["workload", "figure", "unit"]
    titles += [NEW, OLD, f"{NEW} / {OLD}"] if compared else ["median (quartiles)"]
    lines = []
    for row in rows:
        cells = [row.workload.name, row.figure.name, _unit(row.figure), cell(row.values[NEW])]
        if compared:
            cells += [cell(row.values[OLD]), cell(row.ratios)]
        most = max(map(len, row.values.values()))
        lines.append([*cells, str(most)])
    return markdown_table([*titles, "rounds"], lines, left=3)


def _unit(figure: Figure) -> str:
    return f"{figure.unit} (more is better)" if figure.more_is_better else figure.unit


def cell(values: Sequence[float]) -> str:
    """The median of some values and their quartiles, if there are several; ``-`` for none."""
    spread = Spread.of(values)
    if spread is None:
        return "-"
    text = short(spread.median)
    if len(values) > 1:
        text += f" ({short(spread.low)} to {short(spread.high)})"
    return text


def short(value: float) -> str:
    """A number with three digits, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def rounded(value: float) -> float:
    """A number with six digits, as files have it."""
    return float(f"{value:.6g}")
