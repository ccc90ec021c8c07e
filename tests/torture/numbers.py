"""Inf, NaN and huge values in features, losses, gradients, the scale of fp16 and the learning rate.

A training survives where it goes on and says which batches it has left out, or ends with a message;
and where every checkpoint that it leaves is finite, and no weight has become far larger than
without the attack.
"""

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, NumpyFilesWriter

from tests.torture.number_attacks import (
    UPDATES,
    WORST,
    OnLoss,
    OnScale,
    Outcome,
    largest_weight,
    run,
)
from tests.torture.trials import ROOT, TRACE, Setting, Trial, last_line, recipe_environment, run_sh
from todm.config.keys import Config
from todm.config.load import load
from todm.data.loaders import eval_loader
from todm.training.trainer import Trainer
from utils.errors import UserError

CPU = torch.device("cpu")
NAN, INF = math.nan, math.inf
RANKS = 2


@dataclass(frozen=True)
class Numbers:
    """The trials of one run of the section.

    Attributes:
      root: where they work. experiment: the folder with the data that all begin from.
    """

    root: Path
    experiment: Path

    def config(self, name: str, *overrides: str, data: Path | None = None) -> Config:
        """The conf of one trial's training."""
        return load("conf/debug.yaml", self.arguments(name, *overrides, data=data))

    def arguments(self, name: str, *overrides: str, data: Path | None = None) -> list[str]:
        """What the conf of one trial's training has instead of conf/debug.yaml's."""
        return [
            *(f"name={name}", f"data.dir={data or self.experiment / 'data'}"),
            *(f"exp={self.root / name}", f"train.updates={UPDATES}", "train.save_every=1"),
            *(f"train.keep_last={UPDATES}", "data.num_workers=0", *overrides),
        ]

    def train(
        self,
        name: str,
        *overrides: str,
        attacks: tuple[Callable[[Trainer], None], ...] = (),
        data: Path | None = None,
    ) -> Outcome:
        """The outcome of one training under attack."""
        config = self.config(name, *overrides, data=data)
        return run(lambda: Trainer(config, CPU), *attacks)

    def with_features(
        self, name: str, split: str, change: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[Path, str]:
        """A data folder like the experiment's in which the stored features of a split's first
        utterance are changed, and the name of that utterance."""
        source, folder = self.experiment / "data", self.root / f"data-{name}"
        (folder / "cuts").mkdir(parents=True)
        for path in source.iterdir():
            if path.name != "cuts":
                (folder / path.name).symlink_to(path)
        for path in (source / "cuts").iterdir():
            if path.name != f"{split}.jsonl.gz":
                (folder / "cuts" / path.name).symlink_to(path)
        first, *others = CutSet.from_file(source / "cuts" / f"{split}.jsonl.gz")
        writer = NumpyFilesWriter(folder / "changed")
        features = change(np.array(first.load_features(), dtype=np.float32))
        key = writer.write(first.id, features)
        first.features.storage_type, first.features.storage_path = writer.name, str(folder)
        first.features.storage_path, first.features.storage_key = writer.storage_path, key
        first.features.num_frames = len(features)
        CutSet.from_cuts([first, *others]).to_file(folder / "cuts" / f"{split}.jsonl.gz")
        return folder, first.id


def one_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """A change of features: one of them becomes this value."""

    def change(features: np.ndarray) -> np.ndarray:
        features[len(features) // 2, 40] = value
        return features

    return change


FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one NaN": one_value(NAN),
    "one inf": one_value(INF),
    "one -inf": one_value(-INF),
    "one 3e38": one_value(3e38),
    "NaN alone": lambda x: x * np.float32(NAN),
    "1e6 times as large": lambda x: x * np.float32(1e6),
    "a gain of 1e6 (plus 27.6)": lambda x: x + np.float32(2 * math.log(1e6)),
}
EVERYWHERE = (  # attacks that are tried with every kind of training, not with the first alone
    *("one NaN", "1e6 times as large", "NaN in one step", "1e30 times as large in one step"),
    "a gradient of inf in two steps",
)
LOSSES: dict[str, OnLoss] = {
    "NaN in one step": OnLoss(NAN, (4,)),
    "inf in three steps in a row": OnLoss(INF, (2, 3, 4)),
    "-inf in the first and the last step": OnLoss(-INF, (0, UPDATES)),
    "NaN in every step": OnLoss(NAN, None),
    "1e4 times as large in one step": OnLoss(1e4, (4,)),
    "1e30 times as large in one step": OnLoss(1e30, (4,)),
    "a gradient of inf in two steps": OnLoss(INF, (4, 5), gradient=True),
    "a gradient 1e30 times as large in one step": OnLoss(1e30, (4,), gradient=True),
}
KINDS = {  # of trainings
    "ScaledAdam, fp32": (),
    "Adam, bf16": ("method.optimizer=adam", "train.lr=0.002", "train.precision=bf16"),
    "ScaledAdam, fp16": ("train.precision=fp16",),
    "learned selection": ("select.method=simple-topk", "loss.ctc_first=0"),
}
SCALES = (NAN, INF, 1e38, 0.0)
RATES = (
    (),
    ("method.optimizer=adam",),
    ("train.precision=bf16",),
    ("train.precision=fp16",),
    ("train.ssm_lr_scale=1000",),
    ("loss.objective=ctc",),
    ("select.method=simple-topk",),
    ("method.optimizer=adam", "train.ssm_lr_scale=1000", "train.save_every=12"),
)
ON_RANKS: dict[str, OnLoss] = {
    "NaN in the loss of rank 1 in one step": OnLoss(NAN, (4,), rank=1),
    "inf in the loss of rank 0 in two steps": OnLoss(INF, (4, 6)),
    "NaN in the loss of rank 1 in every step": OnLoss(NAN, None, rank=1),
    "a gradient of inf of rank 1 in one step": OnLoss(INF, (4,), rank=1, gradient=True),
}


def trials(setting: Setting) -> Iterator[Trial]:
    """All attacks, each on a training of its own."""
    experiment = setting.experiment or setting.folder / "tiny"
    if not setting.experiment:
        made = run_sh(*arguments_of_data(experiment))
        if made.returncode:
            raise RuntimeError(made.stdout)
    numbers = Numbers(setting.folder, experiment)
    few = 1 if setting.short else None
    plain = {kind: reference(numbers, kind) for kind in list(KINDS)[:few]}
    yield from in_features(numbers, plain, setting.short)
    for name, attack in list(LOSSES.items())[: 3 if setting.short else None]:
        for kind in list(plain)[: None if name in EVERYWHERE else 1]:
            yield in_loss(numbers, kind, name, attack, plain[kind])
    for scale in SCALES[: 2 if setting.short else None]:
        yield in_scale(numbers, scale)
    for overrides in RATES[: 2 if setting.short else None]:
        yield of_rate(numbers, overrides)
    for name, attack in list(ON_RANKS.items())[:few]:
        yield on_ranks(numbers, name, attack)


def arguments_of_data(experiment: Path) -> list[str]:
    """The arguments of run.sh that make the data."""
    folders = (f"data.dir={experiment / 'data'}", f"exp={experiment / 'exp'}")
    return ["--stop-stage", "3", "--conf", "conf/debug.yaml", "name=tiny", *folders]


def reference(numbers: Numbers, kind: str) -> float:
    """The largest weight of a training of a kind that is left alone."""
    name = folder_name("plain", kind)
    outcome = numbers.train(name, *KINDS[kind])
    if outcome.error or outcome.fault or outcome.skipped:
        raise RuntimeError(f"{kind} does not train: {outcome.error or outcome.fault}")
    return largest_weight(numbers.root / name)


def in_features(numbers: Numbers, plain: dict[str, float], short: bool) -> Iterator[Trial]:
    """Stored features of one utterance of train, whose batches alone may be left out; and of dev,
    which may not be scored."""
    for name, change in list(FEATURES.items())[: 1 if short else None]:
        data, cut = numbers.with_features(folder_name("features", name), "train", change)
        for kind, largest in list(plain.items())[: None if name in EVERYWHERE else 1]:
            where = folder_name("features", name, kind)
            # so few batches that the utterance comes in every second update or so
            outcome = numbers.train(where, "data.max_duration=20", *KINDS[kind], data=data)
            given = sum(cut in ids for ids in outcome.given)
            fault = judged(outcome, numbers.root / where, largest)
            if not fault and not given:
                fault = "the utterance was in no batch"
            if not fault and "e6" not in name and outcome.skipped != given:
                fault = f"{given} batches have the utterance, and {outcome.skipped} were left out"
            if not fault and any(cut not in line for line in outcome.warnings):
                fault = f"a warning does not name {cut}: {outcome.warnings}"
            said = f"{given} batches had it, {outcome.skipped} left out, each named"
            yield Trial(
                f"features of train: {name} ({kind})", not fault, fault or outcome.error or said
            )
    data, cut = numbers.with_features("dev", "dev", one_value(NAN))
    outcome = numbers.train("dev", data=data)
    fault = judged(outcome, numbers.root / "dev", plain["ScaledAdam, fp32"])
    last = numbers.root / "dev" / "checkpoints" / f"update-{UPDATES}.pt"
    if not fault and (cut not in outcome.error or not last.is_file()):
        fault = f"{outcome.error or 'no word'}; last checkpoint there: {last.is_file()}"
    yield Trial("features of dev: one NaN, in training", not fault, fault or outcome.error)
    config = numbers.config("dev", data=data)
    try:
        list(eval_loader(config, ["dev"], 20.0))
        said = ""
    except UserError as error:
        said = str(error)
    yield Trial("features of dev: one NaN, when it is scored", cut in said, said or "no word")


def in_loss(numbers: Numbers, kind: str, name: str, attack: OnLoss, largest: float) -> Trial:
    """The trial of a factor on the loss or a gradient."""
    where = folder_name("loss", name, kind)
    outcome = numbers.train(where, *KINDS[kind], attacks=(attack,))
    fault = judged(outcome, numbers.root / where, largest)
    finite = attack.factor == 1e4 and "fp16" not in kind
    if not fault and attack.calls is None and "in a row" not in outcome.error:
        fault = f"it went on: {outcome.error or 'no word'}"
    elif not fault and attack.calls and outcome.error:
        fault = f"it ended: {outcome.error}"
    elif not fault and finite and outcome.skipped:
        fault = f"{outcome.skipped} batches left out, though all was finite"
    elif not fault and attack.calls and abs(attack.factor) != 1e4 and not outcome.warnings:
        fault = "nothing was said of the batch"
    said = outcome.error or f"{len(outcome.warnings)} left out, each named"
    return Trial(f"loss: {name} ({kind})", not fault, fault or said)


def in_scale(numbers: Numbers, scale: float) -> Trial:
    """The trial of a value of fp16's gradient scale."""
    where = folder_name("scale", str(scale))
    attack = OnScale(scale)
    outcome = numbers.train(where, "train.precision=fp16", attacks=(attack,))
    fault = judged(outcome, numbers.root / where, INF)
    said = f"{len(outcome.warnings)} batches until the scale fits"
    return Trial(f"fp16: a gradient scale of {scale}", not fault, fault or outcome.error or said)


def of_rate(numbers: Numbers, overrides: tuple[str, ...]) -> Trial:
    """The trial of a learning rate of 1000."""
    where = folder_name("rate", *overrides)
    outcome = numbers.train(where, "train.lr=1000", "train.lr_warmup=0", *overrides)
    fault = judged(outcome, numbers.root / where, INF)
    said = f"largest weight {largest_weight(numbers.root / where):.1e}"
    what = f"train.lr=1000 {' '.join(overrides)}".strip()
    return Trial(what, not fault, fault or outcome.error or said)


def on_ranks(numbers: Numbers, name: str, attack: OnLoss) -> Trial:
    """The trial of an attack on one of two processes that train together."""
    where = folder_name("ranks", name)
    calls = "all" if attack.calls is None else ",".join(map(str, attack.calls))
    child = [
        *(sys.executable, "-m", "utils.torchrun", "--standalone", "--nproc-per-node", str(RANKS)),
        *("-m", "tests.torture.numbers_child", str(attack.factor), calls, str(attack.rank)),
        *(str(int(attack.gradient)), *numbers.arguments(where)),
    ]
    paths = f"{ROOT}:{ROOT}/egs/librispeech"
    done = subprocess.run(
        child,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=recipe_environment(PYTHONPATH=paths),
        timeout=600,
    )
    said = re.search(r"trained .* (\d+) bad batches skipped", done.stdout)
    fault = ""
    if largest_weight(numbers.root / where) == INF:
        fault = "a checkpoint is not finite"
    elif TRACE in done.stdout:
        fault = f"a traceback: {last_line(done.stdout)}"
    elif attack.calls is None and (done.returncode != 2 or "in a row" not in done.stdout):
        fault = f"status {done.returncode}: {last_line(done.stdout)}"
    elif attack.calls and (not said or int(said[1]) != len(attack.calls)):
        fault = f"{said[0] if said else last_line(done.stdout)}; {len(attack.calls)} were bad"
    return Trial(
        f"two processes: {name}", not fault, fault or (said[0] if said else last_line(done.stdout))
    )


def judged(outcome: Outcome, folder: Path, largest: float) -> str:
    """What is wrong with any outcome of a training; empty: nothing.

    Args:
      largest: the largest weight of a training without attack.
    """
    if outcome.fault:
        return f"no message for people: {outcome.fault}"
    reached = largest_weight(folder)
    if reached == INF:
        return "a checkpoint is not finite"
    if reached > WORST * largest:
        return f"a weight of {reached:.1e}, without attack {largest:.1e}"
    summary = f"{outcome.skipped} bad batches skipped"
    if not outcome.error and not any(summary in line for line in outcome.log):
        return f"the end does not say: {summary}"
    return ""


def folder_name(*words: str) -> str:
    """A name for a folder, of any words."""
    return re.sub(r"[^\w-]+", "-", "-".join(words))
