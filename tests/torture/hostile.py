"""Hostile inputs: fuzzed audio, splits and confs, and files that are made to run or to write
something. What survives is taken or refused with a message, within 10 s and 1 GiB, and nothing is
written outside its folder."""

import random
from collections.abc import Iterator
from pathlib import Path

from tests.torture.attacks import (
    PICKLED,
    hostile_archives,
    hostile_exports,
    hostile_subnets,
    write_export,
    write_growing,
    write_pickle,
)
from tests.torture.attacks_demo import page_trials
from tests.torture.fuzz_audio import hostile_files
from tests.torture.fuzz_confs import hostile_confs
from tests.torture.fuzz_texts import hostile_splits
from tests.torture.trials import Setting, Trial
from tests.torture.watched import Outcome, Worker

FUZZED = 500  # inputs of every kind; in the short form
FEW = 24
MARKER = "marker"  # the file that attacks would make


def trials(setting: Setting) -> Iterator[Trial]:
    """All trials, one kind after the other."""
    with Worker(setting.folder / "worker.log") as worker:
        for kind in (attacks, audio, splits, confs):
            folder = setting.folder / kind.__name__
            folder.mkdir()
            rng = random.Random(f"{kind.__name__} {setting.seed}")
            yield from kind(worker, folder, rng, FEW if setting.short else FUZZED)
    (setting.folder / "page").mkdir()
    yield from page_trials(setting.folder / "page")


def attacks(worker: Worker, folder: Path, rng: random.Random, count: int) -> Iterator[Trial]:
    """Files that are made to run something, to write elsewhere, or to fill the memory. The good
    one that stands first must be taken."""
    marker, outside = folder / MARKER, folder / "outside"
    outside.mkdir()
    (outside / "there").write_text("as it was")

    def judged(what: str, outcome: Outcome, good: bool = False) -> Trial:
        written = [p.name for p in outside.iterdir() if p.name != "there"]
        escaped = [p for above in folder.parents[:3] for p in above.glob("escaped*")]
        changed = (outside / "there").read_text() != "as it was"
        if marker.exists() or written or escaped or changed:
            return Trial(what, False, f"it has run or written: {marker} {written} {escaped}")
        if good == outcome.said.startswith("refused"):
            return Trial(what, False, f"not what was expected: {outcome.said}"[:300])
        return trial(what, outcome)

    for form in PICKLED:
        path = folder / form.replace(" ", "-") / "checkpoints/update-1.pt"
        write_pickle(path, marker, form)
        yield judged(f"checkpoint, {form}", worker.ask("checkpoint", path=str(path)))
        exp = str(path.parent.parent)
        yield judged(f"experiment with a {form}", worker.ask("model", path=exp))
    write_growing(folder / "growing.pt")
    grown = worker.ask("checkpoint", path=str(folder / "growing.pt"))
    yield judged("checkpoint of 3 MB with 3 GB", grown)
    exports = hostile_exports(write_export(folder / "good"), folder, marker)
    for number, (name, path) in enumerate(exports):
        outcome = worker.ask("model", path=str(path))
        yield judged(f"exported folder, {name}", outcome, number == 0)
    for name, path in hostile_subnets(folder):
        yield judged(f"subnets.json, {name}", worker.ask("subnets", path=str(path)))
    archives = hostile_archives(folder, outside)
    for number, (name, path) in enumerate(archives):
        below = folder / f"unpacked-{number}/a/b"
        outcome = worker.ask("archive", path=str(path), folder=str(below))
        yield judged(f"download, {name}", outcome, number == 0)


def trial(what: str, outcome: Outcome) -> Trial:
    """The trial of an outcome."""
    return Trial(what, outcome.held, " ".join(outcome.said.split())[:300])


def audio(worker: Worker, folder: Path, rng: random.Random, count: int) -> Iterator[Trial]:
    """Fuzzed files through stages 1 and 2, and through transcribe.sh's path."""
    for name, path in hostile_files(folder, rng, count):
        table = path.with_name("table.jsonl")
        table.write_text(f'{{"audio": "{path.name}", "text": "A"}}\n')
        yield trial(
            f"stages 1 and 2: {name}",
            worker.ask("split", path=str(table), folder=str(folder / "data")),
        )
        yield trial(f"transcribe.sh: {name}", worker.ask("transcribe", path=str(path)))


def splits(worker: Worker, folder: Path, rng: random.Random, count: int) -> Iterator[Trial]:
    """Fuzzed transcripts, tables, Kaldi folders and manifests through stages 1 and 2."""
    for name, path in hostile_splits(folder, rng, count):
        outcome = worker.ask("split", path=str(path), folder=str(folder / "data"))
        yield trial(f"split: {name}", outcome)


def confs(worker: Worker, folder: Path, rng: random.Random, count: int) -> Iterator[Trial]:
    """Fuzzed confs and overrides."""
    for name, path, overrides in hostile_confs(folder, rng, count):
        outcome = worker.ask("conf", path=str(path), overrides=overrides)
        yield trial(f"conf: {name}", outcome)
