"""Stage 9: the table of subnets, WER against parameters as a picture, from results.json alone, and
a page to look at."""

import contextlib
import logging
import shlex
from argparse import Namespace
from pathlib import Path

from todm.config.keys import Config
from todm.config.load import load
from todm.page.page import write_page
from todm.recipe.command_line import parse_arguments
from todm.recipe.stage_main import stage_main
from todm.tables import table_report
from todm.tables.table_pictures import draw_subnets
from utils.errors import ConfigError
from utils.files import read_json, write_text_atomic
from utils.text import markdown_table


def make_table(results: list[dict]) -> str:
    """Markdown: a row per subnet and search method, a WER column per split."""
    splits = list(dict.fromkeys(r["split"] for r in results))
    rows = list(dict.fromkeys((r["name"], r["method"]) for r in results))
    by_key = {(r["name"], r["method"], r["split"]): r for r in results}
    header = [
        "subnet",
        "search",
        "encoder params",
        "total params",
        "MMACs per s of audio",
        *(f"WER % {s}" for s in splits),
    ]
    lines = []
    for name, method in rows:
        first = next(r for r in results if (r["name"], r["method"]) == (name, method))
        lines.append(
            [
                name,
                method,
                f"{first['encoder_params']:,}",
                f"{first['total_params']:,}",
                f"{first['macs_per_second'] / 1e6:.1f}",
                *(f"{by_key[name, method, s]['wer']:.2f}" for s in splits),
            ]
        )
    return markdown_table(header, lines, left=2)


def make_report(run: dict) -> str:
    """The whole report in Markdown."""
    sizes = ", ".join(
        f"{split} {words} words"
        for split, words in dict.fromkeys((r["split"], r["words"]) for r in run["results"])
    )
    facts = [
        f"corpus: {run['corpus']}; scored: {sizes}",
        f"training: {run['updates']} updates, {run['audio_hours_trained']} h of audio, "
        f"{run['training_seconds'] / 60:.1f} min, seed {run['seed']}; "
        f"weights: {run['weights']}",
        f"machine: {run['machine']}; torch {run['torch']}; commit {run['commit']}",
        f"command: `{run['command']}`",
    ]
    return (
        f"# {run['name']}: subnets of one supernet\n\n{make_table(run['results'])}\n\n"
        + "".join(f"- {fact}\n" for fact in facts)
    )


def report(config: Config, arguments: Namespace) -> None:
    exp = config.exp_dir
    run = read_json(exp / "results.json")
    text = make_report(run)
    picture = exp / "wer-against-parameters.png"
    write_text_atomic(exp / "report.md", text)
    draw_subnets(run, picture)
    print(f"\n{text}", flush=True)  # before the log lines, also where stdout is a pipe
    logging.info("table: %s; picture: %s", exp / "report.md", picture)
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
    """The tables of the finished runs, with the search of stage 5 kept beside them."""
    search = config.exp_dir / "search" / "search.json"
    if search.is_file():
        write_text_atomic(
            Path(config.tables.records) / "search.json", search.read_text(encoding="utf-8")
        )
    path = table_report.write_tables(config)
    print(f"\n{path.read_text(encoding='utf-8')}", flush=True)
    logging.info("tables: %s; every run: %s", path, path.with_name("runs.csv"))


def main() -> None:
    """Both reports; of a conf with tables whose supernet was not decoded here, the tables alone."""
    arguments = parse_arguments(__doc__)
    with contextlib.suppress(ConfigError):  # stage_main names the mistake
        config = load(arguments.conf, arguments.overrides)
        if config.tables.records and not (config.exp_dir / "results.json").is_file():
            table_report.main()
            return
    stage_main(9, report, __doc__)


if __name__ == "__main__":
    main()
