"""Kills: stages and trainings are ended by signals at random moments, and the same command goes on
to the results of a run that was never ended.

The moments are uniform over the duration of that run. A trial begins with a copy of it up to the
stage in which its moment lies, so that what was finished by then need not be made again.
"""

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.torture.experiments import QUICK, arguments, copy_until, difference, half_files
from tests.torture.processes import MarkedRun
from tests.torture.trials import TRACE, Setting, Trial, at_once, last_line
from utils.checkpoint import list_checkpoints

SAVE_EVERY, UPDATES = 6, 24
TRAINING = (*QUICK, f"train.save_every={SAVE_EVERY}", f"train.updates={UPDATES}")
TRAINING += ("train.valid_every=12", "train.log_every=1")
TRAINING_STAGE = 4
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("run.sh", "stage process", "group")
JOBS = 6  # trials at once
TO_THE_END = 4  # every so many trials go on to stage 10, the others to the end of their stage


@dataclass(frozen=True)
class Whole:
    """A run that was never ended.

    Attributes:
      words: what kind of run it is.
      folder: its experiment.
      first, last: its stages.
      data: the data folder, where it is another experiment's.
      tolerance: of numbers in the comparison.
    """

    words: str
    folder: Path
    first: int
    last: int
    overrides: tuple[str, ...]
    data: Path | None = None
    tolerance: float = 0.0

    def command(self, folder: Path, last: int) -> list[str]:
        """The arguments of run.sh for the same run below another folder, to a stage."""
        stages = ["--stage", str(self.first), "--stop-stage", str(last)]
        return [*stages, *arguments(folder, *self.overrides, data=self.data)]

    def run(self) -> list[tuple[int, float]]:
        """Runs it, unbroken, unless it has been run; returns its stages with the seconds that each
        took, from the times in its log."""
        log = self.folder / "log.txt"
        if not log.exists() or f"stage {self.last} " not in log.read_text():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            whole = MarkedRun(self.command(self.folder, self.last), log)
            if whole.wait(1200):
                raise RuntimeError(f"the unbroken run failed: {last_line(whole.output)}")
        times = re.findall(
            r"^(\d+):(\d+):(\d+) (?:stage (\d+) \(.*\): done in)?", log.read_text(), re.MULTILINE
        )
        begin, spent = None, []
        for hours, minutes, seconds, stage in times:
            moment = 3600 * int(hours) + 60 * int(minutes) + int(seconds)
            begin = moment if begin is None else begin
            if stage:
                spent.append((int(stage), float((moment - begin) % 86400)))
                begin = moment
        return spent


@dataclass(frozen=True)
class Kill:
    """A signal at a moment.

    Attributes:
      stage: the stage in which it comes.
      after: seconds from the beginning of the stage.
      last: the stage to which the same command then goes.
    """

    number: signal.Signals
    target: str
    stage: int
    after: float
    last: int


def trials(setting: Setting) -> Iterator[Trial]:
    """Kills of every signal and target; the short form: a training of one process."""
    rng = random.Random(setting.seed)
    one, two = (f"train.cpu_processes={count}" for count in (1, 2))
    kinds = [(number, target) for number in SIGNALS for target in TARGETS]
    if setting.short:
        data = setting.experiment / "data" if setting.experiment else None
        first = 4 if data else 0
        whole = Whole("training", setting.folder / "whole", first, 4, (*TRAINING, one), data)
        stage, seconds = whole.run()[-1]
        kill = Kill(signal.SIGKILL, "group", stage, 0.8 * seconds, 4)
        yield trial(whole, setting.folder / "killed", kill)
        return
    whole = Whole("one process", setting.folder / "one", 0, 10, (*TRAINING, one))
    spent = whole.run()
    plans = []
    for i, (number, target) in enumerate(rng.sample(kinds, 9) + rng.sample(kinds, 5)):
        stage, after = at(spent, rng.random())
        kill = Kill(number, target, stage, after, 10 if i % TO_THE_END == 0 else stage)
        plans.append((whole, setting.folder / f"one-{i}", kill))
    data = setting.folder / "one/data"
    both = Whole("two processes", setting.folder / "two", 4, 6, (*TRAINING, two), data, 1e-5)
    seconds = both.run()[0][1]
    for i, (number, target) in enumerate(rng.sample(kinds, 6)):
        kill = Kill(number, target, 4, rng.random() * seconds, 6 if i % TO_THE_END == 0 else 4)
        plans.append((both, setting.folder / f"two-{i}", kill))
    yield from at_once(JOBS, {str(plan[1]): partial(trial, *plan) for plan in plans})


def at(spent: list[tuple[int, float]], share: float) -> tuple[int, float]:
    """The stage in which a share of the whole duration lies, and the seconds since it began."""
    moment = share * sum(seconds for _, seconds in spent)
    for stage, seconds in spent:
        if moment < seconds:
            return stage, moment
        moment -= seconds
    return spent[-1]


def trial(whole: Whole, folder: Path, kill: Kill) -> Trial:
    """One kill, and the same command again. A stage that is over by then is made anew, and killed
    earlier."""
    after, problem = kill.after, None
    try:
        while not (first := killed(whole, folder, kill, after))[0]:
            after *= 0.7
        problem = first[1] or continued(whole, folder, kill)
    except subprocess.TimeoutExpired:
        problem = "it hung"
    if not problem:
        shutil.rmtree(folder)
    what = f"{kill.number.name} to {kill.target} {after:.1f} s into stage {kill.stage}"
    found = f"the results of stages up to {kill.last} are those of the unbroken run"
    return Trial(f"{whole.words}: {what}", not problem, problem or found)


def killed(whole: Whole, folder: Path, kill: Kill, after: float) -> tuple[bool, str | None]:
    """Starts a run and kills it; returns whether it was still in its stage, and what is wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_until(whole.folder, folder, kill.stage)
    run = MarkedRun(whole.command(folder, kill.last), folder / "first.txt")
    while run.process.poll() is None and in_front(run.output) < kill.stage - 1 - whole.first:
        time.sleep(0.1)
    try:
        run.process.wait(after)
    except subprocess.TimeoutExpired:
        run.send(kill.number, kill.target, random.Random(after))
    status = run.wait(300)
    problem = run.left()
    if TRACE in run.output:
        return True, f"the killed run ended with a traceback: {last_line(run.output)}"
    over = f"stage {kill.stage} (" in run.output and re.search(
        rf"stage {kill.stage} \(.*\): done in", run.output
    )
    return status != 0 and not over, problem


def in_front(output: str) -> int:
    """The number of the last stage that a run has skipped, from the first one that it names; -1:
    none."""
    found = re.findall(r"stage \d+ \(.*\): (?:finished already|nothing to do)", output)
    return len(found) - 1


def continued(whole: Whole, folder: Path, kill: Kill) -> str | None:
    """Runs the same command again; says what is wrong with what it ends with."""
    saved = [update for update, _ in list_checkpoints(folder / "exp/checkpoints")]
    run = MarkedRun(whole.command(folder, kill.last), folder / "again.txt")
    status = run.wait(1200)
    if status or TRACE in run.output:
        return f"the same command again ended with {status}: {last_line(run.output)}"
    shown = re.findall(rf"\| (\d+)/{UPDATES} \[", (folder / "first.txt").read_text())
    reached, going = int(shown[-1]) if shown else 0, 0
    if line := re.search(r"going on from update (\d+)", run.output):
        going = int(line[1])
    if kill.stage == TRAINING_STAGE and reached - going > SAVE_EVERY:
        return f"{reached - going} updates were lost: it had come to {reached}"
    if going and going != saved[-1]:
        return f"went on from update {going}, not from the newest checkpoint, {saved[-1]}"
    if sum(update % SAVE_EVERY > 0 for update in saved) > 1:
        return f"odd checkpoints: {saved}"
    if problem := run.left():
        return problem
    if half := half_files(folder):
        return half[0]
    return difference(whole.folder, folder, whole.tolerance, kill.last)
