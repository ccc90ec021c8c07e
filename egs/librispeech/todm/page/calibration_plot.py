"""The report page's reliability diagram: how often words of a confidence are right."""

from collections.abc import Sequence

from todm.page.plots import COLOURS, DASHES, SYMBOLS, figure, label, pick, scatter
from todm.results.decode_results import DecodeRow


def draw_calibration(rows: Sequence[DecodeRow]) -> dict | None:
    """The share of right words against their mean confidence, a line for each net on every split
    whose words have confidences, and the diagonal that they should be on; None without any."""
    known = [row for row in rows if row.calibration]
    if not known:
        return None
    diagonal = scatter(
        "as sure as right",
        "--c6",
        [(0, 0), (1, 1)],
        mode="lines",
        line={"width": 1, "dash": "dot"},
        hoverinfo="skip",
    )
    splits = [*dict.fromkeys(row.split for row in known)]
    names = [*dict.fromkeys(row.name for row in known)]
    traces = [diagonal]
    for row in known:
        if row.calibration is None:
            continue
        bins = [b for b in row.calibration.bins if b.items]
        title = row.name if len(splits) == 1 else f"{row.name}, {row.split}"
        traces.append(
            scatter(
                title,
                pick(COLOURS, names.index(row.name)),
                [(b.confidence, b.share) for b in bins],
                mode="lines+markers",
                customdata=[[label(title), b.items] for b in bins],
                marker={"symbol": pick(SYMBOLS, names.index(row.name)), "size": 9},
                line={"dash": pick(DASHES, splits.index(row.split)), "width": 2},
                hovertemplate="<b>%{customdata[0]}</b><br>confidence %{x:.2f}<br>right %{y:.0%} of "
                "%{customdata[1]} words<extra></extra>",
            )
        )
    return figure(
        traces,
        "confidence of words",
        "share of them that is right",
        xaxis_range=[0, 1.02],
        yaxis_range=[0, 1.02],
    )
