"""The stages of the recipe, and the command line that all of them share."""

import argparse
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from todm.config.keys import CONFS, LEARNED, Config
from todm.config.load import load
from utils import conf as configuration
from utils.errors import UserError
from utils.files import WRITE_ERRORS
from utils.files import describe as describe_error
from utils.interrupts import Stopped
from utils.locks import FolderLock
from utils.processes import end_workers, handle_stops, signal_when_parent_dies
from utils.stage_runner import Stage, StageRunner, StageTable

CORPUS_KEYS = ("data.corpus", "data.root", "data.train", "data.dev", "data.test")
OTHER_SETS = ("data.dev", "data.test")  # of which training reads nothing but dev's loss


def synthetic_values(config: Config) -> dict:
    """The settings of the embedded corpus, where it is used."""
    used = config.data.corpus == "synthetic" and not config.data.root
    return configuration.select(config, ("synthetic",)) if used else {}


def learned_values(config: Config) -> dict:
    """What stage 4 depends on beside its keys: learned selection trains with the supernet, other
    selection comes after it."""
    if config.select.method not in LEARNED:
        return {"select.learned": None}
    return {
        "select.learned": config.select.method,
        **configuration.select(config, ("learn", "search.budgets", "search.cost")),
    }


def selection_values(config: Config) -> dict:
    """What stage 5 depends on beside the method: a ladder on its length, a search on its settings
    and on how dev is decoded."""
    if config.select.method == "uniform":
        return configuration.select(config, ("select.num_subnets",))
    if config.select.method in LEARNED:
        return {}
    return configuration.select(
        config, ("search", "decode.weights", "decode.range", "decode.max_symbols")
    )


def without_tables(config: Config) -> str | None:
    """Why stages 7 and 8 have nothing to do."""
    return (
        None
        if config.tables.records
        else "this conf has no tables (tables.records is not set); conf/tables/mini.yaml, for "
        "one, has"
    )


STAGES = StageTable(
    (
        Stage(
            0,
            "corpus",
            CORPUS_KEYS,
            (),
            "nothing, or data.root",
            "{data}/corpus/LibriSpeech, unless data.root is set",
            "data",
            (),
            content_keys=OTHER_SETS,
            more=synthetic_values,
        ),
        Stage(
            1,
            "manifests",
            CORPUS_KEYS + ("data.min_seconds", "data.max_seconds", "data.verify_audio"),
            (0,),
            "the corpus",
            "{data}/manifests, {data}/dropped.tsv",
            "data",
            ("manifests", "dropped.tsv"),
            content_keys=(*OTHER_SETS, "data.verify_audio"),
        ),
        Stage(
            2,
            "features",
            ("features", "data.speed_perturb", "data.musan"),
            (1,),
            "{data}/manifests",
            "{data}/features (audio to features, and their mean and deviation), "
            "{data}/dropped-features.tsv",
            "data",
            ("features",),
        ),
        Stage(
            3,
            "BPE",
            ("bpe",),
            (2,),
            "{data}/features",
            "{data}/lang (bpe.model, tokens.txt), {data}/cuts (final, with tokens checked)",
            "data",
            ("lang/bpe.model", "lang/tokens.txt", "cuts"),
        ),
        Stage(
            4,
            "train the supernet",
            (
                "model",
                "supernet",
                "method",
                "loss",
                "distill",
                "train",
                "spec_augment",
                "data.max_duration",
                "data.num_buckets",
                "data.musan",
                "data.musan_prob",
                "data.join_prob",
                "data.join_pause",
            ),
            (3,),
            "{data}/cuts, {data}/lang",
            "{exp}/checkpoints, {exp}/tensorboard, {exp}/train.log",
            "exp",
            ("checkpoints",),
            passive_keys=(
                "train.log_every",
                "train.cpu_processes",
                "train.keep_last",
                "train.scan_batches",
                "loss.backend",
            ),
            continue_keys=(
                "train.updates",
                "train.save_every",
                "train.valid_every",
                "train.valid_batches",
                "train.max_bad_batches",
                "train.precision",
                "data.max_duration",
                "data.num_buckets",
            ),
            more=learned_values,
        ),
        Stage(
            5,
            "select subnets",
            ("select.method",),
            (4,),
            "{exp}/checkpoints, {data}/cuts (dev)",
            "{exp}/subnets.json, {exp}/search (search.json, front.png)",
            "exp",
            ("subnets.json",),
            more=selection_values,
        ),
        Stage(
            6,
            "decode and score",
            ("decode",),
            (5,),
            "{exp}/checkpoints, {exp}/subnets.json",
            "{exp}/decode (recogs-*, errs-*, wer-summary-*), {exp}/results.json",
            "exp",
            ("decode", "results.json"),
            passive_keys=("decode.max_duration",),
        ),
        Stage(
            7,
            "individually trained models",
            (),
            (3,),
            "the subnets of stage 5, {data}",
            "{exp}/runs, the records of tables.records; nothing without tables in the conf",
            "exp",
            (),
            always=lambda config: True,
            idle=without_tables,
        ),
        Stage(
            8,
            "ablations and learned selections",
            (),
            (3,),
            "the subnets of stage 5, {data}",
            "{exp}/runs, the records of tables.records; nothing without tables in the conf",
            "exp",
            (),
            always=lambda config: True,
            idle=without_tables,
        ),
        Stage(
            9,
            "report",
            (),
            (6,),
            "{exp}/results.json, the records of tables.records",
            "{exp}/report.html, {exp}/report.md, {exp}/wer-against-parameters.png, tables of "
            "tables.records",
            "exp",
            ("report.html", "report.md", "wer-against-parameters.png"),
            always=lambda config: bool(config.tables.records),
            needs_inputs=lambda config: (
                not config.tables.records or (config.exp_dir / "results.json").is_file()
            ),
        ),  # else tables of records alone
        Stage(
            10,
            "export",
            ("export", "decode.weights", "decode.range", "decode.beam"),
            (6,),
            "{exp}/checkpoints, {exp}/subnets.json, {exp}/results.json, the audio of dev and test",
            "{exp}/export: a folder per subnet, report.md, wer-against-rtf.png; {exp}/report.html",
            "exp",
            ("export/report.md", "export/wer-against-rtf.png"),
            passive_keys=("export.benchmark_seconds", "export.benchmark_rounds"),
            content_keys=("export.subnets", "export.budget"),
        ),
    )
)


def parse_arguments(description: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """``--conf X [--force] [key=value ...]``, as every stage script takes them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--conf",
        default="conf/mini.yaml",
        help="a YAML file; names are looked up in the recipe's conf folder",
    )
    parser.add_argument(
        "--force", action="store_true", help="redo the stage although it is finished"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="conf values to change")
    return parser.parse_args(arguments)


def runner(config: Config, arguments: Sequence[str]) -> StageRunner:
    """The stage runner of this recipe. ``arguments``: ``--conf`` and the overrides as the user gave
    them."""
    return StageRunner(STAGES, config, {"data": config.data_dir, "exp": config.exp_dir}, arguments)


def folder_locks(config: Config, command: str) -> list[FolderLock]:
    """The locks of the data and of the experiment, not held yet. ``command``: what others are told
    of the holder."""
    return [FolderLock(folder, command) for folder in (config.data_dir, config.exp_dir)]


def lock_for_stage(number: int, locks: list[FolderLock]) -> None:
    """Hold what a stage needs: its own folder to write; one that makes the data needs no
    experiment, the others read the data.

    Raises:
      FolderBusy: another process has one of them.
    """
    data, exp = locks
    data.acquire(exclusive=STAGES[number].folder == "data")
    if STAGES[number].folder == "exp":
        exp.acquire(exclusive=True)


def setup_logging(log_file: Path | None = None) -> None:
    """Log to the terminal, and to a file when one is given."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    # a full disk prints no traceback for every line that a log file can not take
    logging.raiseExceptions = False
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )


def stage_main(
    number: int, action: Callable[[Config, argparse.Namespace], None], description: str
) -> None:
    """Entry point of a stage script: parse, check the inputs, run, stamp. Users' mistakes end with
    a message."""
    arguments = parse_arguments(description)
    setup_logging()
    if "LOCAL_RANK" in os.environ:
        signal_when_parent_dies(
            signal.SIGKILL
        )  # ranks follow torchrun, which ends gently when run.sh is killed
    folder = Path()
    try:
        handle_stops(_stop)
        config = load(arguments.conf, arguments.overrides)
        stage_runner = runner(config, [arguments.conf, *arguments.overrides])
        folder = stage_runner.folders[STAGES[number].folder]
        if int(os.environ.get("RANK", "0")) == 0:
            locks = folder_locks(
                config, os.environ.get("TODM_COMMAND") or shlex.join(sys.argv)
            )  # held until the stage has ended
            lock_for_stage(number, locks)
            stage_runner.run(number, lambda: action(config, arguments), arguments.force)
            del locks
        elif (
            arguments.force
            or STAGES[number].always(config)
            or stage_runner.stale_reasons(STAGES[number])
        ):
            action(config, arguments)  # the first rank alone writes stamps
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # a full disk, a missing permission; what names no file and is nothing of the kind is a
        # fault of ours
        if error.filename is None and error.errno not in WRITE_ERRORS:
            raise
        print(f"\nERROR: stage {number}: {describe_error(error, folder)}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if int(os.environ.get("RANK", "0")) == 0 or not any(
            word in str(error).lower() for word in ("gloo", "nccl", "connection")
        ):
            raise
        sys.exit(1)  # another process of this training has ended, and says why
    except KeyboardInterrupt as stop:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + getattr(stop, "signal", signal.SIGINT))


def _stop(number: int, frame: object) -> None:
    end_workers()
    raise Stopped(number)


def describe() -> str:
    """The table that ``./run.sh --help`` prints."""
    lines = ["Stages (NAME is the conf's name):"]
    folders = {"data": "data/NAME", "exp": "exp/NAME"}
    for number, stage in STAGES.items():
        lines += [
            f"  {number:2d}  {stage.title}",
            f"        reads  {stage.reads.format(**folders)}",
            f"        writes {stage.writes.format(**folders)}",
        ]
    lines.append("\nConfs (egs/librispeech/todm/conf):")
    for path in sorted(CONFS.rglob("*.yaml"), key=lambda p: (len(p.parts), p)):
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"  conf/{str(path.relative_to(CONFS)):31s} {first}")
    return "\n".join(lines)


def default_processes(config: Config) -> int:
    """Processes of stage 4 when the user says nothing: ``train.cpu_processes`` without a GPU, 1
    with one."""
    import torch

    return 1 if torch.cuda.is_available() else config.train.cpu_processes


def main() -> None:
    """What run.sh asks for: ``help``, or ``processes --conf X [key=value ...]`` of stage 4."""
    if sys.argv[1] == "help":
        print(describe())
        return
    try:
        parsed = parse_arguments("", sys.argv[2:])
        print(default_processes(load(parsed.conf, parsed.overrides)))
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
