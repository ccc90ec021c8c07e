"""Damage: one file of a finished experiment is cut, emptied, changed by a bit or replaced by a
folder, and the same command is given again.

It must end with the result that the experiment had, whether a stage has found the damage and made
the file again or nothing reads it; or be refused in words that name the file.
"""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.torture.experiments import QUICK, arguments, difference, half_files
from tests.torture.processes import with_mount
from tests.torture.trials import TRACE, Setting, Trial, at_once, last_line, run_sh
from utils.checkpoint import checkpoint_path


def cut(path: Path, rng: random.Random) -> None:
    """Keeps the first half."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path, rng: random.Random) -> None:
    """Keeps nothing."""
    os.truncate(path, 0)


def flip(path: Path, rng: random.Random) -> None:
    """Changes one bit, as a bad disk does: the file's time stays."""
    status, content = path.stat(), bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def folder(path: Path, rng: random.Random) -> None:
    """Puts an empty folder in its place."""
    path.unlink()
    path.mkdir()


Kind = Callable[[Path, random.Random], None]
KINDS: dict[str, Kind] = {"cut": cut, "emptied": empty, "flipped": flip, "a folder": folder}
# the short form: a result, a checkpoint that the mean of the weights begins at, a listing
SHORT = {
    "exp/subnets.json": "flipped",
    "exp/checkpoints/update-4.pt": "flipped",
    "exp/report.md": "a folder",
}


JOBS = 5  # trials at once, each with its copy mounted where the experiment was made


@dataclass(frozen=True)
class Attack:
    """A damage to try.

    Attributes:
      name: the file, below the experiment.
      kind: of ``KINDS``.
      last: the stage up to which the command then goes.
      halfway: the training was killed after update 8, before anything that follows.
    """

    name: str
    kind: str
    last: int
    halfway: bool = False


def trials(setting: Setting) -> Iterator[Trial]:
    """Every kind of file once, with the kinds of damage in turn."""
    rng = random.Random(setting.seed)
    if setting.experiment:
        kept, now = setting.experiment, setting.folder / "now"
        options = arguments(now, data=kept / "data")
        for name, kind in SHORT.items():
            yield trial(Bench(kept, now, now, options, ("exp",)), Attack(name, kind, 9), rng)
        return
    kept = setting.folder / "kept"
    options = arguments(kept, *QUICK, "train.cpu_processes=1")
    made = run_sh("--stop-stage", "10", *options)
    if made.returncode:
        raise RuntimeError(f"the experiment failed: {last_line(made.stdout)}")
    if setting.short:
        attacks = [Attack(name, kind, 9) for name, kind in SHORT.items()]
    else:
        attacks = all_attacks(kept, rng)

    def one(i: int, seed: float) -> Trial:
        bench = Bench(kept, setting.folder / f"now-{i}", kept, options, ("data", "exp"))
        return trial(bench, attacks[i], random.Random(seed))

    yield from at_once(
        JOBS, {f"{a} ({i})": partial(one, i, rng.random()) for i, a in enumerate(attacks)}
    )


def all_attacks(kept: Path, rng: random.Random) -> list[Attack]:
    """One for every kind of file, and all kinds of damage for the two checkpoints that most hangs
    on: the last one, and that from which a killed training would go on."""
    attacks = []
    for i, names in enumerate(kinds_of_files(kept).values()):
        name, kind = rng.choice(names), list(KINDS)[i % len(KINDS)]
        attacks.append(Attack(name, kind, last_stage(name)))
    for kind in KINDS:
        last = 6 if kind == "flipped" else 4
        attacks.append(Attack("exp/checkpoints/update-12.pt", kind, last))
        attacks.append(Attack("exp/checkpoints/update-8.pt", kind, last, halfway=True))
    return attacks


def last_stage(name: str) -> int:
    """The stage up to which the command goes after a file was damaged: for what many stages are
    redone after, the one that makes it."""
    if stamp := re.search(r"stamps/stage-(\d+)", name):
        return int(stamp[1])
    makers = {"exp/export/": 10, "decode/": 6, "results.json": 6, "exp/report": 9, ".png": 9}
    return next((stage for part, stage in makers.items() if part in name), 10)


def kinds_of_files(root: Path) -> dict[str, list[str]]:
    """The files of an experiment by what their paths have in common."""
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(root))
            pattern = re.sub(r"\d+(\.\d+M)?(-\d)?", "N", re.sub("dev|test|train", "SPLIT", name))
            found.setdefault(pattern, []).append(name)
    return found


@dataclass(frozen=True)
class Bench:
    """Where a trial is made.

    Attributes:
      kept: the experiment, which stays as it is.
      copy: a copy of it, which is damaged.
      seen: the path at which run.sh sees the copy: that of ``kept`` where data are copied, because
        manifests have whole paths.
      options: of run.sh, beside its stages.
      parts: what is copied.
    """

    kept: Path
    copy: Path
    seen: Path
    options: list[str]
    parts: tuple[str, ...]


def trial(bench: Bench, attack: Attack, rng: random.Random) -> Trial:
    """Damages one file of a copy of an experiment, and gives its command again."""
    copy, seen = bench.copy, bench.seen
    shutil.rmtree(copy, ignore_errors=True)
    for part in bench.parts:
        shutil.copytree(bench.kept / part, copy / part)
    if attack.halfway:
        checkpoint_path(copy / "exp/checkpoints", 12).unlink()
        for number in range(4, 11):
            (copy / f"exp/.stamps/stage-{number}.json").unlink(missing_ok=True)
    KINDS[attack.kind](copy / attack.name, rng)
    mount = ["--bind", str(copy), str(seen)]
    done = run_sh(
        *("--stop-stage", str(attack.last), *bench.options),
        wrap=list if copy == seen else partial(with_mount, mount),
    )
    problem, found = judge(done.returncode, done.stdout, bench, attack)
    if attack.halfway and not problem and "going on from update 4" not in done.stdout:
        problem = "the checkpoint before was not used"
    what = f"{attack.name} {attack.kind}" + (", in mid-training" if attack.halfway else "")
    if problem:
        (copy / "log.txt").write_text(done.stdout)
    else:
        shutil.rmtree(copy)
    return Trial(what, not problem, problem or found)


def judge(status: int, output: str, bench: Bench, attack: Attack) -> tuple[str | None, str]:
    """What is wrong with the outcome of a trial, and what has become of the damage."""
    named = Path(attack.name).name in output
    if TRACE in output:
        return f"a traceback: {last_line(output)}", ""
    if status:
        refusal = next((line for line in output.splitlines() if line.startswith("ERROR")), "")
        return (None, f"refused: {refusal}") if named and status == 2 else (last_line(output), "")
    if problem := difference(bench.kept, bench.copy, last=attack.last):
        return f"the result is another, {'named' if named else 'silently'}: {problem}", ""
    half = [each for each in half_files(bench.copy) if named or attack.name not in each]
    if half:
        return half[0], ""
    return None, "named and made again" if named else "not named: the result is the same"
