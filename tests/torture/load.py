"""Much at once: thousands of files, thousands of entries in a folder, an audio of hours, trainings
that begin together. Every trial says how long it took and how much memory the largest process had.
"""

import gzip
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from tests.torture.memory import measured
from tests.torture.trials import ROOT, TRACE, Setting, Trial, last_line, recipe_environment, run_sh
from utils.audio import SAMPLE_RATE
from utils.checkpoint import list_checkpoints

TOGETHER = 4  # trainings
UPDATES = 12  # the lock is held while the trainer is still loaded: the others come in time
MORE_MEMORY = 256  # MiB that a large task may have beside a small one
TIMEOUT = 3600.0  # seconds after which a program is taken to hang


@dataclass(frozen=True)
class Size:
    """How much there is of everything.

    Attributes:
      files: for transcribe.sh. entries: of a corpus in one folder. seconds: of the long audio.
      pause: seconds between its utterances.
    """

    files: int
    entries: int
    seconds: int
    pause: int


FULL = Size(files=2000, entries=20_000, seconds=6 * 3600, pause=600)
SHORT = Size(files=20, entries=200, seconds=120, pause=30)


@dataclass(frozen=True)
class Done:
    """A program that has ended.

    Attributes:
      peak: MiB of its largest process.
    """

    status: int
    output: str
    seconds: float
    peak: float

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s, {self.peak:.0f} MiB"


class Program:
    """A program of the recipe that runs, with its output in a file."""

    def __init__(self, command: list[str], log: Path):
        self.log, self.begin = log, time.monotonic()
        self.report = log.with_suffix(".peak")
        with open(log, "w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                measured([str(ROOT / command[0]), *command[1:]], self.report),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=recipe_environment(),
                start_new_session=True,
            )

    def wait(self) -> Done:
        """Waits for its end; one that hangs is killed."""
        hangs = threading.Timer(TIMEOUT, os.killpg, (self.process.pid, signal.SIGKILL))
        hangs.start()
        try:
            status = self.process.wait()
        finally:
            hangs.cancel()
        return Done(
            status,
            self.log.read_text(encoding="utf-8", errors="replace"),
            time.monotonic() - self.begin,
            int(self.report.read_text()) / 2**20 if self.report.exists() else 0.0,
        )


def trials(setting: Setting) -> Iterator[Trial]:
    """All trials, the shorter ones first."""
    size, folder = SHORT if setting.short else FULL, setting.folder
    experiment = setting.experiment or folder / "tiny"
    if not setting.experiment:
        made = run_sh("--stop-stage", "4", *arguments(experiment / "data", experiment / "exp"))
        if made.returncode:
            raise RuntimeError(made.stdout)
    speech = sorted((experiment / "data/corpus").rglob("*.flac"))
    if not speech:
        raise RuntimeError(f"no audio below {experiment / 'data/corpus'}")
    exp = experiment / "exp"
    small = Program(["transcribe.sh", str(exp), str(speech[0])], folder / "small.log").wait()
    if small.status:
        raise RuntimeError(small.output)
    yield in_one_experiment(folder, experiment / "data")
    yield in_several_experiments(folder, experiment / "data")
    yield many_files(folder, exp, speech, size.files, small.peak)
    yield many_entries(folder, experiment, speech[0], size.entries)
    yield long_audio(folder, exp, speech, size, small.peak)


def arguments(data: Path, exp: Path, *overrides: str) -> list[str]:
    """The conf and the folders of an experiment, for run.sh."""
    return ["--conf", "conf/debug.yaml", "name=load", f"data.dir={data}", f"exp={exp}", *overrides]


def start_trainings(data: Path, exps: list[Path]) -> list[Done]:
    """Starts a training in each of some folders, all at once, and waits for all of them."""
    programs = []
    for i, exp in enumerate(exps):
        overrides = arguments(data, exp, f"train.updates={UPDATES}")
        command = ["run.sh", "--stage", "4", "--stop-stage", "4", *overrides]
        programs.append(Program(command, exps[0].with_name(f"{exps[0].name}-{i}.log")))
    return [program.wait() for program in programs]


def described(done: list[Done]) -> str:
    """The longest time, and the largest process, of programs that ran together."""
    return f"{max(d.seconds for d in done):.0f} s, {max(d.peak for d in done):.0f} MiB at most"


def in_one_experiment(folder: Path, data: Path) -> Trial:
    """The trial of trainings in one folder: one goes on, the others say why they do not."""
    exp = folder / "one"
    done = start_trainings(data, [exp] * TOGETHER)
    trained = [d for d in done if d.status == 0]
    refused = [d for d in done if d.status == 2 and f"{exp} is in use by" in d.output]
    fault = ""
    if len(trained) != 1 or len(refused) != TOGETHER - 1:
        ends = "; ".join(f"status {d.status}: {last_line(d.output, 100)}" for d in done)
        fault = f"{len(trained)} trained, {len(refused)} were refused: {ends}"
    elif any(TRACE in d.output for d in done):
        fault = "a traceback"
    elif list_checkpoints(exp / "checkpoints")[-1][0] != UPDATES:
        fault = "the last checkpoint is missing"
    found = f"one trained, {len(refused)} said who trains; {described(done)}"
    return Trial(f"{TOGETHER} trainings at once in one experiment", not fault, fault or found)


def in_several_experiments(folder: Path, data: Path) -> Trial:
    """The trial of equal trainings on the same data in different folders: all go on, to the same
    weights."""
    exps = [folder / f"several-{i}" for i in range(TOGETHER)]
    done = start_trainings(data, exps)
    bad = [d for d in done if d.status or TRACE in d.output]
    fault = f"{len(bad)} ended: {last_line(bad[0].output)}" if bad else ""
    if not fault:
        first, *others = [
            torch.load(list_checkpoints(exp / "checkpoints")[-1][1], weights_only=True)["model"]
            for exp in exps
        ]
        same = all(torch.equal(first[name], other[name]) for other in others for name in first)
        fault = "" if same else "their weights differ"
    found = f"all trained, to the same weights; {described(done)}"
    return Trial(f"{TOGETHER} trainings at once on the same data", not fault, fault or found)


def many_files(folder: Path, exp: Path, speech: list[Path], count: int, small: float) -> Trial:
    """The trial of transcribe.sh over many short files: a line for each, in order."""
    source, names = folder / "files", []
    source.mkdir()
    for i, path in zip(range(count), itertools.cycle(speech)):
        samples, rate = soundfile.read(path, dtype="float32")
        begin = i % max(len(samples) - rate // 2, 1)
        soundfile.write(source / f"{i:05d}.flac", samples[begin : begin + rate // 2], rate)
        names.append(str(source / f"{i:05d}.flac"))
    done = Program(["transcribe.sh", str(exp), str(source)], folder / "files.log").wait()
    lines = [line.partition("\t")[0] for line in done.output.splitlines() if "\t" in line]
    fault = ""
    if done.status or TRACE in done.output:
        fault = f"status {done.status}: {last_line(done.output)}"
    elif lines != names:
        fault = f"{len(lines)} lines for {count} files"
    elif done.peak > small + MORE_MEMORY:
        fault = f"{done}, {small:.0f} MiB for one file"
    found = f"{done}, {small:.0f} MiB for one file"
    return Trial(f"transcribe.sh over {count} files", not fault, fault or found)


def many_entries(folder: Path, experiment: Path, audio: Path, count: int) -> Trial:
    """The trial of a corpus with all its audio in one folder: stage 1 keeps every utterance."""
    corpus = folder / "corpus"
    chapter = corpus / "train/1/1"
    chapter.mkdir(parents=True)
    shutil.copyfile(audio, chapter / "1-1-00000.flac")
    for i in range(1, count):
        os.link(chapter / "1-1-00000.flac", chapter / f"1-1-{i:05d}.flac")
    lines = "".join(f"1-1-{i:05d} A LINE OF A TRANSCRIPT\n" for i in range(count))
    (chapter / "1-1.trans.txt").write_text(lines)
    for split in ("dev", "test"):
        (corpus / split).symlink_to(next((experiment / "data/corpus").rglob(split)))
    command = ["run.sh", "--stop-stage", "1"]
    command += arguments(folder / "entries/data", folder / "entries/exp", f"data.root={corpus}")
    done = Program(command, folder / "entries.log").wait()
    fault = ""
    if done.status or TRACE in done.output:
        fault = f"status {done.status}: {last_line(done.output)}"
    else:
        with gzip.open(folder / "entries/data/manifests/train.jsonl.gz", "rt") as manifest:
            kept = sum(1 for _ in manifest)
        fault = "" if kept == count else f"{kept} of {count} utterances were kept"
    return Trial(f"stage 1 with {count} entries in one folder", not fault, fault or str(done))


def long_audio(folder: Path, exp: Path, speech: list[Path], size: Size, small: float) -> Trial:
    """The trial of a recording of hours, of quiet noise with speech here and there."""
    path, random = folder / "long.flac", np.random.default_rng(1)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as recording:
        sources = itertools.cycle(speech)
        for second in range(size.seconds):
            samples = random.normal(0, 2e-4, SAMPLE_RATE)
            if second % size.pause == 1:
                utterance, _ = soundfile.read(next(sources), frames=SAMPLE_RATE)
                samples[: len(utterance)] += utterance
            recording.write(samples)
    command = ["transcribe.sh", str(exp), "--json", str(path)]
    done = Program(command, folder / "long.log").wait()
    fault = ""
    if done.status or TRACE in done.output:
        fault = f"status {done.status}: {last_line(done.output)}"
    else:
        row = json.loads(last_line(done.output, len(done.output)))
        if abs(row["seconds"] - size.seconds) > 0.01:
            fault = f"{row['seconds']} s were heard"
        elif done.peak > small + MORE_MEMORY:
            fault = f"{done}, {small:.0f} MiB for a short one"
    found = f"{done}, {small:.0f} MiB for a short one"
    what = f"transcribe.sh of an audio of {size.seconds / 3600:.2f} h"
    return Trial(what, not fault, fault or found)
