"""The picture of stage 10: WER against real-time factor."""

from pathlib import Path

from utils.pictures import picture


def draw_deployed(points: list[dict], path: Path, title: str) -> None:
    """WER against real-time factor: a line per mode and precision, a point per subnet (``mode``,
    ``precision``, ``wer``, ``rtf``)."""
    with picture(path) as (axes,):
        for mode, precision in dict.fromkeys((p["mode"], p["precision"]) for p in points):
            line = sorted(
                (p["rtf"], p["wer"])
                for p in points
                if (p["mode"], p["precision"]) == (mode, precision)
            )
            axes.plot(
                *zip(*line),
                marker="o" if mode == "offline" else "s",
                linestyle="-" if precision == "fp32" else "--",
                label=f"{mode}, {precision}",
            )
        axes.set(xlabel="real-time factor on one thread", ylabel="WER (%)", title=title)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
