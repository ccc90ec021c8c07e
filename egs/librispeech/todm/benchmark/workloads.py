"""The table of what is measured: names, units, and the classes that measure it.

A new workload is a class in ``training``, ``export`` or ``exported`` and a line in
:data:`WORKLOADS`. The class takes a :class:`~todm.benchmark.settings.Settings` and the arguments of
its line; ``run()`` measures once and returns a :class:`~todm.benchmark.clock.Measured` of every
figure, and ``warm_up()``, where it has one, is called before the first round.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from utils.errors import UserError

# The processes that workloads run in: one for all of a kind, which stays, or (FRESH) a new one for
# every round, where the peak of memory or what happens first is measured.
TRAINING, EXPORTED, FRESH = "training", "exported", "fresh"
RTF = "s per s of audio"
TIMES = "x"


@dataclass(frozen=True)
class Figure:
    """A number that a workload gives in every round.

    Attributes:
      more_is_better: whether a higher figure is the better one; of most it is the lower one.
    """

    name: str
    unit: str
    more_is_better: bool = False


@dataclass(frozen=True)
class Workload:
    """Something that is measured.

    Attributes:
      name: by which ``--only`` chooses it.
      description: one sentence for the reader of the figures.
      program: the module of this folder and the class in it that measure.
      arguments: of the class, after the settings.
      figures: in the order of the table.
      process: TRAINING, EXPORTED or FRESH.
      plain_memory: run without path.sh's settings of malloc, which are for training.
      needs: the name of the workload that writes the files which this one reads.
      least: the rounds that are measured however long they take.
      gpu: whether it can run on a GPU; others are left out with ``--device cuda``.
      cost: the seconds that a round takes with a large net, for the estimate of the time left.
    """

    name: str
    description: str
    program: str
    arguments: tuple[Any, ...]
    figures: tuple[Figure, ...]
    process: str = TRAINING
    plain_memory: bool = False
    needs: str | None = None
    least: int = 3
    gpu: bool = False
    cost: float = 1.0


def _encoder(utterances: int, seconds: int) -> Workload:
    return Workload(
        f"encoder-{seconds}s",
        f"Frontend and encoder forward and backward, {utterances} utterances of {seconds} s"
        + ("." if seconds == 3 else "; half as many above 20 M weights."),
        "training:EncoderTraining",
        (utterances, seconds),
        (Figure("step", "ms per s of audio"),),
        gpu=True,
        cost=3,
    )


def _memory(utterances: int, seconds: int) -> Workload:
    return Workload(
        f"memory-{seconds}s",
        "The peak of memory above weights and gradients, encoder forward and backward, "
        f"{utterances} utterances of {seconds} s.",
        "training:TrainingMemory",
        (utterances, seconds),
        (Figure("peak", "MiB"),),
        process=FRESH,
        least=1,
        gpu=True,
        cost=0.12 * utterances * seconds,
    )


def _export(mode: str) -> Workload:
    return Workload(
        f"export-{mode}",
        f"The export of the largest net's {mode} encoder, and its int8 form.",
        "export:ExportedEncoder",
        (mode,),
        (
            Figure("export", "s"),
            Figure("peak memory", "MiB"),
            Figure("int8", "s"),
            Figure("fp32 file", "MB"),
            Figure("int8 file", "MB"),
        ),
        process=FRESH,
        plain_memory=True,
        least=1,
        cost=17 if mode == "offline" else 8,
    )


def _load(mode: str, precision: str) -> Workload:
    return Workload(
        f"load-{mode}-{precision}",
        f"Loading the {mode} encoder, {precision}: the peak is above onnxruntime without a model.",
        "exported:LoadedEncoder",
        (mode, precision),
        (Figure("time", "ms"), Figure("peak memory", "MiB")),
        process=FRESH,
        plain_memory=True,
        needs=f"export-{mode}",
        least=2,
        cost=4.5 if mode == "offline" else 1,
    )


def _offline(precision: str) -> Workload:
    return Workload(
        f"offline-{precision}",
        f"The exported offline encoder, {precision}, one utterance at a time.",
        "exported:OfflineEncoder",
        (precision,),
        tuple(Figure(f"{seconds} s", RTF) for seconds in (3, 10, 30)),
        process=EXPORTED,
        plain_memory=True,
        needs="export-offline",
        cost=3,
    )


def _long(precision: str) -> Workload:
    return Workload(
        f"long-{precision}",
        f"The exported offline encoder, {precision}, over 240 s: the growth is against the time of "
        "a second in 30 s, the peak above the loaded model.",
        "exported:LongAudio",
        (precision,),
        (Figure("240 s", RTF), Figure("240 s / 30 s", TIMES), Figure("peak memory", "MiB")),
        process=FRESH,
        plain_memory=True,
        needs="export-offline",
        least=1,
        cost=25,
    )


def _streaming(precision: str) -> Workload:
    return Workload(
        f"streaming-{precision}",
        f"The exported streaming encoder of a causal net, {precision}, chunk by chunk.",
        "exported:StreamingEncoder",
        (precision,),
        (Figure("320 ms chunks", RTF),),
        process=EXPORTED,
        plain_memory=True,
        needs="export-streaming",
        cost=2,
    )


WORKLOADS = (
    _encoder(8, 3),
    _encoder(4, 12),
    _encoder(2, 30),
    Workload(
        "update",
        "A whole update on 8 utterances of 3 s, of the largest net alone and of the sandwich "
        "(largest + smallest + random): forward, backward, optimiser.",
        "training:Update",
        (8, 3),
        (
            Figure("largest", "ms per s of audio"),
            Figure("sandwich", "ms per s of audio"),
            Figure("sandwich / largest", TIMES),
        ),
        gpu=True,
        cost=9,
    ),
    Workload(
        "optimizer",
        "A step of the optimiser alone.",
        "training:OptimizerStep",
        (),
        (Figure("step", "ms"),),
        gpu=True,
        cost=0.3,
    ),
    Workload(
        "loading",
        "The training loader in the process itself, on the conf's own data, once stage 3 has "
        "finished.",
        "training:Loading",
        (),
        (Figure("batches", "per s", more_is_better=True),),
        cost=1,
    ),
    _memory(8, 3),
    _memory(4, 12),
    _export("offline"),
    *(_load("offline", precision) for precision in ("fp32", "int8")),
    *(_offline(precision) for precision in ("fp32", "int8")),
    *(_long(precision) for precision in ("fp32", "int8")),
    _export("streaming"),
    *(_load("streaming", precision) for precision in ("fp32", "int8")),
    *(_streaming(precision) for precision in ("fp32", "int8")),
)


def chosen_workloads(patterns: Iterable[str], device: str = "cpu") -> list[Workload]:
    """The workloads of the table that fit one of the patterns (``encoder*``), and those whose files
    they need; all for no pattern. On a GPU only those that can run there.

    Raises:
      UserError: a pattern fits no workload.
    """
    able = [w for w in WORKLOADS if w.gpu or device == "cpu"]
    patterns = list(patterns) or ["*"]
    for pattern in patterns:
        if not any(fnmatchcase(w.name, pattern) for w in able):
            names = ", ".join(w.name for w in able)
            raise UserError(f"--only {pattern}: there is no such workload on {device}: {names}")
    chosen = {w.name for w in able if any(fnmatchcase(w.name, p) for p in patterns)}
    chosen |= {w.needs for w in able if w.name in chosen and w.needs}
    return [w for w in able if w.name in chosen]
