"""Kills: stages and trainings are ended by signals at random moments, and the same command goes on
to the results of a run that was never ended."""

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.experiments import arguments, difference, half_files
from tests.torture.processes import MarkedRun
from tests.torture.trials import TRACE, Setting, Trial, last_line
from utils.checkpoint import list_checkpoints

SAVE_EVERY, UPDATES = 20, 80
TRAINING = (f"train.save_every={SAVE_EVERY}", f"train.updates={UPDATES}", "train.valid_every=40")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("run.sh", "stage process", "group")


@dataclass(frozen=True)
class Whole:
    """A run that was never ended, and what is needed to run it again elsewhere.

    Attributes:
      words: what kind of run it is.
      folder: its experiment.
      stages: options of run.sh.
      data: the data folder, where it is another experiment's.
      tolerance: of numbers in the comparison.
      seconds: it took, and those before the moments of the kills begin.
    """

    words: str
    folder: Path
    stages: tuple[str, ...]
    overrides: tuple[str, ...]
    data: Path | None = None
    tolerance: float = 0.0
    seconds: list[float] = field(default_factory=list)

    def command(self, folder: Path) -> list[str]:
        """The arguments of run.sh for the same run below another folder."""
        return [*self.stages, *arguments(folder, *self.overrides, data=self.data)]

    def run(self) -> None:
        """Runs it, unbroken."""
        begin = time.monotonic()
        self.folder.mkdir(parents=True)
        whole = MarkedRun(self.command(self.folder), self.folder / "log.txt")
        if whole.wait(1200):
            raise RuntimeError(f"the unbroken run failed: {last_line(whole.output)}")
        self.seconds.append(time.monotonic() - begin)


def trials(setting: Setting) -> Iterator[Trial]:
    """Kills of every signal and target; the short form: two trainings of one process."""
    rng = random.Random(setting.seed)
    one, two = ("train.cpu_processes=1",), ("train.cpu_processes=2",)
    kinds = [(number, target) for number in SIGNALS for target in TARGETS]
    if setting.short:
        data = setting.experiment / "data" if setting.experiment else None
        stages = ("--stage", "4" if data else "0", "--stop-stage", "4")
        whole = Whole("training", setting.folder / "whole", stages, (*TRAINING, *one), data)
        whole.run()
        yield trial(whole, setting.folder / "0", signal.SIGKILL, "group", 0.7)
        return
    whole = Whole("stages 0 to 10", setting.folder / "one", ("--stop-stage", "10"), TRAINING + one)
    whole.run()
    for i, (number, target) in enumerate(rng.sample(kinds, 9) + rng.sample(kinds, 5)):
        yield trial(whole, setting.folder / f"one-{i}", number, target, rng.random())
    whole = Whole(
        "stages 4 to 6, two processes",
        setting.folder / "two",
        ("--stage", "4", "--stop-stage", "6"),
        TRAINING + two,
        setting.folder / "one/data",
        1e-5,
    )
    whole.run()
    for i, (number, target) in enumerate(rng.sample(kinds, 6)):
        yield trial(whole, setting.folder / f"two-{i}", number, target, rng.random() * 0.7)


def trial(whole: Whole, folder: Path, number: signal.Signals, target: str, share: float) -> Trial:
    """One kill at a share of the unbroken run's duration, and the same command again.

    A run that is over by then is made anew and killed earlier.
    """
    moment = share * whole.seconds[0]
    what = f"{whole.words}: {number.name} to {target} after {moment:.0f} s"
    problem, stage = None, ""
    try:
        while (first := killed(whole, folder, number, target, moment)) is None:
            shutil.rmtree(folder)
            moment *= 0.7
        problem, stage = first
        problem = problem or continued(whole, folder)
    except subprocess.TimeoutExpired:
        problem = "it hung"
    if not problem:
        shutil.rmtree(folder)
    return Trial(f"{what} ({stage})", not problem, problem or "equal to the unbroken run")


def killed(
    whole: Whole, folder: Path, number: signal.Signals, target: str, moment: float
) -> tuple[str | None, str] | None:
    """Starts a run and kills it; returns what is wrong and in which stage it was, or None where it
    was over before."""
    folder.mkdir(parents=True)
    run = MarkedRun(whole.command(folder), folder / "first.txt")
    try:
        run.process.wait(moment)
        return None if run.process.returncode == 0 else (last_line(run.output), "")
    except subprocess.TimeoutExpired:
        pass
    found = re.findall(r"^[\d:]+ (stage \d+) ", run.output, re.MULTILINE)
    stage = found[-1] if found else "before the first stage"
    run.send(number, target, random.Random(moment))
    status = run.wait(180)
    problem = run.left()
    if "Traceback" in run.output:
        problem = problem or f"the killed run ended with a traceback: {last_line(run.output)}"
    if status == 0 and not problem:
        shutil.rmtree(folder)  # it had all but ended
        return killed(whole, folder, number, target, moment * 0.7)
    return problem, stage


def continued(whole: Whole, folder: Path) -> str | None:
    """Runs the same command again; says what is wrong with what it ends with."""
    saved = [update for update, _ in list_checkpoints(folder / "exp/checkpoints")]
    run = MarkedRun(whole.command(folder), folder / "again.txt")
    status = run.wait(1200)
    if status or TRACE in run.output:
        return f"the same command again ended with {status}: {last_line(run.output)}"
    if going := re.search(r"going on from update (\d+)", run.output):
        if int(going[1]) != saved[-1]:
            return f"went on from update {going[1]}, not from the newest checkpoint, {saved[-1]}"
    elif saved and saved[-1] < UPDATES:
        return f"checkpoint {saved[-1]} was not used"
    regular = [update for update in saved if update % SAVE_EVERY == 0]
    if len(saved) - len(regular) > 1:
        return f"odd checkpoints: {saved}"
    if problem := run.left():
        return problem
    if half := half_files(folder):
        return half[0]
    return difference(whole.folder, folder, whole.tolerance)
