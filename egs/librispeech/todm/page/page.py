"""The report page, exp/NAME/report.html: one file that opens without a network, made from what the
stages have left in the experiment's folder.

python -m todm.page.page --conf conf/mini.yaml
"""

import datetime
import logging
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from todm.config.keys import LEARNED, Config
from todm.config.load import load
from todm.page import plots as page_plots
from todm.page.calibration_plot import draw_calibration
from todm.page.exported import Export, find_export
from todm.page.nets import Net, Row, Split, find_nets, find_splits, lowest_rates, make_rows
from todm.page.utterances import Findings, find_errors, visible
from todm.recipe.command_line import parse_arguments, setup_logging
from todm.recipe.summary import (
    PAGE,
    Command,
    deployed_names,
    deployed_rows,
    dev_errors,
    next_commands,
    results_or_none,
)
from todm.results.decode_results import DecodeRow, RunFacts, RunResults
from todm.results.export_results import ExportResults
from todm.results.search_results import SearchResults
from utils import conf as configuration
from utils.errors import ConfigError, UserError
from utils.files import read_json, write_text_atomic

TEMPLATES = Path(__file__).parent / "report_page"
SEARCHES = ("evolution", "random")


@dataclass(frozen=True)
class Page:
    """All that the template shows.

    Attributes:
      run: the training that the results are of.
      conf: the conf that the net was trained with.
      made: the time when the page was made, for people.
      best, smallest: of the deployed nets.
      lowest: the lowest WER of every split.
      plots: pictures by name.
      notes: by part of the page, what is missing and which stage makes it.
    """

    run: RunFacts
    conf: Config
    exp: str
    made: str
    nets: list[Net]
    best: Net
    smallest: Net
    method: str
    splits: list[Split]
    rows: list[Row]
    lowest: list[float | None]
    findings: Findings
    export: Export | None
    commands: list[Command]
    plots: dict[str, dict]
    notes: dict[str, str]

    @property
    def deployed(self) -> list[Net]:
        """The nets that are no baselines, the largest first."""
        return [net for net in self.nets if net.deployed]

    @property
    def calibrated(self) -> list[DecodeRow]:
        """The rows whose words have confidences."""
        return [row for net in self.nets for row in net.rows if row.calibration]

    @property
    def single(self) -> bool:
        """Whether a model of one size was trained, without subnets."""
        return not self.conf.method.subnets_per_step and not self.conf.method.smallest


def write_page(config: Config, conf_argument: str) -> Path:
    """Writes the page of an experiment that stage 6 has decoded.

    Args:
      conf_argument: conf and overrides as one types them after ``--conf``, for the commands on the
        page.
    Raises:
      UserError: there are no results yet.
    """
    path = config.exp_dir / PAGE
    write_text_atomic(path, render(collect(config, conf_argument)))
    logging.info("report page, for a browser: %s", path)
    return path


def collect(config: Config, conf_argument: str) -> Page:
    """All that the page shows, from the files of the experiment.

    Raises:
      UserError: there are no results yet.
    """
    exp, results = config.exp_dir, results_or_none(config.exp_dir)
    if results is None:
        raise UserError(
            f"{exp / 'results.json'} is missing; stage 6 makes it: ./run.sh --stage 6 "
            f"--stop-stage 6 --conf {conf_argument}"
        )
    conf, rows = trained_conf(config), deployed_rows(exp, results)
    nets, splits = find_nets(results, deployed_names(exp, results)), find_splits(results.rows)
    deployed = [net for net in nets if net.deployed]
    table = make_rows(results.rows, nets, splits)
    measured = read_part(exp / "export" / "results.json", ExportResults.from_dict)
    export = find_export(measured, results.run)
    plots, notes = find_plots(exp, conf, results, nets, export)
    return Page(
        run=results.run,
        conf=conf,
        exp=str(exp),
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        nets=nets,
        best=min(deployed, key=lambda net: dev_errors(rows, net.name)),
        smallest=deployed[-1],
        method=rows[0].method,
        splits=splits,
        rows=table,
        lowest=lowest_rates(table, splits),
        findings=find_errors(config, rows),
        export=export,
        commands=next_commands(config, conf_argument, results),
        plots=plots,
        notes=notes,
    )


def trained_conf(config: Config) -> Config:
    """The conf that stage 4 kept; the present one where there is none that can be read."""
    try:
        return configuration.read_saved(Config, config.exp_dir / "conf.yaml")
    except ConfigError:
        return config


def read_part(path: Path, parse: Callable[[Any], Any] = lambda content: content) -> Any:
    """A JSON file of the experiment; None where it is missing, or was damaged, which is logged.

    Args:
      parse: makes a value out of the file's content.
    """
    try:
        return parse(read_json(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, UserError) as error:
        logging.warning("report page: %s can not be read, and is left out: %s", path, error)
        return None


def find_plots(
    exp: Path, conf: Config, results: RunResults, nets: list[Net], export: Export | None
) -> tuple[dict[str, dict], dict[str, str]]:
    """The pictures for which there is something to draw, and notes where something is missing."""
    numbers = {net.name: number for number, net in enumerate(nets)}
    plots, notes = {"wer": page_plots.draw_subnets(results.rows, numbers)}, {}
    if curves := page_plots.draw_curves(exp / "tensorboard"):
        plots["curves"] = curves
    else:
        notes["curves"] = (
            f"No training curves: {exp / 'tensorboard'} holds none. Stage 4 writes them."
        )
    selected = (read_part(exp / "subnets.json") or {}).get("method")
    if selected in SEARCHES:
        if found := read_part(exp / "search" / "search.json", SearchResults.from_dict):
            plots |= {
                "candidates": page_plots.draw_candidates(found),
                "winners": page_plots.draw_winners(found),
            }
        else:
            notes["search"] = f"{exp / 'search' / 'search.json'} is missing. Stage 5 writes it."
    if selected in LEARNED:
        if scores := page_plots.draw_scores(exp, conf, results.run.largest):
            plots["scores"] = scores
        else:
            notes["selection"] = (
                f"No scores over time: {exp / 'selection'} holds none. Stage 4 writes them."
            )
    if calibration := draw_calibration(results.rows):
        plots["calibration"] = calibration
    if export:
        plots["deployed"] = page_plots.draw_deployed(export.rows)
    return plots, notes


def render(page: Page) -> str:
    """The page's HTML, with everything it needs inside."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "wer": wer,
        "millions": lambda number: f"{number / 1e6:.2f} M",
        "thousands": lambda number: f"{number:,}",
        "duration": duration,
        "visible": visible,
        "sentence": lambda text: text[:1].upper() + text[1:],
    }
    environment.globals["infinity"] = math.inf
    return environment.get_template("template.html.j2").render(page=page, plotly=get_plotlyjs())


def wer(value: float | None) -> str:
    """A WER in per cent without its sign; nothing where there is none."""
    return "" if value is None else f"{value:.2f}" if math.isfinite(value) else "∞"


def duration(seconds: float) -> str:
    """Seconds in words of the right size."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def main() -> None:
    """Makes the page again, from what is there."""
    arguments = parse_arguments(__doc__)
    setup_logging()
    try:
        write_page(
            load(arguments.conf, arguments.overrides),
            shlex.join([arguments.conf, *arguments.overrides]),
        )
    except UserError as error:
        raise SystemExit(f"\nERROR: {error}") from error


if __name__ == "__main__":
    main()
