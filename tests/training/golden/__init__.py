"""The golden loss curve: 20 updates of conf/debug.yaml's training on made-up features.

A change of training must reproduce curve.json, or replace it and say in its commit why the losses
are others:

    python -m tests.training.golden
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, MonoCut

from local.train_bpe import sentencepiece_model
from tests.helpers import DEBUG
from todm.config.keys import Config
from todm.config.load import load
from todm.data.batches import Batch
from todm.data.loaders import statistics_path
from todm.training.trainer import Trainer
from utils.files import write_json_atomic

UPDATES = 20
CURVE = Path(__file__).parent / "curve.json"
# Features of a word are a pattern of its own, so that there is something to learn.
WORDS = "AND ARE BIRD COLD DARK EVER FISH GREEN HOUSE IRON LAMP MOON NIGHT OPEN RIVER STONE".split()
FRAMES_OF_A_WORD = 30


def sentences(count: int) -> list[str]:
    """Some sentences of two to four words; always the same."""
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=rng.randint(2, 4))) for _ in range(count)]


def batches() -> Iterator[Batch]:
    """Batches of four utterances, round and round; always the same."""
    rng = np.random.default_rng(1)
    patterns = {word: rng.normal(-8, 3, (1, 80)) for word in WORDS}
    made = []
    texts = sentences(24)
    for first in range(0, len(texts), 4):
        group = sorted(texts[first : first + 4], key=lambda text: -len(text.split()))
        rows = [
            np.concatenate([patterns[word].repeat(FRAMES_OF_A_WORD, 0) for word in text.split()])
            for text in group
        ]
        noisy = [torch.from_numpy(row + rng.normal(0, 1, row.shape)).float() for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(noisy, batch_first=True, padding_value=-23.0)
        lengths = torch.tensor([len(row) for row in rows])
        made.append(Batch(padded, lengths, group, [f"{first}-{i}" for i in range(4)]))
    while True:
        yield from made


def write_data(config: Config) -> None:
    """What stage 3 leaves for the training: the BPE model, statistics, and cuts (without
    features: the batches are given)."""
    config.lang_dir.mkdir(parents=True)
    model = sentencepiece_model(sentences(24), config.bpe, hard_vocab_limit=True)
    (config.lang_dir / "bpe.model").write_bytes(model)
    cuts = [MonoCut(id=str(i), start=0, duration=1.0 + i / 10, channel=0) for i in range(4)]
    statistics_path(config).parent.mkdir(parents=True, exist_ok=True)
    for split in config.data.train:
        CutSet.from_cuts(cuts).to_file(statistics_path(config).parent / f"{split}.jsonl.gz")
    write_json_atomic(statistics_path(config), {"mean": [-8.0] * 80, "std": [3.0] * 80})


def loss_curve(folder: Path, *overrides: str) -> list[list[float]]:
    """Trains in an empty folder.

    Returns:
      The loss per encoder frame of every net of every update: of the largest net, and, once they
      have joined, of the random and of the smallest subnet. It is the CTC loss while CTC trains
      alone, and then the transducer loss.
    """
    conf = load(
        DEBUG,
        [
            f"data.dir={folder / 'data'}",
            f"exp={folder / 'exp'}",
            f"train.updates={UPDATES}",
            "bpe.vocab_size=36",  # so few words do not have 60 pieces
            "loss.backend=torch",  # it is on every machine
            *overrides,
        ],
    )
    write_data(conf)
    trainer = Trainer(conf, torch.device("cpu"))
    trainer.model.train()
    curve, given = [], batches()
    for _ in range(UPDATES):
        losses, _, frames = trainer.train_update(given)
        curve.append([round(loss / frames, 6) for loss in losses])
    return curve


def read_curve() -> list[list[float]]:
    """The losses that a training must reproduce."""
    return json.loads(CURVE.read_text(encoding="utf-8"))["loss_per_frame"]
