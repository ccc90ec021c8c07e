"""Stage 9: the table of subnets, WER against parameters and loss against updates as pictures, and a
page to look at."""

import contextlib
import logging
import shlex
from argparse import Namespace
from collections.abc import Sequence

from todm.config.keys import Config
from todm.config.load import load
from todm.page.page import write_page
from todm.recipe.command_line import parse_arguments
from todm.recipe.stage_main import stage_main
from todm.recipe.stages import STAGES
from todm.results.decode_results import DecodeRow, RunResults, read_results
from todm.results.subnets import SubnetEntry
from todm.tables import table_report
from todm.tables.runs import tables_folder
from todm.tables.table_pictures import draw_subnets, draw_training
from utils.errors import ConfigError
from utils.files import write_text_atomic
from utils.text import markdown_table


def make_table(rows: Sequence[DecodeRow]) -> str:
    """The table in Markdown: a row per subnet and search method, a WER column per split."""
    splits = list(dict.fromkeys(row.split for row in rows))
    rates: dict[tuple[SubnetEntry, str], dict[str, float]] = {}
    for row in rows:
        rates.setdefault((row.entry, row.method), {})[row.split] = row.wer
    header = [
        "subnet",
        "search",
        "encoder params",
        "total params",
        "MMACs per s of audio",
        *(f"WER % {split}" for split in splits),
    ]
    lines = [
        [
            entry.name,
            method,
            f"{entry.encoder_params:,}",
            f"{entry.total_params:,}",
            f"{entry.macs_per_second / 1e6:.1f}",
            *(f"{found[split]:.2f}" for split in splits),
        ]
        for (entry, method), found in rates.items()
    ]
    return markdown_table(header, lines, left=2)


def make_report(results: RunResults) -> str:
    """The whole report in Markdown."""
    run = results.run
    words = dict.fromkeys((row.split, row.words) for row in results.rows)
    sizes = ", ".join(f"{split} {count} words" for split, count in words)
    facts = [
        f"corpus: {run.corpus}; scored: {sizes}",
        f"training: {run.updates} updates, {run.audio_hours_trained} h of audio, "
        f"{run.training_seconds / 60:.1f} min, seed {run.seed}; "
        f"weights: {run.weights}",
        f"machine: {run.machine}; torch {run.torch}; commit {run.commit}",
        f"command: `{run.command}`",
    ]
    return f"# {run.name}: subnets of one supernet\n\n{make_table(results.rows)}\n\n" + "".join(
        f"- {fact}\n" for fact in facts
    )


def report(config: Config, arguments: Namespace) -> None:
    """Writes report.md, its picture and the page; with tables in the conf these, too."""
    exp = config.exp_dir
    results = read_results(exp / "results.json")
    text = make_report(results)
    picture, curves = exp / "wer-against-parameters.png", exp / "loss-against-updates.png"
    write_text_atomic(exp / "report.md", text)
    draw_subnets(results, picture)
    drawn = draw_training(results.run, exp / "tensorboard", curves)
    print(f"\n{text}", flush=True)  # before the log lines, also where stdout is a pipe
    pictures = f"{picture}, {curves}" if drawn else picture
    logging.info("table: %s; pictures: %s", exp / "report.md", pictures)
    if config.tables.records:
        report_tables(config)
    write_page(config, shlex.join([arguments.conf, *arguments.overrides]))
    logging.info(
        "recognised texts and errors: %s; checkpoints: %s; curves: tensorboard --logdir %s",
        exp / "decode",
        exp / "checkpoints",
        exp / "tensorboard",
    )


def report_tables(config: Config) -> None:
    """Writes the tables of the finished runs, with the search of stage 5 kept beside them."""
    search = config.exp_dir / "search" / "search.json"
    if search.is_file():
        write_text_atomic(tables_folder(config) / "search.json", search.read_text(encoding="utf-8"))
    path = table_report.write_tables(config)
    print(f"\n{path.read_text(encoding='utf-8')}", flush=True)
    logging.info("tables: %s; every run: %s", path, path.with_name("runs.csv"))


def main() -> None:
    """Writes both reports; of a conf with tables whose supernet was not decoded here, the tables
    alone."""
    arguments = parse_arguments(__doc__)
    with contextlib.suppress(ConfigError):  # stage_main names the mistake
        config = load(arguments.conf, arguments.overrides)
        if not STAGES[9].needs_inputs(config):
            table_report.main()
            return
    stage_main(9, report, __doc__)


if __name__ == "__main__":
    main()
