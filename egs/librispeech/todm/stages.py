"""The stages of the recipe, and the command line that all of them share."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from egs.librispeech.todm.config import CONFS, LEARNED, Config, load
from utils import config as configuration
from utils.config import ConfigError
from utils.stages import Stage, StageError, StageRunner

CORPUS_KEYS = ("data.corpus", "data.root", "data.train", "data.dev", "data.test")


def learned_values(config: Config) -> dict:
    """What stage 4 depends on beside its keys: learned selection trains with the supernet, other selection comes after it."""
    if config.select.method not in LEARNED:
        return {"select.learned": None}
    return {"select.learned": config.select.method, **configuration.select(config, ("learn", "search.budgets", "search.cost"))}


STAGES = {
    stage.number: stage
    for stage in (
        Stage(0, "corpus", "local.make_corpus", CORPUS_KEYS + ("synthetic",), (),
              "nothing, or data.root", "{data}/corpus/LibriSpeech, unless data.root is set", "data", ()),
        Stage(1, "manifests", "local.prepare_manifests",
              CORPUS_KEYS + ("data.min_seconds", "data.max_seconds", "data.verify_audio"), (0,),
              "the corpus", "{data}/manifests, {data}/dropped.tsv", "data", ("manifests", "dropped.tsv")),
        Stage(2, "features", "local.compute_features", ("features", "data.speed_perturb"), (1,),
              "{data}/manifests", "{data}/features (audio to features, and their mean and deviation)", "data", ("features",)),
        Stage(3, "BPE", "local.train_bpe", ("bpe",), (2,),
              "{data}/features", "{data}/lang (bpe.model, tokens.txt), {data}/cuts (final, with tokens checked)", "data",
              ("lang/bpe.model", "lang/tokens.txt", "cuts")),
        Stage(4, "train the supernet", "egs.librispeech.todm.train",
              ("model", "supernet", "method", "loss", "distill", "train", "spec_augment", "data.max_duration", "data.num_buckets",
               "data.musan", "data.musan_prob", "data.join_prob", "data.join_pause"), (3,),
              "{data}/cuts, {data}/lang", "{exp}/checkpoints, {exp}/tensorboard, {exp}/train.log", "exp", ("checkpoints",),
              passive_keys=("train.log_every", "train.cpu_processes", "train.keep_last", "train.scan_batches", "loss.backend"),
              more=learned_values),
        Stage(5, "select subnets", "egs.librispeech.todm.select_subnets", ("select", "search", "decode.weights", "decode.range", "decode.max_symbols"), (4,),
              "{exp}/checkpoints, {data}/cuts (dev)", "{exp}/subnets.json, {exp}/search (search.json, front.png)", "exp", ("subnets.json",)),
        Stage(6, "decode and score", "egs.librispeech.todm.decode", ("decode",), (5,),
              "{exp}/checkpoints, {exp}/subnets.json", "{exp}/decode (recogs-*, errs-*, wer-summary-*), {exp}/results.json",
              "exp", ("decode", "results.json"), passive_keys=("decode.max_duration",)),
        Stage(7, "individually trained models", "egs.librispeech.todm.train_individual", (), (3,),
              "the subnets of stage 5, {data}", "{exp}/runs, the records of tables.records; nothing without tables in the conf", "exp", (),
              always=True),
        Stage(8, "ablations and learned selections", "egs.librispeech.todm.run_ablations", (), (3,),
              "the subnets of stage 5, {data}", "{exp}/runs, the records of tables.records; nothing without tables in the conf", "exp", (),
              always=True),
        Stage(9, "report", "egs.librispeech.todm.report", (), (6,),
              "{exp}/results.json, the records of tables.records", "{exp}/report.md, {exp}/wer-against-parameters.png, tables of tables.records",
              "exp", ("report.md", "wer-against-parameters.png"), always=True),
        Stage(10, "export", "egs.librispeech.todm.export", ("export", "decode.weights", "decode.range", "decode.beam"), (6,),
              "{exp}/checkpoints, {exp}/subnets.json, {exp}/results.json, the audio of dev and test",
              "{exp}/export: a folder per subnet, report.md, wer-against-rtf.png", "exp", ("export/report.md", "export/wer-against-rtf.png"),
              passive_keys=("export.benchmark_seconds", "export.benchmark_rounds")),
    )
}


def parse_arguments(description: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """``--conf X [--force] [key=value ...]``, as every stage script takes them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="conf/mini.yaml", help="a YAML file; names are looked up in the recipe's conf folder")
    parser.add_argument("--force", action="store_true", help="redo the stage although it is finished")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="conf values to change")
    return parser.parse_args(arguments)


def runner(config: Config, conf_argument: str) -> StageRunner:
    """The stage runner of this recipe."""
    return StageRunner(STAGES, config, {"data": config.data_dir, "exp": config.exp_dir}, conf_argument)


def setup_logging(log_file: Path | None = None) -> None:
    """Log to the terminal, and to a file when one is given."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers, force=True)


def stage_main(number: int, action: Callable[[Config, argparse.Namespace], None], description: str) -> None:
    """Entry point of a stage script: parse, check the inputs, run, stamp. Users' mistakes end with a message."""
    arguments = parse_arguments(description)
    setup_logging()
    try:
        config = load(arguments.conf, arguments.overrides)
        conf = " ".join([arguments.conf, *arguments.overrides])
        stage_runner = runner(config, conf)
        if int(os.environ.get("RANK", "0")) == 0:
            stage_runner.run(number, lambda: action(config, arguments), arguments.force)
        elif stage_runner.stale_reasons(STAGES[number]) or arguments.force:
            action(config, arguments)  # the first rank alone writes stamps
    except (ConfigError, StageError) as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def describe() -> str:
    """The table that ``./run.sh --help`` prints."""
    lines = ["Stages (NAME is the conf's name):"]
    folders = {"data": "data/NAME", "exp": "exp/NAME"}
    for number, stage in STAGES.items():
        lines += [f"  {number:2d}  {stage.title}", f"        reads  {stage.reads.format(**folders)}",
                  f"        writes {stage.writes.format(**folders)}"]
    lines.append("\nConfs (egs/librispeech/todm/conf):")
    for path in sorted(CONFS.rglob("*.yaml"), key=lambda p: (len(p.parts), p)):
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"  conf/{str(path.relative_to(CONFS)):31s} {first}")
    return "\n".join(lines)


def default_processes(config: Config) -> int:
    """Processes of stage 4 when the user says nothing: ``train.cpu_processes`` without a GPU, 1 with one."""
    import torch

    return 1 if torch.cuda.is_available() else config.train.cpu_processes


def main() -> None:
    """What run.sh asks for: ``help``, ``processes --conf X [key=value ...]`` or ``check --conf ...`` of stage 4's inputs."""
    if sys.argv[1] == "help":
        print(describe())
        return
    try:
        parsed = parse_arguments("", sys.argv[2:])
        config = load(parsed.conf, parsed.overrides)
        if sys.argv[1] == "check":
            runner(config, " ".join([parsed.conf, *parsed.overrides])).require_inputs(STAGES[4])
        else:
            print(default_processes(config))
    except (ConfigError, StageError) as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
