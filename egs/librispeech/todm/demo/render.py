"""What the page shows of a transcript and of the subnets, without any of Gradio."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from todm.decoding.transcript import Transcript
from todm.results.decode_results import DecodeRow
from todm.results.subnets import SubnetEntry

SURE = 0.95  # a word of this confidence or more is not marked
NOTHING = "<p class='todm-none'>No speech was recognised.</p>"


def words_html(transcript: Transcript) -> str:
    """The words of a transcript, each the more marked the less sure it is, with its time."""
    words = transcript.words()
    if not words:
        return NOTHING
    spans = []
    for word in words:
        confidence = word.get("confidence")
        title = f"{word['start']:.2f} s"
        style = ""
        if confidence is not None:
            title += f", confidence {confidence:.2f}"
            doubt = max(0.0, SURE - confidence) / SURE
            style = f" style='background: rgb(217 72 15 / {0.75 * doubt:.2f})'" if doubt else ""
        text = html.escape(word["word"])
        spans.append(
            f"<span class='todm-word' title='{title}'{style}>{text}"
            f"<small>{word['start']:.1f}</small></span>"
        )
    return f"<div class='todm-words'>{' '.join(spans)}</div>"


def speed(transcript: Transcript, seconds: float) -> str:
    """The time that the computing of a transcript took, as Markdown."""
    factor = seconds / transcript.seconds if transcript.seconds else 0.0
    return (
        f"{transcript.seconds:.1f} s of audio in **{1000 * seconds:.0f} ms**: real-time factor "
        f"**{factor:.3f}**"
    )


def size(entry: SubnetEntry, rows: Sequence[DecodeRow]) -> str:
    """The cost of a subnet and its error rates, as Markdown.

    Args:
      rows: of the results of this and of other subnets; none where nothing was decoded.
    """
    rates = ", ".join(
        f"{row.wer:.1f} % on {row.split}"
        for row in rows
        if row.name == entry.name and row.method == "greedy"
    )
    return (
        f"**{entry.name}**: {entry.encoder_params:,} parameters in the encoder, "
        f"{entry.total_params:,} in all; {entry.macs_per_second / 1e6:.1f} M multiplications per "
        "second of audio" + (f"; WER {rates}" if rates else "")
    )


def curve(entries: Sequence[SubnetEntry], rows: Sequence[DecodeRow], chosen: str) -> go.Figure:
    """WER against the size of the encoder, with one subnet marked.

    Args:
      rows: of the results; only dev is drawn, which subnets are chosen by.
      chosen: the name of the subnet.
    """
    figure = go.Figure()
    for split in dict.fromkeys(row.split for row in rows if row.role == "dev"):
        of_split = sorted(
            (row.entry.encoder_params, row.wer, row.name)
            for row in rows
            if row.split == split and row.method == "greedy"
        )
        sizes, rates, names = zip(*of_split) if of_split else ((), (), ())
        figure.add_scatter(x=sizes, y=rates, text=names, mode="lines+markers", name=split)
        marked = [(x, y) for x, y, name in of_split if name == chosen]
        if marked:
            figure.add_scatter(
                x=[marked[0][0]],
                y=[marked[0][1]],
                mode="markers",
                marker={"size": 16, "symbol": "circle-open", "line": {"width": 3}},
                name=chosen,
            )
    figure.update_layout(
        template="plotly_white",
        height=260,
        margin={"l": 50, "r": 10, "t": 10, "b": 40},
        xaxis={"title": "encoder parameters", "rangemode": "tozero"},
        yaxis={"title": "WER % on dev", "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.15},
    )
    return figure
