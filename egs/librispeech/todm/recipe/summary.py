"""The end of ./run.sh: what was made, and the commands that people want next.

It reads files alone, and imports no torch.
"""

import gzip
import json
import math
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from todm.config.keys import LEARNED, Config
from todm.results.decode_results import DecodeRow, RunResults, read_results
from todm.results.subnets import read_subnets
from utils.errors import UserError

PAGE = "report.html"
DEFAULT_CONF = "conf/mini.yaml"  # of ./run.sh


@dataclass(frozen=True)
class Command:
    """A command to copy into a shell, in the recipe's folder.

    Attributes:
      what: what it does, in a few words. line: the command itself.
    """

    what: str
    line: str


def closing(config: Config, conf_argument: str, colour: bool | None = None) -> str:
    """The text at the end: what was made, the page, WER of the best and of the smallest subnet,
    and what to do next; empty before stage 6 has finished.

    Args:
      conf_argument: conf and overrides as one types them after ``--conf``, quoted for a shell.
      colour: None: where standard output is a terminal.
    """
    results = results_or_none(config.exp_dir)
    if results is None:
        return ""
    rows = deployed_rows(config.exp_dir, results)
    names = list(dict.fromkeys(row.name for row in rows))
    bold = "\033[1m%s\033[0m" if (wants_colour() if colour is None else colour) else "%s"
    made = f"{len(names)} recognisers out of one training" if len(names) > 1 else "one recogniser"
    lines = ["", bold % f"{config.name}: {made}, in {config.exp_dir}", ""]
    lines += [f"  {label}{text}" for label, text in ends(rows)]
    page, commands = config.exp_dir / PAGE, next_commands(config, conf_argument, results)
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


def results_or_none(exp: Path) -> RunResults | None:
    """The results of stage 6; None where there are none yet, or only half of them."""
    try:
        return read_results(exp / "results.json")
    except (UserError, OSError):
        return None


def deployed_names(exp: Path, results: RunResults) -> list[str]:
    """Names of the decoded subnets, the largest first, without those that are decoded for
    comparison alone (baselines of subnets.json)."""
    sizes = {row.name: row.entry.encoder_params for row in results.rows}
    names = sorted(sizes, key=lambda name: -sizes[name])
    try:
        chosen = {entry.name for entry in read_subnets(exp / "subnets.json")}
    except (UserError, OSError, ValueError, KeyError):
        return names
    return [name for name in names if name in chosen] or names  # none: decode.subnets names others


def deployed_rows(exp: Path, results: RunResults) -> list[DecodeRow]:
    """The results of the deployed subnets with the search method that was asked for first, the
    largest first."""
    names, method = deployed_names(exp, results), results.rows[0].method
    rows = [row for row in results.rows if row.name in names and row.method == method]
    return sorted(rows, key=lambda row: names.index(row.name))


def ends(rows: list[DecodeRow]) -> list[tuple[str, str]]:
    """The subnet that is best on dev and the smallest one, in a line each."""
    names = list(dict.fromkeys(row.name for row in rows))
    best = min(names, key=lambda name: dev_errors(rows, name))
    if len(names) == 1:
        chosen = [("", best)]
    elif best == names[-1]:
        chosen = [("best and smallest ", best)]
    else:
        chosen = [("best", best), ("smallest", names[-1])]
    lines = []
    for label, name in chosen:
        rates = ", ".join(f"{percent(row.wer)} on {row.split}" for row in rows if row.name == name)
        lines.append((f"{label:<10}" if label else "", f"{name}: WER {rates}"))
    return lines


def dev_errors(rows: list[DecodeRow], name: str) -> int:
    """The word errors of a subnet over all of dev; over test where there is no dev."""
    role = "dev" if "dev" in {row.role for row in rows} else "test"
    return sum(row.errors for row in rows if row.name == name and row.role == role)


def percent(wer: float) -> str:
    """A WER in per cent; of hypotheses where the reference has no words it is infinite."""
    return f"{wer:.2f} %" if math.isfinite(wer) else "infinite (no words in the reference)"


def next_commands(config: Config, conf_argument: str, results: RunResults) -> list[Command]:
    """The commands that people want next: recognise a file, do it with less computing, find a
    subnet for a budget, export."""
    exp, audio = shlex.quote(str(config.exp_dir)), shlex.quote(example_audio(config))
    conf = "" if conf_argument.strip() == DEFAULT_CONF else f" --conf {conf_argument}"
    commands = []
    if not (config.exp_dir / PAGE).is_file():
        commands.append(Command("Make the report page", f"./run.sh --stage 9 --stop-stage 9{conf}"))
    streaming = " --streaming" if config.model.direction == "causal" else ""
    commands.append(
        Command("Recognise speech in a file", f"./transcribe.sh {exp}{streaming} {audio}")
    )
    if config.model.direction == "dual":
        line = f"./transcribe.sh {exp} --streaming {audio}"
        commands.append(Command("The same chunk by chunk, as audio arrives", line))
    rows = deployed_rows(config.exp_dir, results)
    sizes = {row.name: row.entry.encoder_params for row in rows}
    if len(set(sizes.values())) > 1:
        name = sorted(sizes, key=lambda name: sizes[name])[(len(sizes) - 1) // 2]
        budget = rounded_up(sizes[name])
        by_size = config.search.cost == "encoder_params"
        choice = f"--budget {budget}" if by_size else f"--subnet {shlex.quote(name)}"
        line = f"./transcribe.sh {exp} {choice}{streaming} {audio}"
        commands += [
            Command("The same with a smaller net", line),
            *search_commands(config, conf_argument, budget),
        ]
    if not (config.exp_dir / "export" / "results.json").is_file():
        line = f"./run.sh --stage 10 --stop-stage 10{conf}"
        commands.append(Command("Export for phones, boards and browsers", line))
    return commands


def search_commands(config: Config, conf_argument: str, budget: str) -> list[Command]:
    """The command that searches a subnet for a budget; none where it would train again, or be
    refused."""
    if config.select.method in LEARNED or config.tables.budgets or config.model.architecture:
        return []
    cost = "" if config.search.cost == "encoder_params" else " search.cost=encoder_params"
    line = (
        f"./run.sh --stage 5 --stop-stage 9 --conf {conf_argument} "
        f"select.method=evolution{cost} 'search.budgets=[{budget}]'"
    )
    return [Command("Search the best subnet for a budget, without training again", line)]


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
