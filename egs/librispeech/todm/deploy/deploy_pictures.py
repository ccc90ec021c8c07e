"""The picture of stage 10: WER against real-time factor."""

from pathlib import Path

from todm.results.export_results import ExportResults
from utils.pictures import picture


def draw_deployed(results: ExportResults, split: str, path: Path) -> None:
    """Draws WER of a split against real-time factor: a line per mode and precision, a point per
    subnet."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in results.benchmark:
        point = (row.real_time_factor, results.row(row.variant, split).wer)
        lines.setdefault((row.mode, row.precision), []).append(point)
    with picture(path) as (axes,):
        for (mode, precision), points in lines.items():
            axes.plot(
                *zip(*sorted(points)),
                marker="o" if mode == "offline" else "s",
                linestyle="-" if precision == "fp32" else "--",
                label=f"{mode}, {precision}",
            )
        title = f"{results.run.name}: {split}, in sherpa-onnx"
        axes.set(xlabel="real-time factor on one thread", ylabel="WER (%)", title=title)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
