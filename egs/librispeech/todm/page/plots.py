"""The report page's pictures, by plotly. Colours are names of CSS variables in ``meta.colour``, so
that the page can draw them light or dark."""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from todm.config.keys import Config
from todm.learned_selection.score_file import read_scores
from todm.page.exported import Deployed
from todm.results.decode_results import DecodeRow
from todm.results.search_results import SearchResults
from todm.subnet import Subnet
from utils.curves import scalars, thinned

COLOURS = ("--c1", "--c2", "--c3", "--c4", "--c5", "--c6")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot")
CANDIDATES = 3000  # of a way of searching that are drawn
POINTS = 300  # of a curve
UNIT_POINTS = 100  # of the curve of one unit's score
NETS = {
    "largest": ("--c1", "circle"),
    "middle": ("--c3", "square"),
    "smallest": ("--c2", "diamond"),
}


def label(text: str) -> str:
    """A text in which plotly, which knows a few tags, finds none."""
    return html.escape(str(text), quote=False)


def scatter(name: str, colour: str, points: list[tuple], **style: Any) -> go.Scatter:
    """A line or a cloud of points, in a colour of the page. ``points``: (x, y); a y that is
    infinite or unknown is left out."""
    return go.Scatter(
        x=[x for x, _ in points],
        y=[finite(y) for _, y in points],
        name=label(name),
        meta={"colour": colour, "name": str(name)},
        **style,
    )


def pick(items: tuple, number: int) -> Any:
    """The item of a number, from the first again after the last."""
    return items[number % len(items)]


def finite(value: float | None) -> float | None:
    """The rate; None, which plotly leaves out, where it is infinite or unknown."""
    return value if value is not None and math.isfinite(value) else None


def figure(traces: list[go.Scatter], x: str, y: str, **layout: Any) -> dict:
    """The picture as the page's script draws it, of plain lists and dictionaries."""
    made = go.Figure(
        traces,
        {
            "template": "none",
            "hovermode": "closest",
            "xaxis": {"title": {"text": x}},
            "yaxis": {"title": {"text": y}},
        },
    )
    made.update_layout(**layout)
    return json.loads(made.to_json())


def draw_subnets(rows: Sequence[DecodeRow], numbers: dict[str, int]) -> dict:
    """The picture of WER against encoder parameters: a colour per split, a symbol per way the
    subnets were found, dashed for other search methods.

    Args:
      numbers: of the subnets on the page, by name, for the click.
    """
    splits = [*dict.fromkeys(row.split for row in rows)]
    methods = [*dict.fromkeys(row.method for row in rows)]
    hows = [*dict.fromkeys(row.entry.how for row in rows)]
    lines: dict[tuple[str, str, str], list[DecodeRow]] = {}
    for row in sorted(rows, key=lambda row: row.entry.encoder_params):
        lines.setdefault((row.method, row.entry.how, row.split), []).append(row)
    traces = []
    for key in dict.fromkeys((row.method, row.entry.how, row.split) for row in rows):
        (method, how, split), mine = key, lines[key]
        name = ", ".join(
            [
                split,
                *([f"{method} search"] if len(methods) > 1 else []),
                *([how] if len(hows) > 1 else []),
            ]
        )
        number = splits.index(split) if len(hows) == 1 else hows.index(how)
        traces.append(
            scatter(
                name,
                pick(COLOURS, splits.index(split)),
                [(row.entry.encoder_params / 1e6, row.wer) for row in mine],
                mode="lines+markers",
                customdata=[[numbers[row.name], label(row.name)] for row in mine],
                marker={"symbol": pick(SYMBOLS, number), "size": 11},
                line={"dash": pick(DASHES, methods.index(method)), "width": 2},
                visible=True if method == methods[0] else "legendonly",
                hovertemplate="<b>%{customdata[1]}</b><br>WER %{y:.2f} %<br>%{x:.3f} M encoder "
                "parameters",
            )
        )
    return figure(traces, "encoder parameters (millions)", "WER (%)", yaxis_rangemode="tozero")


def draw_curves(folder: Path) -> dict | None:
    """The picture of loss over updates: on dev of three nets, CTC (dotted) while it trains alone,
    and on train; None without event files."""
    found, traces = scalars(folder), []
    for name, (colour, symbol) in NETS.items():
        for tag, dash, words in (
            (f"dev CTC loss per frame/{name}", "dot", "CTC alone"),
            (f"dev loss per frame/{name}", "solid", "dev"),
        ):
            if points := thinned(list(found.get(tag, {}).items()), POINTS):
                traces.append(
                    curve(
                        points,
                        f"{words}, {name} net",
                        colour,
                        mode="lines+markers",
                        line={"dash": dash, "width": 2},
                        marker={"symbol": symbol, "size": 7},
                    )
                )
    for name in ("largest", "smallest"):
        if points := thinned(list(found.get(f"train loss per frame/{name}", {}).items()), POINTS):
            traces.append(
                curve(
                    points,
                    f"train, {name} net",
                    NETS[name][0],
                    mode="lines",
                    line={"width": 1, "dash": "dash"},
                    opacity=0.7,
                    visible="legendonly",
                )
            )
    if not traces:
        return None
    ticks = [digit * 10.0**power for power in range(-6, 6) for digit in (1, 2, 5)]
    return figure(
        traces,
        "update",
        "loss per frame",
        yaxis_type="log",
        yaxis_tickvals=ticks,
        yaxis_ticktext=[f"{tick:g}" for tick in ticks],
    )


def curve(points: list[tuple[int, float]], name: str, colour: str, **style: Any) -> go.Scatter:
    """A line over updates."""
    return scatter(
        name, colour, points, hovertemplate="update %{x}<br>loss per frame %{y:.4f}", **style
    )


def draw_candidates(search: SearchResults) -> dict:
    """The picture of loss on dev against the cost: every scored candidate, the front, and the
    budgets."""
    traces = []
    for i, (how, candidates) in enumerate(search.candidates.items()):
        shown = thinned(list(candidates), CANDIDATES)
        traces.append(
            scatter(
                f"{how}: {len(candidates):,} candidates",
                pick(COLOURS, i),
                [(net.cost, net.loss) for net in shown],
                mode="markers",
                customdata=[label(str(net.subnet)) for net in shown],
                opacity=0.55 if how != "uniform" else 1,
                marker={"size": 5 if how != "uniform" else 11, "symbol": pick(SYMBOLS, i)},
                hovertemplate="loss %{y:.4f}<br>cost %{x:,.4~r}<br>%{customdata}",
            )
        )
    front = sorted(search.front, key=lambda net: net.cost)
    traces.append(
        scatter(
            "front: nothing is better for less",
            "--ink",
            [(net.cost, net.loss) for net in front],
            mode="lines",
            line={"width": 1.5, "shape": "hv"},
            hoverinfo="skip",
        )
    )
    vertical = {"type": "line", "yref": "paper", "y0": 0, "y1": 1}
    lines = [
        {**vertical, "x0": limit, "x1": limit, "line": {"width": 1, "dash": "dot"}}
        for limit in search.settings.limits.values()
    ]
    return figure(
        traces,
        label(search.settings.cost_unit),
        "loss per frame on a part of dev",
        yaxis_range=around([net.loss for net in front]),
        shapes=lines,
    )


def around(losses: list[float]) -> list[float] | None:
    """The range of an axis that shows the front and a little more: the worst candidates would
    flatten the rest. None without a finite loss."""
    known = [loss for loss in losses if finite(loss) is not None]
    if not known:
        return None
    span = max(known) - min(known) or abs(max(known)) * 0.1 or 1
    return [min(known) - 0.08 * span, max(known) + 0.5 * span]


def draw_winners(search: SearchResults) -> dict:
    """The picture of WER on dev of the winner of every budget, a line per way of searching."""
    traces = []
    for i, (how, entries) in enumerate(search.chosen.items()):
        winners = sorted(entries, key=lambda entry: entry.cost or 0.0)
        traces.append(
            scatter(
                how,
                pick(COLOURS, i),
                [(entry.cost, entry.dev_score) for entry in winners],
                mode="lines+markers",
                customdata=[[label(entry.name), label(entry.budget or "")] for entry in winners],
                marker={"symbol": pick(SYMBOLS, i), "size": 10},
                line={"dash": pick(DASHES, i), "width": 2},
                hovertemplate="<b>%{customdata[0]}</b> for budget %{customdata[1]}<br>WER "
                "%{y:.2f} % on dev<br>cost %{x:,.4~r}",
            )
        )
    return figure(traces, label(search.settings.cost_unit), "WER (%) on dev")


def draw_deployed(rows: list[Deployed]) -> dict:
    """The picture of WER against real-time factor of exported subnets, a line per mode and
    precision."""
    traces = []
    for i, (mode, precision) in enumerate(dict.fromkeys((r.mode, r.precision) for r in rows)):
        mine = sorted(
            (r for r in rows if (r.mode, r.precision) == (mode, precision)),
            key=lambda r: r.real_time_factor,
        )
        traces.append(
            scatter(
                f"{mode}, {precision}",
                pick(COLOURS, i),
                [(r.real_time_factor, r.wers[-1]) for r in mine],
                mode="lines+markers",
                customdata=[label(r.name) for r in mine],
                marker={"symbol": pick(SYMBOLS, i), "size": 10},
                line={"dash": pick(DASHES, i), "width": 2},
                hovertemplate="<b>%{customdata}</b><br>WER %{y:.2f} %<br>real-time factor %{x:.4f}",
            )
        )
    return figure(
        traces,
        "real-time factor on one thread",
        "WER (%)",
        yaxis_rangemode="tozero",
        xaxis_rangemode="tozero",
    )


def draw_scores(exp: Path, conf: Config, largest: Subnet) -> dict | None:
    """The picture of scores of learned selection over updates, a line per unit; None where none
    were written."""
    updates, scores = read_scores(exp)
    if not updates:
        return None
    units = [
        (i + 1, kind, part)
        for i, block in enumerate(largest.blocks)
        for kind, parts in (("SSM", block.heads), ("FFN", block.ffn))
        for part in (parts if conf.learn.granularity == "component" else parts[:1])
    ]
    rows, traces = thinned(list(zip(updates, scores)), UNIT_POINTS), []
    for number in range(len(scores[0])):
        block, kind, part = units[number] if len(units) == len(scores[0]) else ("?", "unit", number)
        name = f"block {block}, {kind}" + (
            f" {part}" if conf.learn.granularity == "component" else ""
        )
        traces.append(
            scatter(
                {"SSM": "state space modules", "FFN": "feed-forward nets"}.get(kind, kind),
                "--c3" if kind == "SSM" else "--c5",
                [(u, s[number]) for u, s in rows],
                mode="lines",
                legendgroup=kind,
                opacity=0.6,
                line={"width": 1, "dash": "solid" if kind == "SSM" else "dash"},
                hovertemplate=f"{name}<br>update %{{x}}<br>score %{{y:.3f}}<extra></extra>",
            )
        )
    return figure(traces, "update", "score")
