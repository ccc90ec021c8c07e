"""Soak: a training and streams for hours, side by side, watched every few seconds.

``TODM_SOAK_MINUTES`` says for how long (default 120). Streams run faster than real time.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers import tiny_config
from tests.recognizers import SMALL, talkative, tokenizer
from tests.torture.trials import ROOT, Setting, Trial, last_line, recipe_environment, run_sh
from tests.torture.watching import Sample, growth, memory_slope, more, sample, settled, speed_change
from todm.deploy.export import write_subnet
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from todm.training.experiment import Experiment

MINUTES = 120.0
SHORT_MINUTES = 0.15
GROWTH = 0.02  # of the memory, over all the time after the warm-up
SHORT_GROWTH = 0.2  # in seconds the beginning is not over
SAMPLES = 10  # at least, after the warm-up
PATIENCE = 300.0  # seconds for a busy machine
SLOWER = 0.10  # than in the first half
TOKEN_MIB = 250 / 2**20  # a stream keeps its text: per piece two floats, and an entry in each list
STREAMS = {
    "streams": "streams of 10 minutes of audio in torch, one after the other",
    "stream": "one stream in torch that never ends",
    "client": "streams of half a minute in sherpa-onnx",
}


@dataclass
class Soaked:
    """One process of the soak, and where it says what it has done."""

    what: str
    unit: str
    process: subprocess.Popen
    log: Path
    tensorboard: Path | None = None

    def __post_init__(self) -> None:
        self.samples: list[Sample] = []

    def work(self) -> list[tuple[float, float, int]]:
        """Seconds since the epoch, what was done until then, and pieces of text held."""
        if self.tensorboard is None:
            return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]
        events = EventAccumulator(str(self.tensorboard), size_guidance={"scalars": 0})
        try:
            return [(e.wall_time, e.step, 0) for e in events.Reload().Scalars("learning rate")]
        except KeyError:  # nothing is written yet
            return []


def trials(setting: Setting) -> Iterator[Trial]:
    """A training, streams in torch and streams in sherpa-onnx."""
    minutes = (
        SHORT_MINUTES if setting.short else float(os.environ.get("TODM_SOAK_MINUTES", MINUTES))
    )
    model = streaming_model(setting.folder / "model")
    soaked = [start_training(setting)]
    kinds = ["streams"] if setting.short else STREAMS
    soaked += [start_stream(setting, kind, model) for kind in kinds]
    try:
        watch(soaked, minutes * 60)
        ends = [end(s) for s in soaked]
    finally:
        for s in soaked:
            s.process.kill()
    for s, ending in zip(soaked, ends):
        yield judge(s, ending, SHORT_GROWTH if setting.short else GROWTH, setting.short)


def streaming_model(folder: Path) -> Path:
    """A tiny causal model with random weights that talks all the time, as stage 10 exports it."""
    config = tiny_config("model.direction=causal", "export.chunk_frames=32")
    experiment = Experiment(config, talkative(config), tokenizer(), 0, 0.0, 0.0, "random weights")
    entry = describe_subnet(config, tokenizer().vocab_size, Subnet.parse(SMALL), "by hand")
    write_subnet(folder, config, experiment, entry)
    return folder


def start_training(setting: Setting) -> Soaked:
    """Stage 4 on the debug corpus, with a checkpoint and a look at dev every few seconds."""
    places = [f"data.dir={setting.folder / 'data'}", f"exp={setting.folder / 'exp'}"]
    common = ["--conf", "conf/debug.yaml", f"train.seed={setting.seed}", *places]
    made = run_sh("--stop-stage", "3", *common)
    if made.returncode:
        raise RuntimeError(f"no data for the soak: {last_line(made.stdout)}")
    endless = [
        "train.updates=10000000",
        "train.save_every=100",
        "train.valid_every=100",
        "train.log_every=2",
    ]
    command = [ROOT / "run.sh", "--stage", "4", "--stop-stage", "4", *common, *endless]
    log = setting.folder / "train.log"
    process = start(command, log)
    return Soaked("stage 4", "updates", process, log, setting.folder / "exp" / "tensorboard")


def start_stream(setting: Setting, kind: str, model: Path) -> Soaked:
    """``soak_stream`` of one kind."""
    log = setting.folder / f"{kind}.log"
    command = [sys.executable, "-m", "tests.torture.soak_stream", kind, model]
    return Soaked(STREAMS[kind], "s of audio", start(command, log), log)


def start(command: list, log: Path) -> subprocess.Popen:
    """Starts a session of its own, whose output goes to a file."""
    with log.open("w") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if "run.sh" in str(command[0]) else None,
            env=recipe_environment(),
            start_new_session=True,
        )


def watch(soaked: list[Soaked], seconds: float) -> None:
    """Samples all of them until the time is over, some hundreds of times; longer on a machine that
    is so busy that less than can be judged has been done by then."""
    pause = min(max(seconds / 1000, 0.2), 5.0)
    for s in soaked:
        wait_for_work(s)
    finish = time.monotonic() + seconds
    while time.monotonic() < finish or not (
        time.monotonic() > finish + PATIENCE or all(enough(s) for s in soaked)
    ):
        for s in soaked:
            now = sample(s.process.pid, time.time())
            if now is not None and s.process.poll() is None:
                s.samples.append(now)
        time.sleep(pause)


def enough(s: Soaked) -> bool:
    """Tells whether it can be judged; what has ended needs no more."""
    judged = len(settled(s.samples)) >= SAMPLES and len(s.work()) >= SAMPLES
    return judged or s.process.poll() is not None


def wait_for_work(s: Soaked, patience: float = PATIENCE) -> None:
    """Returns when it has begun, or has ended."""
    finish = time.monotonic() + patience
    while time.monotonic() < finish and s.process.poll() is None:
        begun = list(s.tensorboard.glob("events*")) if s.tensorboard else s.log.stat().st_size
        if begun:
            return
        time.sleep(0.1)
    raise RuntimeError(f"{s.what} has not begun: {last_line(s.log.read_text())}")


def end(s: Soaked) -> str:
    """Asks it to stop, as Ctrl-C does; what was wrong about its end."""
    if s.process.poll() is not None:
        return f"it ended by itself: {last_line(s.log.read_text())}"
    if s.tensorboard is None:
        s.process.kill()
        s.process.wait()
        return ""
    os.killpg(s.process.pid, signal.SIGINT)
    try:
        s.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return "it does not stop"
    return "" if "saved at update" in s.log.read_text() else "it has not saved at its end"


def judge(s: Soaked, ending: str, allowed: float, short: bool) -> Trial:
    """What the samples say."""
    work = s.work()
    samples = settled(s.samples)
    if len(samples) < SAMPLES or len(work) < 3:
        return Trial(s.what, False, ending or "too few samples")
    times, done, tokens = map(np.array, zip(*work))
    text = np.interp([x.time for x in samples], times, tokens) * TOKEN_MIB
    slope = memory_slope(samples, text if s.what == STREAMS["stream"] else 0.0)
    speed = speed_change(samples, [(a, b) for a, b, _ in work])
    grown = growth(samples, slope)
    files, threads = more(samples, "descriptors"), more(samples, "threads")
    begin, finish = s.samples[0], s.samples[-1]
    seconds = finish.time - begin.time
    amount = float(np.interp(finish.time, times, done) - np.interp(begin.time, times, done))
    found = (
        f"{seconds / 60:.1f} minutes, {amount:.0f} {s.unit} ({amount / seconds:.1f} a second), "
        f"{len(samples)} samples after the warm-up; {finish.memory:.0f} MiB, "
        f"{slope.value:+.2f} MiB/h [{slope.low:+.2f}, {slope.high:+.2f}]; "
        f"{finish.descriptors} descriptors ({files:+.0f}), {finish.threads} threads "
        f"({threads:+.0f}); speed in the second half {100 * speed.value:+.1f} % "
        f"[{100 * speed.low:+.1f}, {100 * speed.high:+.1f}]"
    )
    survived = grown <= allowed and files <= 0 and threads <= 0 and not ending
    survived = survived and (short or speed.high >= -SLOWER)
    return Trial(s.what, survived, "; ".join(filter(None, [ending, found])))
