"""The stages of the recipe: what each depends on, reads and writes.

This is the one table of dependencies. Whoever has to decide whether something is stale asks it: the
runner of the stages, a training that goes on from a checkpoint, the records of the tables, the
findings of the export.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from todm.config.keys import LEARNED, Config
from utils import conf as configuration
from utils.locks import FolderLock
from utils.stage_runner import StageRunner
from utils.stage_table import Stage, StageTable

# keys that change a WER and not the net: what is recognised, and what counts as an error
HOW_SCORED = ("decode.blank_penalty", "decode.ignore_case", "decode.ignore_punctuation")


def synthetic_values(config: Config) -> dict[str, Any]:
    """The settings of the embedded corpus, which stage 0 depends on where it is used."""
    return configuration.select(config, ("synthetic",)) if config.is_synthetic else {}


def train_paths(config: Config) -> dict[str, Any]:
    """The paths of the splits of train that have one of their own: other audio may have the same
    names and transcripts."""
    paths = {entry.partition("=")[0]: entry for entry in config.data.paths}
    return {"data.paths of train": [paths[name] for name in config.data.train if name in paths]}


def learned_values(config: Config) -> dict[str, Any]:
    """The values that stage 4 depends on beside its keys: learned selection trains with the
    supernet, other selection comes after it."""
    if config.select.method not in LEARNED:
        return {"select.learned": None}
    return {
        "select.learned": config.select.method,
        **configuration.select(config, ("learn", "search.budgets", "search.cost")),
    }


def selection_values(config: Config) -> dict[str, Any]:
    """The values that stage 5 depends on beside the method: a ladder on its length, a search on its
    settings and on how dev is decoded."""
    if config.select.method == "uniform":
        return configuration.select(config, ("select.num_subnets",))
    if config.select.method in LEARNED:
        return {}
    return configuration.select(
        config, ("search", "decode.weights", "decode.range", "decode.max_symbols", *HOW_SCORED)
    )


def hotword_values(config: Config) -> dict[str, Any]:
    """The contents of the file of hotwords, which stages 6 and 10 depend on where there is one."""
    path = config.decode.hotwords_file
    if not path:
        return {}
    try:
        lines = Path(path).read_bytes()
    except OSError:
        lines = b""  # the stage says that it can not be read
    return {"hotwords": hashlib.sha256(lines).hexdigest()[:16]}


def score_values(config: Config) -> dict[str, Any]:
    """The values that the search's kept scores (search/scores.jsonl) depend on, beside the weights
    and the utterances of dev, of which they have digests."""
    return {
        "dev": config.data.dev,
        "features": config.features.extractor,
        "seed": config.search.seed,
        "proxy_seconds": config.search.proxy_seconds,
        "max_symbols": config.decode.max_symbols,
        **configuration.select(config, HOW_SCORED),
    }


def result_values(config: Config) -> dict[str, Any]:
    """The values that the record of a table's run depends on, beside its nets and its data: those
    of the training and of decoding, but not of stage 5, because the nets are given."""
    values = STAGES.all_values([*STAGES.upstream(4), 4, 6], config)
    return values | configuration.select(config, ("model.architecture",))


def without_tables(config: Config) -> str | None:
    """The reason why stages 7 and 8 have nothing to do; None: they have."""
    if config.tables.records:
        return None
    return (
        "this conf has no tables (tables.records is not set); conf/tables/mini.yaml, for one, has"
    )


def has_tables(config: Config) -> bool:
    """Whether the conf has tables; their records are made elsewhere, so no stamp tells of them."""
    return bool(config.tables.records)


def needs_results(config: Config) -> bool:
    """Whether the report needs stage 6; without it, it has the tables of records alone."""
    return not config.tables.records or (config.exp_dir / "results.json").is_file()


CORPUS_KEYS = ("data.corpus", "data.root", "data.train", "data.dev", "data.test", "data.paths")
# the sets of which training reads nothing but dev's loss
OTHER_SETS = ("data.dev", "data.test", "data.paths")

STAGES = StageTable(
    (
        Stage(
            number=0,
            title="corpus",
            keys=CORPUS_KEYS,
            after=(),
            reads="nothing, or data.root",
            writes="{data}/corpus/LibriSpeech, unless data.root is set",
            folder="data",
            outputs=(),
            content_keys=OTHER_SETS,
            more=synthetic_values,
        ),
        Stage(
            number=1,
            title="manifests",
            keys=(
                *CORPUS_KEYS,
                *("data.min_seconds", "data.max_seconds", "data.verify_audio"),
                *("data.spoken_words", "data.spoken_language", "text"),
            ),
            after=(0,),
            reads="the corpus",
            writes="{data}/manifests, {data}/dropped.tsv; with data.spoken_words "
            "{data}/spoken-words",
            folder="data",
            outputs=("manifests", "dropped.tsv"),
            content_keys=(*OTHER_SETS, "data.verify_audio"),
            more=train_paths,
        ),
        Stage(
            number=2,
            title="features",
            keys=("features", "data.speed_perturb", "data.musan"),
            after=(1,),
            reads="{data}/manifests",
            writes="{data}/features (audio to features, and their mean and deviation), "
            "{data}/dropped-features.tsv",
            folder="data",
            outputs=("features",),
            beside=("dropped-features.tsv",),
        ),
        Stage(
            number=3,
            title="BPE",
            keys=("bpe",),
            after=(2,),
            reads="{data}/features",
            writes="{data}/lang (bpe.model, tokens.txt), {data}/cuts (final, with tokens checked)",
            folder="data",
            outputs=("lang/bpe.model", "lang/tokens.txt", "cuts"),
            beside=("lang", "dropped-tokens.tsv"),
        ),
        Stage(
            number=4,
            title="train the supernet",
            keys=(
                *("model", "supernet", "method", "loss", "distill", "train", "augment"),
                "spec_augment",
                *("data.max_duration", "data.num_buckets", "data.musan", "data.musan_prob"),
                *("data.join_prob", "data.join_pause", "data.spoken_words_first"),
            ),
            after=(3,),
            reads="{data}/cuts, {data}/lang",
            writes="{exp}/checkpoints, {exp}/tensorboard, {exp}/train.log",
            folder="exp",
            outputs=("checkpoints",),
            beside=("conf.yaml",),
            judged=("checkpoints",),
            passive_keys=(
                *("train.log_every", "train.cpu_processes", "train.keep_last"),
                *("train.scan_batches", "loss.backend"),
            ),
            continue_keys=(
                *("train.updates", "train.save_every", "train.valid_every"),
                *("train.valid_batches", "train.max_bad_batches", "train.precision"),
                *("data.max_duration", "data.num_buckets"),
            ),
            more=learned_values,
        ),
        Stage(
            number=5,
            title="select subnets",
            keys=("select.method",),
            after=(4,),
            reads="{exp}/checkpoints, {data}/cuts (dev)",
            writes="{exp}/subnets.json, {exp}/search (search.json, front.png)",
            folder="exp",
            outputs=("subnets.json",),
            beside=("search",),
            more=selection_values,
        ),
        Stage(
            number=6,
            title="decode and score",
            keys=("decode",),
            after=(5,),
            reads="{exp}/checkpoints, {exp}/subnets.json",
            writes="{exp}/decode (recogs-*, errs-*, errors-*, calibration-*, wer-summary-*, "
            "oracle-wer-*), {exp}/results.json",
            folder="exp",
            outputs=("decode", "results.json"),
            passive_keys=("decode.max_duration",),
            more=hotword_values,
        ),
        Stage(
            number=7,
            title="individually trained models",
            keys=(),
            after=(3,),
            reads="the subnets of stage 5, {data}",
            writes="{exp}/runs, the records of tables.records; nothing without tables in the conf",
            folder="exp",
            outputs=(),
            rewrites=("decode", "results.json"),  # the supernet is a run of its own tables
            always=lambda config: True,
            idle=without_tables,
        ),
        Stage(
            number=8,
            title="ablations and learned selections",
            keys=(),
            after=(3,),
            reads="the subnets of stage 5, {data}",
            writes="{exp}/runs, the records of tables.records; nothing without tables in the conf",
            folder="exp",
            outputs=(),
            always=lambda config: True,
            idle=without_tables,
        ),
        Stage(
            number=9,
            title="report",
            keys=(),
            after=(6,),
            reads="{exp}/results.json, the records of tables.records",
            writes="{exp}/report.html, {exp}/report.md, {exp}/wer-against-parameters.png, "
            "{exp}/loss-against-updates.png, tables of tables.records",
            folder="exp",
            outputs=("report.html", "report.md", "wer-against-parameters.png"),
            always=has_tables,
            needs_inputs=needs_results,
        ),
        Stage(
            number=10,
            title="export",
            keys=(
                *("export", "decode.weights", "decode.range", "decode.beam"),
                *("decode.hotwords_file", "decode.hotwords_score"),
                *HOW_SCORED,
            ),
            more=hotword_values,
            after=(6,),
            reads="{exp}/checkpoints, {exp}/subnets.json, {exp}/results.json, the audio of dev and "
            "test",
            writes="{exp}/export: a folder per subnet, report.md, wer-against-rtf.png; "
            "{exp}/report.html",
            folder="exp",
            outputs=("export/report.md", "export/wer-against-rtf.png"),
            beside=("export",),
            rewrites=("report.html",),
            passive_keys=("export.benchmark_seconds", "export.benchmark_rounds"),
            content_keys=("export.subnets", "export.budget"),
        ),
    )
)


def runner(config: Config, arguments: Sequence[str]) -> StageRunner:
    """The stage runner of this recipe.

    Args:
      arguments: ``--conf`` and the overrides as the user gave them, for messages.
    """
    return StageRunner(STAGES, config, {"data": config.data_dir, "exp": config.exp_dir}, arguments)


def folder_locks(config: Config, command: str) -> list[FolderLock]:
    """The locks of the data folder and of the experiment, not held yet.

    Args:
      command: the holder as others are told of it.
    """
    return [FolderLock(folder, command) for folder in (config.data_dir, config.exp_dir)]


def lock_for_stage(number: int, locks: list[FolderLock]) -> None:
    """Takes the locks that a stage needs: its own folder to write and, where that is the
    experiment, the data to read.

    Args:
      locks: as :func:`folder_locks` returns them.

    Raises:
      FolderBusy: another process has one of them.
    """
    data, exp = locks
    data.acquire(exclusive=STAGES[number].folder == "data")
    if STAGES[number].folder == "exp":
        exp.acquire(exclusive=True)
