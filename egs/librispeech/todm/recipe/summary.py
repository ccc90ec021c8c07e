"""The text at the end of ./run.sh: what was made, and the commands that people want next. It reads
files alone, and imports no torch."""

import gzip
import json
import math
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from todm.config.keys import LEARNED, Config

PAGE = "report.html"
DEFAULT_CONF = "conf/mini.yaml"  # of ./run.sh


@dataclass(frozen=True)
class Command:
    """A command that people may want next.

    Attributes:
      what: what it does, in a few words.
      line: the command itself, to be copied into a shell in the recipe's folder.
    """

    what: str
    line: str


def closing(config: Config, conf_argument: str, colour: bool | None = None) -> str:
    """The closing text: what was made, WER of the best and the smallest subnet, the page, and what
    to do next. It is empty before stage 6 has finished.

    Args:
      conf_argument: conf and overrides as one types them after ``--conf``, quoted for a shell.
      colour: whether the title is bold; None: where standard output is a terminal.
    """
    run = read_results(config.exp_dir)
    if run is None:
        return ""
    rows = deployed_rows(config.exp_dir, run)
    names = list(dict.fromkeys(row["name"] for row in rows))
    bold = "\033[1m%s\033[0m" if (wants_colour() if colour is None else colour) else "%s"
    made = f"{len(names)} recognisers out of one training" if len(names) > 1 else "one recogniser"
    lines = ["", bold % f"{config.name}: {made}, in {config.exp_dir}", ""]
    lines += [f"  {label}{text}" for label, text in ends(rows)]
    page, commands = config.exp_dir / PAGE, next_commands(config, conf_argument, run)
    if page.is_file():
        lines += ["", f"  Look at it: {bold % page}  (open it in a browser)"]
    exported = sorted(p.parent.name for p in (config.exp_dir / "export").glob("*/tokens.txt"))
    if exported:
        lines += [f"  Exported for a device: {config.exp_dir / 'export'}  ({', '.join(exported)})"]
    for command in commands:
        lines += ["", f"  {command.what}:", f"    {command.line}"]
    return "\n".join(lines) + "\n"


def wants_colour() -> bool:
    """Whether standard output is a terminal that shows bold text, and nobody asked for none
    (https://no-color.org)."""
    return (
        sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    )


def read_results(exp: Path) -> dict | None:
    """Reads results.json of stage 6; None where there is none yet, or only half of one."""
    try:
        run = json.loads((exp / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return run if run.get("results") else None


def deployed_names(exp: Path, run: dict) -> list[str]:
    """The names of the subnets of results.json, the largest first, without those that are decoded
    for comparison alone (baselines of subnets.json)."""
    sizes = {row["name"]: row["encoder_params"] for row in run["results"]}
    names = sorted(sizes, key=lambda name: -sizes[name])
    try:
        chosen = {
            entry["name"]
            for entry in json.loads((exp / "subnets.json").read_text(encoding="utf-8"))["subnets"]
        }
    except (OSError, ValueError, KeyError):
        return names
    return [name for name in names if name in chosen] or names  # none: decode.subnets names others


def deployed_rows(exp: Path, run: dict) -> list[dict]:
    """The results of the deployed subnets with the search method that was asked for first, the
    largest subnet first."""
    names, method = deployed_names(exp, run), run["results"][0]["method"]
    rows = [row for row in run["results"] if row["name"] in names and row["method"] == method]
    return sorted(rows, key=lambda row: names.index(row["name"]))


def ends(rows: list[dict]) -> list[tuple[str, str]]:
    """The subnet that is best on dev and the smallest one, each as a label and a line with its
    WER."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    best = min(names, key=lambda name: dev_errors(rows, name))
    chosen = [("", best)] if len(names) == 1 else [("best", best), ("smallest", names[-1])]
    lines = []
    for label, name in (
        chosen if best != names[-1] or len(names) == 1 else [("best and smallest ", best)]
    ):
        rates = ", ".join(
            f"{percent(row['wer'])} on {row['split']}" for row in rows if row["name"] == name
        )
        lines.append((f"{label:<10}" if label else "", f"{name}: WER {rates}"))
    return lines


def dev_errors(rows: list[dict], name: str) -> float:
    """The word errors of a subnet over all of dev, or over test where there is no dev."""
    roles = {row["role"] for row in rows}
    return sum(
        row["substitutions"] + row["insertions"] + row["deletions"]
        for row in rows
        if row["name"] == name and row["role"] == ("dev" if "dev" in roles else "test")
    )


def percent(wer: float) -> str:
    """A WER in per cent; of hypotheses where the reference has no words it is infinite."""
    return f"{wer:.2f} %" if math.isfinite(wer) else "infinite (no words in the reference)"


def next_commands(config: Config, conf_argument: str, run: dict) -> list[Command]:
    """The commands that people want next: recognise a file, do so with a smaller net, find a subnet
    for a budget, export."""
    rows = deployed_rows(config.exp_dir, run)
    exp, audio = shlex.quote(str(config.exp_dir)), shlex.quote(example_audio(config))
    conf = "" if conf_argument.strip() == DEFAULT_CONF else f" --conf {conf_argument}"
    commands = []
    if not (config.exp_dir / PAGE).is_file():
        commands.append(Command("Make the report page", f"./run.sh --stage 9 --stop-stage 9{conf}"))
    streaming = " --streaming" if config.model.direction == "causal" else ""
    commands.append(
        Command("Recognise speech in a file", f"./transcribe.sh {exp}{streaming} {audio}")
    )
    sizes = {row["name"]: row["encoder_params"] for row in rows}
    several = len(set(sizes.values())) > 1
    if several:
        name = sorted(sizes, key=lambda name: sizes[name])[(len(sizes) - 1) // 2]
        budget = rounded_up(sizes[name])
        by_size = config.search.cost == "encoder_params"
        choice = f"--budget {budget}" if by_size else f"--subnet {shlex.quote(name)}"
        commands.append(
            Command(
                "The same with a smaller net", f"./transcribe.sh {exp} {choice}{streaming} {audio}"
            )
        )
        if (
            config.select.method not in LEARNED
            and not config.tables.budgets
            and not config.model.architecture
        ):
            cost = "" if by_size else " search.cost=encoder_params"
            line = (
                f"./run.sh --stage 5 --stop-stage 9 --conf {conf_argument} "
                f"select.method=evolution{cost} 'search.budgets=[{budget}]'"
            )
            commands.append(
                Command("Search the best subnet for a budget, without training again", line)
            )
    if not (config.exp_dir / "export" / "results.json").is_file():
        commands.append(
            Command(
                "Export for phones, boards and browsers",
                f"./run.sh --stage 10 --stop-stage 10{conf}",
            )
        )
    return commands


def rounded_up(parameters: int) -> str:
    """A budget that holds these parameters, as people write it, in two digits: 862,432 -> 870k."""
    step = 10 ** max(len(str(parameters)) - 2, 0)
    rounded = -(-parameters // step) * step
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if rounded >= unit:
            return f"{rounded / unit:g}{name}"
    return str(rounded)


def example_audio(config: Config) -> str:
    """The first audio file of dev that is still there, so that a command can be copied as it
    stands; else a made-up name."""
    for split in [*config.data.dev, *config.data.test]:
        try:
            with gzip.open(
                config.data_dir / "cuts" / f"{split}.jsonl.gz", "rt", encoding="utf-8"
            ) as cuts:
                source = json.loads(next(cuts))["recording"]["sources"][0]["source"]
        except (OSError, EOFError, ValueError, LookupError, StopIteration):
            continue
        if isinstance(source, str) and Path(source).is_file():
            return source
    return "speech.wav"
