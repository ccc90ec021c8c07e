"""Fixtures: a corpus of a few noisy files in LibriSpeech layout, and one small experiment run
through run.sh."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # in the background of a shell; tests send it to their children, who would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(
    1
)  # the tests' nets are tiny: threads would mostly wait for each other, the more so beside other programs
ROOT = Path(__file__).resolve().parent.parent
PYTHONPATH = f"{ROOT}:{ROOT}/egs/librispeech"  # as path.sh sets it

# The recipe, as small as it can be: about a minute of synthetic speech, a model of a few thousand
# weights.
TINY = [
    "synthetic.hours=0.02",
    "synthetic.train_voices=3",
    "synthetic.dev_voices=1",
    "synthetic.test_voices=1",
    "synthetic.dev_utterances=4",
    "synthetic.test_utterances=4",
    "bpe.vocab_size=60",
    "data.max_duration=12",
    "data.num_buckets=2",
    "data.num_jobs=2",
    "model.dim=24",
    "model.blocks=3",
    "model.ffn_dim=48",
    "model.ssm_dim=16",
    "model.heads=4",
    "model.modes=2",
    "model.frontend_channels=4",
    "model.predictor_dim=16",
    "model.joiner_dim=16",
    "supernet.ffn_chunks=4",
    "supernet.min_ffn_chunks=1",
    "supernet.min_blocks=2",
    "train.updates=12",
    "train.save_every=4",
    "train.valid_every=12",
    "train.log_every=4",
    "train.average_every=1",
    "select.num_subnets=3",
    "decode.methods=[greedy,beam]",
    "distill.start=2",
    "distill.ramp=2",
    "loss.ctc_weight=0.3",
    "loss.ctc_first=2",
    "loss.warmup=4",
    "method.subnets_from=1",
    "data.join_prob=0",
]


def run_sh(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """./run.sh as a user would call it; output and errors together."""
    result = subprocess.run(
        [ROOT / "run.sh", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TODM_VENV": str(Path(sys.prefix))},
        timeout=600,
    )
    assert not check or result.returncode == 0, result.stdout
    return result


def tiny_arguments(folder: Path) -> list[str]:
    """Overrides that make a tiny experiment below ``folder``."""
    return [*TINY, "name=tiny", f"data.dir={folder / 'data'}", f"exp={folder / 'exp'}"]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> tuple[Path, str]:
    """A folder with a whole tiny experiment, and what run.sh printed. Tests must not change it."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, run_sh(*tiny_arguments(folder)).stdout


def write_utterance(
    root: Path, name: str, text: str | None, seconds: float = 1.0, rate: int = 16000
) -> Path:
    """Add ``SPEAKER-CHAPTER-NUMBER`` with noise as audio to a corpus; ``text=None``: without a
    transcript."""
    speaker, chapter, _ = name.split("-")
    folder = root / speaker / chapter
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(len(name)).normal(0, 0.1, round(seconds * rate))
    soundfile.write(folder / f"{name}.flac", samples, rate, subtype="PCM_16")
    if text is not None:
        with open(folder / f"{speaker}-{chapter}.trans.txt", "a") as transcripts:
            transcripts.write(f"{name} {text}\n")
    return folder / f"{name}.flac"
