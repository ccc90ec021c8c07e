"""The report page, exp/NAME/report.html: one file that opens without a network, out of what the
stages have left in the experiment's folder.

python -m todm.page.page --conf conf/mini.yaml
"""

import datetime
import logging
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from todm.config.keys import LEARNED, Config
from todm.config.load import load
from todm.page import plots as page_plots
from todm.page.utterances import Findings, find_errors, visible
from todm.recipe.command_line import parse_arguments, setup_logging
from todm.recipe.summary import (
    PAGE,
    Command,
    deployed_names,
    deployed_rows,
    dev_errors,
    next_commands,
    read_results,
)
from todm.subnet import Subnet
from utils import conf as configuration
from utils.errors import ConfigError, UserError
from utils.files import read_json, write_text_atomic

TEMPLATES = Path(__file__).parent / "report_page"
SAME_TRAINING = (
    "updates",
    "training_seconds",
    "weights",
    "seed",
)  # of results.json: what tells two trainings apart
SEARCHES = ("evolution", "random")


@dataclass(frozen=True)
class Block:
    """What stays of a block. Attributes: heads, ffn: of every head group and FFN chunk of the
    largest net, whether it stays."""

    heads: list[bool]
    ffn: list[bool]

    @property
    def kept(self) -> bool:
        return any(self.heads) or any(self.ffn)


@dataclass(frozen=True)
class Net:
    """A subnet. Attributes: rows: its results, of every split and search method. deployed: it is no
    baseline."""

    name: str
    how: str
    architecture: str
    encoder_params: int
    total_params: int
    macs_per_second: int
    deployed: bool
    blocks: list[Block]
    rows: list[dict]


@dataclass(frozen=True)
class Row:
    """A row of the table of results. Attributes: wers: of every split, None where it was not
    decoded."""

    net: int
    name: str
    method: str
    wers: list[float | None]


@dataclass(frozen=True)
class Split:
    name: str
    role: str
    utterances: int
    words: int
    seconds: float


@dataclass(frozen=True)
class Deployed:
    """A row of the table of exported subnets. Attributes: wers: of every split."""

    name: str
    mode: str
    precision: str
    wers: list[float | None]
    real_time_factor: float
    latency_ms: float
    peak_mib: float
    megabytes: float


@dataclass(frozen=True)
class Export:
    """Attributes: outdated: it is of another training than the results."""

    splits: list[str]
    rows: list[Deployed]
    machine: str
    outdated: bool


@dataclass(frozen=True)
class Page:
    """All that the template shows. Attributes:
    run: what results.json says of the run. conf: that the net was trained with. best, smallest: of
      the deployed nets.
    plots: pictures by name. notes: by part of the page, what is missing, and which stage makes it.
    """

    run: dict
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
        return [net for net in self.nets if net.deployed]

    @property
    def single(self) -> bool:
        """Whether a model of one size was trained, without subnets."""
        return not self.conf.method.subnets_per_step and not self.conf.method.smallest


def write_page(config: Config, conf_argument: str) -> Path:
    """Write the page of an experiment that stage 6 has decoded.

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
    """All that the page shows, from the files of the experiment."""
    exp, run = config.exp_dir, read_results(config.exp_dir)
    if run is None:
        raise UserError(
            f"{exp / 'results.json'} is missing; stage 6 makes it: ./run.sh --stage 6 "
            f"--stop-stage 6 --conf {conf_argument}"
        )
    conf, rows = trained_conf(config), deployed_rows(exp, run)
    nets = find_nets(run, deployed_names(exp, run))
    deployed = [net for net in nets if net.deployed]
    splits = list(
        {
            r["split"]: Split(
                r["split"], r["role"], r["utterances"], r["words"], r["audio_seconds"]
            )
            for r in run["results"]
        }.values()
    )
    table = make_rows(run["results"], nets, splits)
    lowest = [
        min(
            (row.wers[i] for row in table if page_plots.finite(row.wers[i]) is not None),
            default=None,
        )
        for i in range(len(splits))
    ]
    export = find_export(exp, run)
    plots, notes = find_plots(
        exp, conf, run, {net.name: number for number, net in enumerate(nets)}, export
    )
    return Page(
        run=run,
        conf=conf,
        exp=str(exp),
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        nets=nets,
        best=min(deployed, key=lambda net: dev_errors(rows, net.name)),
        smallest=deployed[-1],
        method=rows[0]["method"],
        splits=splits,
        rows=table,
        lowest=lowest,
        findings=find_errors(config, rows),
        export=export,
        commands=next_commands(config, conf_argument, run),
        plots=plots,
        notes=notes,
    )


def trained_conf(config: Config) -> Config:
    """The conf that stage 4 kept; the present one where there is none that can be read."""
    try:
        return configuration.read_saved(Config, config.exp_dir / "conf.yaml")
    except ConfigError:
        return config


def find_nets(run: dict, deployed: list[str]) -> list[Net]:
    """Every subnet of the results, the deployed ones first, the largest first."""
    whole = Subnet.parse(run["largest"])
    groups, chunks = (
        sorted({i for block in whole.blocks for i in getattr(block, kind)})
        for kind in ("heads", "ffn")
    )
    nets = {}
    for row in run["results"]:
        if row["name"] not in nets:
            blocks = [
                Block([i in b.heads for i in groups], [i in b.ffn for i in chunks])
                for b in Subnet.parse(row["architecture"]).blocks
            ]
            nets[row["name"]] = Net(
                row["name"],
                row["how"],
                row["architecture"],
                row["encoder_params"],
                row["total_params"],
                row["macs_per_second"],
                row["name"] in deployed,
                blocks,
                [r for r in run["results"] if r["name"] == row["name"]],
            )
    return sorted(nets.values(), key=lambda net: (not net.deployed, -net.encoder_params))


def make_rows(results: list[dict], nets: list[Net], splits: list[Split]) -> list[Row]:
    """A row per search method and subnet."""
    methods = dict.fromkeys(r["method"] for r in results)
    rows = []
    for method in methods:
        for number, net in enumerate(nets):
            found = {r["split"]: r["wer"] for r in net.rows if r["method"] == method}
            if found:
                rows.append(
                    Row(number, net.name, method, [found.get(split.name) for split in splits])
                )
    return rows


def find_export(exp: Path, run: dict) -> Export | None:
    """What stage 10 has measured; None before it has run."""
    facts = read_part(exp / "export" / "results.json")
    if facts is None:
        return None
    splits, rows = list(dict.fromkeys(r["split"] for r in facts["rows"])), []
    for b in facts["benchmark"]:
        mine = {
            r["split"]: r["wer"]
            for r in reversed(facts["rows"])
            if all(r[k] == b[k] for k in ("name", "mode", "precision"))
        }
        rows.append(
            Deployed(
                b["name"],
                b["mode"],
                b["precision"],
                [mine.get(split) for split in splits],
                b["real_time_factor"],
                b["latency_ms"],
                b["peak_mib"],
                b["bytes"] / 1e6,
            )
        )
    return Export(
        splits, rows, facts["machine"], any(facts.get(key) != run.get(key) for key in SAME_TRAINING)
    )


def read_part(path: Path) -> dict | None:
    """A JSON file of the experiment; None where it is missing, or was damaged, which is logged."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logging.warning("report page: %s can not be read, and is left out: %s", path, error)
        return None


def find_plots(
    exp: Path, conf: Config, run: dict, numbers: dict[str, int], export: Export | None
) -> tuple[dict[str, dict], dict[str, str]]:
    """The pictures for which there is something to draw, and notes where something is missing.

    Args:
      numbers: of the nets on the page, by name.
    """
    plots, notes = {"wer": page_plots.draw_subnets(run["results"], numbers)}, {}
    if curves := page_plots.draw_curves(exp / "tensorboard"):
        plots["curves"] = curves
    else:
        notes["curves"] = (
            f"No training curves: {exp / 'tensorboard'} holds none. Stage 4 writes them."
        )
    selected = (read_part(exp / "subnets.json") or {}).get("method")
    if selected in SEARCHES:
        if found := read_part(exp / "search" / "search.json"):
            plots |= {
                "candidates": page_plots.draw_candidates(found),
                "winners": page_plots.draw_winners(found),
            }
        else:
            notes["search"] = f"{exp / 'search' / 'search.json'} is missing. Stage 5 writes it."
    if selected in LEARNED:
        if scores := page_plots.draw_scores(exp, conf, run["largest"]):
            plots["scores"] = scores
        else:
            notes["selection"] = (
                f"No scores over time: {exp / 'selection'} holds none. Stage 4 writes them."
            )
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
    """Make the page again, from what is there."""
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
