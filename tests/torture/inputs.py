"""What is done with a hostile input in the worker: the recipe's own functions, as its programs call
them, and how their end is judged."""

import functools
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lhotse.recipes.librispeech
import torch
from lhotse import CutSet

import local.prepare_manifests
from local.compute_features import compute_shard
from local.make_corpus import download
from local.prepare_manifests import prepare_split
from tests.helpers import tiny_config
from tests.recognizers import EverythingIsSpeech, talkative, tokenizer
from todm.config.keys import Config
from todm.config.load import explicit_keys, load, load_file
from todm.decoding import transcribe_sources
from todm.decoding.recognizer import Recognizer
from todm.decoding.transcribe import parse_arguments
from todm.results.subnets import read_subnets
from todm.supernet.cost import describe_subnet
from utils.checkpoint import load_checkpoint
from utils.errors import UserError
from utils.files import WRITE_ERRORS
from utils.text import first_line

torch.set_num_threads(1)
OUR_FAULT = "this is a fault of"  # what a message says that must never be seen


def outcome(kind: str, **what: Any) -> tuple[bool, str]:
    """Whether an input was taken or refused with a message, as an entry point would print it; and
    the message, or the end of the traceback."""
    try:
        said = KINDS[kind](**what) or "taken"
    except UserError as error:
        said = f"refused: {error}"
    except OSError as error:  # as recipe/stage_main.py has it
        if error.filename is None and error.errno not in WRITE_ERRORS:
            return False, _trace(error)
        said = f"refused: {error}"
    except Exception as error:
        return False, _trace(error)
    return OUR_FAULT not in said and "\0" not in said, said[:300]


def _trace(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-3:]
    steps = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in place)
    return f"traceback: {first_line(error)[:200]} ({steps})"


class _InThisProcess:
    """What stands for the pool of processes, so that this process is the one that is watched."""

    def __init__(self, *_: object, **__: object):
        pass

    def __enter__(self) -> "_InThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable, items: list, chunksize: int = 1) -> map:
        """The results, one after the other."""
        return map(function, items)


def in_one_process() -> None:
    """Makes stage 1 examine files in this process from now on."""
    local.prepare_manifests.ProcessPoolExecutor = _InThisProcess  # type: ignore[misc, assignment]


def split(path: str, folder: str) -> str:
    """Stages 1 and 2 on a split: manifests, and features of what is kept."""
    work = Path(folder)
    config = load_file(
        None, [f"data.dir={work}", "name=x", "data.num_jobs=1", "data.max_seconds=40"]
    )
    try:
        try:
            cuts = prepare_split(config, Path(path), "train", {})
        except UserError as error:
            if not str(error).endswith("says why"):
                raise
            listing = (config.data_dir / "dropped.tsv").read_text(encoding="utf-8")
            return "dropped: " + listing.splitlines()[1].split("\t", 2)[2]
        CutSet.from_cuts(cuts).to_file(work / "cuts.jsonl.gz")
        back = list(CutSet.from_file(work / "cuts.jsonl.gz"))
        done, failed = compute_shard(config.features, back, work / "features")
        dropped = "".join(f"; dropped: {d.detail}" for d in failed)
        return f"{len(done)} of {len(back)} utterances have features{dropped}"
    finally:
        shutil.rmtree(work, ignore_errors=True)


@functools.cache
def recognizer() -> Recognizer:
    """A tiny random net that hears speech in everything."""
    config = tiny_config("model.direction=causal")
    model = talkative(config)
    entry = describe_subnet(config, tokenizer().vocab_size, model.full, "largest")
    found = Recognizer(config, model, tokenizer(), [entry], chunk_frames=16)
    found.detector = EverythingIsSpeech
    return found


def transcribe(path: str) -> str:
    """A file by transcribe.sh, whole and as a stream; its messages go to the log."""
    transcribe_sources.load = lambda _: recognizer()
    status = [
        transcribe_sources.run(parse_arguments(["x", path, *more]))
        for more in ([], ["--streaming", "--json"])
    ]
    return f"statuses {status}"


def conf(path: str, overrides: list[str]) -> str:
    """A conf with overrides, as run.sh reads it."""
    config = load(path, overrides)
    explicit_keys(path, overrides)
    return f"taken: {config.name}"[:100]


def model(path: str) -> str:
    """An experiment or exported folder, as transcribe.sh and demo.sh load it."""
    Recognizer.load(path)
    return "loaded"


def checkpoint(path: str) -> str:
    """A checkpoint alone, as a training goes on from it."""
    return f"keys {sorted(load_checkpoint(Path(path)))}"


def subnets(path: str) -> str:
    """A subnets.json, as stages 6, 9 and 10 read it."""
    return f"names {[entry.name for entry in read_subnets(Path(path), baselines=True)]}"


def archive(path: str, folder: str) -> str:
    """The unpacking of a download by stage 0, without the download: the file stands for it."""
    names = ["data.train=[train-clean-5]", "data.dev=[dev-clean-2]", "data.test=[]"]
    config: Config = load_file(None, ["data.corpus=mini-librispeech", f"data.dir={folder}", *names])
    part = "dev-clean-2"
    librispeech: Any = lhotse.recipes.librispeech
    librispeech.MINI_LIBRISPEECH = (part,)
    librispeech.resumable_download = lambda url, filename, **_: shutil.copy(path, filename)
    download(config)
    return f"unpacked {sorted(p.name for p in (config.corpus_root / part).rglob('*'))}"


KINDS: dict[str, Callable[..., str]] = {
    each.__name__: each  # type: ignore[attr-defined]
    for each in (split, transcribe, conf, model, checkpoint, subnets, archive)
}
