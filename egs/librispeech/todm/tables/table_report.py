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
from todm.results.subnets import read_subnets
from todm.search.search_report import draw_front
from todm.subnet import Subnet
from todm.tables.evidence import Evidence, System
from todm.tables.runs import ALONE, INDIVIDUAL, SAME, SUPERNET, Records
from todm.tables.table_pictures import draw_curves, draw_families
from utils.errors import UserError
from utils.files import read_json, write_text_atomic
from utils.statistics import Difference
from utils.text import file_name, markdown_table

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
PAPER = (
    "The paper (LibriSpeech 960 h, its own sizes and hardware) reports subnets that match or beat "
    "individually tuned models of the "
    "same size by up to 3 % relative WER, for about the cost of one training."
)


def write_tables(config: Config) -> Path:
    """Write tables.md, runs.csv and the pictures beside the records. Returns the path of tables.md.

    Raises:
      UserError: there are no records yet.
    """
    folder = Path(config.tables.records)
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
    evidence = Evidence(records, config.tables.seeds[0])
    search = read_json(folder / "search.json") if (folder / "search.json").is_file() else None
    write_text_atomic(folder / "runs.csv", make_csv(evidence))
    write_text_atomic(folder / "tables.md", make_tables(config, evidence, search))
    if evidence.budgets():
        draw_families(evidence, folder / "wer-against-size.png", config.name)
    draw_curves(evidence, [SUPERNET, *ablations(config, evidence)], folder / "curves.png")
    for name in selections(config, evidence):
        record = evidence.of(name, evidence.tuned_setting(name))[0]
        draw_masks(
            {r["budget"]: Subnet.parse(r["architecture"]) for r in record["results"]},
            folder / f"masks-{file_name(name)}.png",
            name,
        )
    if search:
        draw_front(search, folder / "front.png")
    return folder / "tables.md"


def mixed_values(records: list[dict], config: Config) -> dict[str, str]:
    """Conf values that differ between records although no variant or grid of the conf sets them."""
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
        for key, value in record["conf"].items():
            if key not in meant:
                found.setdefault(key, set()).add(repr(value))
    return {key: ", ".join(sorted(values)) for key, values in found.items() if len(values) > 1}


def make_tables(config: Config, evidence: Evidence, search: dict | None) -> str:
    """All tables in Markdown."""
    parts = [f"# {config.name}: tables", header(evidence)]
    if evidence.budgets():
        parts += [
            "## (a) Size against WER: subnets of one supernet, and models trained alone",
            table_a(evidence),
        ]
    if names := ablations(config, evidence):
        parts += ["## (b) Ablations", table_b(evidence, names)]
    if config.tables.budgets or evidence.budgets():
        parts += ["## (c) Cost", table_c(evidence, search)]
    if selected := selections(config, evidence):
        parts += ["## (d) Ways of selecting subnets", table_d(config, evidence, search, selected)]
    if search:
        parts += ["## Search", table_search(evidence, search)]
    return "\n\n".join(part for part in parts if part) + "\n"


def header(evidence: Evidence) -> str:
    """What holds for all tables."""
    first = evidence.records[0]
    sizes = []
    for split, role in evidence.splits:
        words, speakers = evidence.utterances(split)
        sizes.append(
            f"{split} ({role}) {len(words)} utterances, {words.sum()} words, {len(set(speakers))} "
            "speakers"
        )

    def all_of(key: str) -> str:
        return ", ".join(sorted({str(r[key]) for r in evidence.records}))

    return "\n".join(
        [
            f"- corpus: {first['corpus']}; {'; '.join(sizes)}",
            f"- {len(evidence.records)} runs, seeds {all_of('seed')}, {all_of('updates')} updates "
            "each; every one is in runs.csv and, whole, in records/",
            f"- machine: {all_of('machine')}; torch {all_of('torch')}; commits "
            f"{all_of('commit')}; commands: in runs.csv",
            "- WER % as mean over seeds [95 % interval: bootstrap over speakers and seeds] (each "
            "seed); p: permutation test over utterances, "
            "which does not know of the luck of a training; *: p < 0.05 and the same sign with "
            "every seed (2 or more)",
        ]
    )


def cell(evidence: Evidence, system: System, split: str) -> str:
    rate = evidence.rate(system, split)
    if rate is None:
        return "not run"
    return (
        f"{rate.wer:.2f} [{rate.low:.1f}, {rate.high:.1f}] "
        f"({', '.join(f'{w:.2f}' for w in evidence.by_seed(system, split).values())})"
    )


def difference_cell(found: tuple[Difference, int] | None) -> str:
    if found is None:
        return ""
    d, seeds = found
    star = "*" if d.p < 0.05 and d.seeds_agree and seeds > 1 else ""
    return (
        f"{d.absolute:+.2f} [{d.low:+.1f}, {d.high:+.1f}], {d.relative:+.1f} % rel., p "
        f"{d.p:.3f}{star}"
    )


def table_a(evidence: Evidence) -> str:
    """Rows: sizes and splits. Columns: supernet, alone with the same settings, alone tuned, and the
    differences."""
    rows, against_tuned = [], {}
    for budget in evidence.budgets():
        tuned = evidence.tuned_setting(f"{INDIVIDUAL} {budget}")
        same, best = evidence.alone(budget, SAME), evidence.alone(budget, tuned)
        subnet = evidence.supernet(same.net)
        for split, role in evidence.splits:
            if role == "test":
                against_tuned[budget, split] = evidence.difference(subnet, best, split)
            rows.append(
                [
                    budget,
                    f"{evidence.size(same.net) / 1e6:.2f}M",
                    split,
                    cell(evidence, subnet, split),
                    cell(evidence, same, split),
                    cell(evidence, best, split),
                    tuned or "the same",
                    difference_cell(evidence.difference(subnet, same, split)),
                    difference_cell(evidence.difference(subnet, best, split)),
                ]
            )
    ours = "; ".join(
        f"{budget} on {split}: {d[0].relative:+.1f} %"
        for (budget, split), d in against_tuned.items()
        if d
    )
    titles = [
        "budget",
        "encoder",
        "split",
        "supernet",
        "alone, same settings",
        "alone, tuned on dev",
        "tuned to",
        "supernet - same",
        "supernet - tuned",
    ]
    return (
        f"{markdown_table(titles, rows)}\n\n{PAPER} Here corpus, sizes and updates are far "
        "smaller (see the header), and the supernet's "
        f"WER differs from the tuned models' by, relative: {ours or 'not run'}.\n\n![WER against "
        "size](wer-against-size.png)"
    )


def ablations(config: Config, evidence: Evidence) -> list[str]:
    """The variants of table (b) that have run."""
    others = {SUPERNET, *(s.name for s in config.tables.selections)}
    return [v for v in evidence.variants() if v not in others and not v.startswith(INDIVIDUAL)]


def selections(config: Config, evidence: Evidence) -> list[str]:
    """The learned selections of table (d) that have run."""
    return [s.name for s in config.tables.selections if s.name in evidence.variants()]


def table_b(evidence: Evidence, names: list[str]) -> str:
    """Rows: variants. Columns: largest, middle, smallest net on every split, with the difference to
    the full method."""
    nets = sorted(
        {row["architecture"] for v in names for r in evidence.of(v) for row in r["results"]},
        key=lambda net: -evidence.size(net),
    )
    rows = []
    for split, _ in evidence.splits:
        for variant in [SUPERNET, *names]:
            setting = evidence.tuned_setting(variant)
            for net in nets:
                system, full = System(variant, setting, net), evidence.supernet(net)
                title = (
                    "full method"
                    if variant == SUPERNET
                    else variant + (f" ({setting})" if setting else "")
                )
                rows.append(
                    [
                        split,
                        title,
                        f"{evidence.size(net) / 1e6:.2f}M",
                        cell(evidence, system, split),
                        ""
                        if variant == SUPERNET
                        else difference_cell(evidence.difference(system, full, split)),
                    ]
                )
    return (
        markdown_table(["split", "variant", "encoder", "WER %", "variant - full"], rows)
        + "\n\n![training curves](curves.png)"
    )


def table_c(evidence: Evidence, search: dict | None) -> str:
    """What N sizes cost from one supernet, and from N trainings, per seed."""
    budgets = evidence.budgets()
    seed = evidence.first_seed

    def of_seed(variant: str, setting: str | None) -> list[dict]:
        return [r for r in evidence.of(variant, setting) if r["seed"] == seed]

    alone = [r for b in budgets for r in of_seed(f"{INDIVIDUAL} {b}", SAME)]
    if not alone or not of_seed(SUPERNET, SAME):
        return f"not run: it takes the supernet and models alone with seed {seed}"
    grid = [r for b in budgets for r in of_seed(f"{INDIVIDUAL} {b}", None)]
    supernet = evidence.cost(of_seed(SUPERNET, SAME))
    rows = []
    for title, cost in (
        (f"one supernet, any number of sizes (here {len(budgets)})", supernet),
        (f"{len(alone)} sizes trained alone, same settings", evidence.cost(alone)),
        (f"{len(budgets)} sizes trained alone, tuned ({len(grid)} trainings)", evidence.cost(grid)),
    ):
        rows.append(
            [
                title,
                str(cost["runs"]),
                f"{cost['updates']:,}",
                f"{cost['audio_hours']:.1f}",
                f"{cost['wall_hours']:.2f}",
                f"{cost['process_hours']:.2f}",
                f"{cost['process_hours'] / supernet['process_hours']:.2f}",
            ]
        )
    if search:
        seconds = sum(s for how, s in search["seconds"].items() if how != "random") / 3600
        rows.append(
            [
                "the search, once per supernet",
                "",
                "",
                "",
                f"{seconds:.2f}",
                f"{seconds:.2f}",
                f"{seconds / supernet['process_hours']:.2f}",
            ]
        )
    titles = [
        "what",
        "trainings",
        "updates",
        "audio hours",
        "wall hours, one after the other",
        "accelerator or core-process hours",
        "times the supernet",
    ]
    mean = evidence.cost(alone)["process_hours"] / len(alone)
    even = supernet["process_hours"] / mean
    return (
        f"{markdown_table(titles, rows)}\n\nSeed {seed}; measured while "
        f"{evidence.records[0]['processes']} process(es) of a run and the other workers "
        f"shared the machine. A training alone took {mean:.2f} process hours on average, so one "
        f"supernet costs as much as {even:.1f} sizes "
        "trained alone without any tuning; every further size is free."
    )


def table_d(config: Config, evidence: Evidence, search: dict | None, selected: list[str]) -> str:
    """Rows: budgets and ways of selecting. Columns: size, WER on every split, and against evolution
    on test; then what each costs."""
    folder = Path(config.tables.records)
    searched: dict[str, dict[str | None, str]] = {}
    for entry in read_subnets(folder / "subnets.json", baselines=True):
        searched.setdefault(entry.how, {})[entry.budget] = str(entry.subnet)
    rows, tests = [], [split for split, role in evidence.splits if role == "test"]
    budgets = [
        b
        for b in config.search.budgets
        if any(
            evidence.seeds(System(name, evidence.tuned_setting(name), b), evidence.splits[0][0])
            for name in selected
        )
    ]
    for budget in budgets:
        systems = {
            how: evidence.supernet(nets[budget]) for how, nets in searched.items() if budget in nets
        }
        first = next(iter(systems.values()), None)
        systems |= {name: System(name, evidence.tuned_setting(name), budget) for name in selected}
        for name, system in systems.items():
            sizes = [
                row["encoder_params"] / 1e6
                for (other, _, _), row in evidence.rows.items()
                if other == system
            ]
            if not sizes:
                continue
            rows.append(
                [
                    budget,
                    name,
                    "/".join(f"{size:.2f}M" for size in sorted(set(sizes))),
                    *(cell(evidence, system, s) for s, _ in evidence.splits),
                    *(
                        ""
                        if system == first
                        else difference_cell(evidence.difference(system, first, s))
                        for s in tests
                    ),
                ]
            )
    titles = [
        "budget",
        "selected by",
        "encoder, by seed",
        *(s for s, _ in evidence.splits),
        *(f"{s}: minus evolution" for s in tests),
    ]
    costs = []
    for name in [SUPERNET, *selected]:
        of = evidence.of(name, evidence.tuned_setting(name) if name != SUPERNET else SAME)
        seconds = sum(r["training_seconds"] for r in of) / max(len(of), 1)
        after = (
            f"{sum(s for how, s in search['seconds'].items() if how != 'random'):.0f}"
            if search and name == SUPERNET
            else "0"
        )
        costs.append(
            [
                name if name != SUPERNET else "supernet, then evolution",
                str(len(of)),
                f"{seconds:.0f}",
                after,
            ]
        )
    pictures = "\n".join(
        f"![{name}: what every size keeps](masks-{file_name(name)}.png)" for name in selected
    )
    return (
        f"{markdown_table(titles, rows, left=3)}\n\n{markdown_table(['selected by', 'trainings', 'seconds of training, mean', 'seconds of selection'], costs)}"
        "\n\nLearned selections train and select at once, with the same updates; evolution and "
        f"its baselines look at the first seed's supernet.\n\n{pictures}"
    )


def table_search(evidence: Evidence, search: dict) -> str:
    """Evolution, random search and the ladder at every budget, on dev and test."""
    rows = []
    for budget in search["limits"]:
        for how, entries in search["chosen"].items():
            entry = next(e for e in entries if e["budget"] == budget)
            system = evidence.supernet(entry["architecture"])
            rows.append(
                [
                    budget,
                    how,
                    f"{entry['cost']:,.6g}",
                    f"{entry['dev_loss']:.4f}",
                    *(
                        cell(evidence, system, split) if evidence.seeds(system, split) else ""
                        for split, _ in evidence.splits
                    ),
                    entry["architecture"],
                ]
            )
    titles = [
        "budget",
        "found by",
        search["cost_unit"],
        "loss on the slice of dev",
        *(split for split, _ in evidence.splits),
        "architecture",
    ]
    scored = ", ".join(f"{how} {count}" for how, count in search["scored"].items())
    seconds = ", ".join(f"{how} {s:.0f} s" for how, s in search["seconds"].items())
    return (
        f"{markdown_table(titles, rows)}\n\nCandidates scored: {scored}. Time: {seconds}. The "
        "search saw the first seed's supernet and dev only; "
        "the other seeds' supernets are decoded with the same architectures.\n\n![the "
        "front](front.png)"
    )


def make_csv(evidence: Evidence) -> str:
    """A line per run, split, net and search method."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for record in evidence.records:
        for row in record["results"]:
            values = record | row | {"net": row["name"]}
            writer.writerow({field: values[field] for field in CSV_FIELDS})
    return text.getvalue()


def main() -> None:
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
