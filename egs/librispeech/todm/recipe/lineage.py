"""Digests of the data and weights that a result was made from: the same contents have the same
digest, wherever they lie."""

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch

from todm.config.keys import Config
from todm.recipe.stages import STAGES, runner


def split_digest(config: Config, splits: Iterable[str]) -> str:
    """A digest of the utterances of some splits as stage 3 left them: ids, lengths and transcripts.

    A split that is not there has a digest, too, which is another.
    """
    digest = hashlib.sha256()
    for split in splits:
        path = config.data_dir / "cuts" / f"{split}.jsonl.gz"
        if not path.is_file():
            digest.update(b"missing")
            continue
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                cut = json.loads(line)
                texts = [s.get("text") for s in cut.get("supervisions", ())]
                digest.update(json.dumps([cut["id"], cut.get("duration"), texts]).encode())
    return digest.hexdigest()[:16]


def training_data(config: Config) -> dict:
    """The digests of what stage 4 trains on, to keep in a checkpoint: the utterances of train, the
    BPE model, mean and deviation of the features, and marks of the times that the data stages were
    redone by ``--force``."""
    return {
        "train": split_digest(config, config.train_splits),
        "bpe": file_digest(config.lang_dir / "bpe.model"),
        "statistics": file_digest(config.data_dir / "cuts" / "statistics.json"),
        "forced": runner(config, []).forced(STAGES.upstream(4)),
    }


def data_values(config: Config) -> dict[str, str]:
    """The digest of all utterances and of the BPE model, which the record of a table's run has
    beside the conf.

    It is empty where the data are not there: records made elsewhere are then believed.
    """
    try:
        bpe = file_digest(config.lang_dir / "bpe.model")
    except OSError:
        return {}
    missing = [
        split
        for split in config.prepared_splits
        if not (config.data_dir / "cuts" / f"{split}.jsonl.gz").is_file()
    ]
    return (
        {} if missing else {"data.digest": f"{split_digest(config, config.prepared_splits)}-{bpe}"}
    )


WORDS = {
    "train": "the train utterances are others",
    "bpe": "the BPE model is another",
    "statistics": "the features are others",
    "forced": "the data were made anew with --force",
}


def data_changes(then: dict | None, now: dict) -> list[str]:
    """Says in words what has changed between two values of :func:`training_data`.

    Args:
      then: None for a checkpoint of an earlier version, which holds none; nothing is said then.
    """
    if not then:
        return []
    return [WORDS[key] for key, value in now.items() if key in then and then[key] != value]


def file_digest(path: Path) -> str:
    """A digest of a file's contents."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def weights_digest(model: torch.nn.Module) -> str:
    """A digest of all values of a model's state."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()
