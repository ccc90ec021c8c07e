"""Stage 9 for confs with tables: tables (a) to (d), CSV and pictures, from the records of the
finished runs alone.

python -m todm.tables.table_report --conf conf/tables/mini.yaml
"""

import csv
import io
import logging
import sys
from pathlib import Path

from todm.config.keys import Config
from todm.config.load import load
from todm.learned_selection.selection_report import draw_masks
from todm.recipe.command_line import parse_arguments, setup_logging
from todm.results.records import Record
from todm.results.search_results import SearchResults
from todm.search.search_report import draw_front
from todm.tables.ablation_table import ablation_table, finished_ablations
from todm.tables.cost_table import cost_table
from todm.tables.evidence import Evidence
from todm.tables.runs import ALONE, SUPERNET, Records, tables_folder
from todm.tables.search_table import search_table
from todm.tables.selection_table import finished_selections, selection_table
from todm.tables.size_table import size_table
from todm.tables.table_pictures import draw_curves, draw_families
from utils.errors import UserError
from utils.files import read_json, write_text_atomic
from utils.text import file_name

CSV_FIELDS = (
    "run",
    "variant",
    "setting",
    "seed",
    "split",
    "net",
    "architecture",
    "encoder_params",
    "total_params",
    "macs_per_second",
    "method",
    "wer",
    "substitutions",
    "insertions",
    "deletions",
    "words",
    "updates",
    "audio_hours_trained",
    "training_seconds",
    "processes",
    "weights",
    "machine",
    "torch",
    "commit",
    "command",
)


def write_tables(config: Config) -> Path:
    """Writes tables.md, runs.csv and the pictures beside the records.

    Returns:
      The path of tables.md.
    Raises:
      UserError: there are no records yet.
    """
    folder = tables_folder(config)
    records = Records(config.records_dir).all()
    if not records:
        raise UserError(
            f"{config.records_dir} holds no record of a finished run; stages 7 and 8 make them"
        )
    for key, values in mixed_values(records, config).items():
        logging.warning(
            "the records were made with different values of %s: %s; stages 7 and 8 repeat those "
            "that are not the conf's",
            key,
            values,
        )
    evidence, search = Evidence(records, config.tables.seeds[0]), kept_search(folder)
    write_text_atomic(folder / "runs.csv", make_csv(evidence))
    write_text_atomic(folder / "tables.md", make_tables(config, evidence, search))
    draw_pictures(config, evidence, search, folder)
    return folder / "tables.md"


def kept_search(folder: Path) -> SearchResults | None:
    """The search of stage 5 that is kept beside the records; None: there is none."""
    path = folder / "search.json"
    return SearchResults.from_dict(read_json(path)) if path.is_file() else None


def draw_pictures(
    config: Config, evidence: Evidence, search: SearchResults | None, folder: Path
) -> None:
    """Draws the pictures that the tables show, as far as their runs have finished."""
    if evidence.budgets():
        draw_families(evidence, folder / "wer-against-size.png", config.name)
    draw_curves(evidence, [SUPERNET, *finished_ablations(config, evidence)], folder / "curves.png")
    for name in finished_selections(config, evidence):
        entries = [row.entry for row in evidence.tuned(name)[0].rows]
        picture = folder / f"masks-{file_name(name)}.png"
        draw_masks({entry.budget or "": entry.subnet for entry in entries}, picture, name)
    if search:
        draw_front(search, folder / "front.png")


def mixed_values(records: list[Record], config: Config) -> dict[str, str]:
    """The conf values that differ between records although no variant or grid sets them."""
    t = config.tables
    texts = [
        *ALONE,
        *(" ".join(a.overrides + a.grid) for a in t.ablations + t.selections),
        *t.individual_grid,
    ]
    meant = {item.partition("=")[0] for text in texts for item in text.split()} | {
        "train.seed",
        "model.architecture",
        "nets",
        "select.learned",
    }
    found: dict[str, set] = {}
    for record in records:
        for key, value in record.plan.conf.items():
            if key not in meant:
                found.setdefault(key, set()).add(repr(value))
    return {key: ", ".join(sorted(values)) for key, values in found.items() if len(values) > 1}


def make_tables(config: Config, evidence: Evidence, search: SearchResults | None) -> str:
    """All tables in Markdown."""
    parts = [f"# {config.name}: tables", header(evidence)]
    if evidence.budgets():
        title = "## (a) Size against WER: subnets of one supernet, and models trained alone"
        parts += [title, size_table(evidence)]
    if names := finished_ablations(config, evidence):
        parts += ["## (b) Ablations", ablation_table(evidence, names)]
    if config.tables.budgets or evidence.budgets():
        parts += ["## (c) Cost", cost_table(evidence, search)]
    if selected := finished_selections(config, evidence):
        table = selection_table(config, evidence, search, selected)
        parts += ["## (d) Ways of selecting subnets", table]
    if search:
        parts += ["## Search", search_table(evidence, search)]
    return "\n\n".join(part for part in parts if part) + "\n"


def header(evidence: Evidence) -> str:
    """The lines that hold for all tables: data, runs, machine, and how numbers are written."""
    sizes = []
    for split, role in evidence.splits:
        words, _ = evidence.utterances(split)
        sizes.append(
            f"{split} ({role}) {len(words)} utterances, {words.sum()} words, "
            f"{len(set(evidence.speakers(split)))} speakers"
        )
    runs = [record.results.run for record in evidence.records]
    few = [split for split, _ in evidence.splits if not evidence.by_speaker(split)]
    drawn = f"utterances ({', '.join(few)}: too few speakers)" if few else "speakers"

    def all_of(key: str) -> str:
        return ", ".join(sorted({str(getattr(run, key)) for run in runs}))

    return "\n".join(
        [
            f"- corpus: {runs[0].corpus}; {'; '.join(sizes)}",
            f"- {len(runs)} runs, seeds {all_of('seed')}, {all_of('updates')} updates "
            "each; every one is in runs.csv and, whole, in records/",
            f"- machine: {all_of('machine')}; torch {all_of('torch')}; commits "
            f"{all_of('commit')}; commands: in runs.csv",
            f"- WER % as mean over seeds [95 % interval: bootstrap over {drawn} and seeds] (each "
            "seed); p: permutation test over utterances, "
            "which does not know of the luck of a training; *: p < 0.05 and the same sign with "
            "every seed (2 or more)",
        ]
    )


def make_csv(evidence: Evidence) -> str:
    """All results as CSV: a line for every run, split, net and search method."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for record in evidence.records:
        of_run = record.plan.as_dict() | record.results.run.as_dict()
        for row in record.rows:
            values = of_run | row.as_dict() | {"net": row.name}
            writer.writerow({field: values[field] for field in CSV_FIELDS})
    return text.getvalue()


def main() -> None:
    """Makes the tables alone, without the report of an experiment, and prints them."""
    arguments = parse_arguments(__doc__)
    setup_logging()
    try:
        path = write_tables(load(arguments.conf, arguments.overrides))
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)
    print(path.read_text(encoding="utf-8"))
    logging.info("tables: %s", path)


if __name__ == "__main__":
    main()
