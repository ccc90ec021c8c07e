"""Fixtures: a corpus of a few noisy files in LibriSpeech layout, and one small experiment run
through run.sh."""

import fcntl
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers import debug_overrides

# In the background of a shell; tests send it to their children, who would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The tests' nets are tiny: threads would mostly wait for each other.
torch.set_num_threads(1)
EXPERIMENTS = {"tiny_run", "changing"}  # fixtures that run stages
ROOT = Path(__file__).resolve().parent.parent
PYTHONPATH = f"{ROOT}:{ROOT}/egs/librispeech"  # as path.sh sets it

TINY = debug_overrides()  # what turns conf/mini.yaml, or another conf, into conf/debug.yaml


def run_sh(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """./run.sh as a user would call it; output and errors together."""
    result = subprocess.run(
        [ROOT / "run.sh", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TODM_VENV": str(Path(sys.prefix))},
        timeout=1800,  # seconds; of one that hangs
    )
    assert not check or result.returncode == 0, result.stdout
    return result


def tiny_arguments(folder: Path) -> list[str]:
    """Overrides that make a tiny experiment below ``folder``."""
    return [*TINY, "name=tiny", f"data.dir={folder / 'data'}", f"exp={folder / 'exp'}"]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> tuple[Path, str]:
    """A folder with a whole tiny experiment, and what run.sh printed. Tests must not change it.

    Under pytest-xdist the first worker that asks makes it, and the others wait for it.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return make_tiny_run(tmp_path_factory.mktemp("tiny"))
    shared = tmp_path_factory.getbasetemp().parent  # of all workers of this call of pytest
    with open(shared / "tiny.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_tiny_run(shared / "tiny")


def make_tiny_run(folder: Path) -> tuple[Path, str]:
    """Runs the tiny recipe in a folder, unless it has been: what is printed is kept beside it."""
    printed = folder / "printed.txt"
    if not printed.exists():
        output = run_sh(*tiny_arguments(folder)).stdout
        printed.write_text(output)
    return folder, printed.read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow every test that needs an experiment which run.sh has made, and lets files with
    slow tests go first: begun last, one of them would run alone while the other cores rest.
    (.ci/run tells pytest-xdist to keep this order.)

    One quick file stands after the first slow one: it is for the worker that would otherwise wait
    while the first makes the experiment.
    """
    for item in items:
        if EXPERIMENTS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    counts = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    files = sorted(counts, key=lambda path: (-slow[path], -counts[path]))
    if slow:
        quick = next((path for path in files if not slow[path]), files[-1])
        files.remove(quick)
        files.insert(1, quick)
    places = {path: place for place, path in enumerate(files)}
    items.sort(key=lambda item: places[item.path])


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
