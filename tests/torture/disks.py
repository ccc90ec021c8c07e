"""Disks: full at random points of random stages, read-only, without permission, and with a limit on
the size of files; when that is mended, the same command goes on.

The experiment lies on a small tmpfs of its own, in a mount namespace that nobody else sees. A slow
disk is not tried: it would need a device of the kernel's (dm-delay) or a file system in user space.
"""

import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.torture.experiments import QUICK, arguments, copy_until, difference, half_files
from tests.torture.processes import can_mount, with_mount
from tests.torture.trials import ROOT, TRACE, Setting, Trial, at_once, last_line, run_sh
from todm.recipe.stages import STAGES as RECIPE

JOBS = 5  # trials at once
ROOM = "512m"  # of the tmpfs once there is room
STAGES = (0, 1, 2, 3, 4, 5, 6, 9, 10)
# Arguments: folder, where it is copied to after each run, what makes trouble, what ends it, command
SCRIPT = """
now=$1 first=$2 again=$3 trouble=$4 mend=$5; shift 5
used() { df -B1 --output=used "$now" | tail -n 1; }
cp -a "$now.prepared/." "$now/"
eval "$trouble"
"${as[@]}" "$@" >"$first.txt" 2>&1; echo "first: $?"
eval "$mend"
cp -a "$now/." "$first"
"${as[@]}" "$@" >"$again.txt" 2>&1; echo "again: $?"
cp -a "$now/." "$again"
"""


@dataclass(frozen=True)
class Trouble:
    """Something wrong with a disk.

    Attributes:
      words: what it is.
      make, mend: shell commands that bring it about and end it, in ``SCRIPT``.
      reason: the words of the operating system for it.
    """

    words: str
    make: str
    mend: str
    reason: str


def full(room: int) -> Trouble:
    """A disk with room for some more bytes."""
    return Trouble(
        f"room for {room} bytes",
        f'as=(); mount -o "remount,size=$(( $(used) + {room} ))" "$now"',
        f'mount -o remount,size={ROOM} "$now"',
        "No space left on device",
    )


READ_ONLY = Trouble(
    "read-only",
    'as=(); mount -o remount,ro "$now"',
    'mount -o remount,rw "$now"',
    "Read-only file system",
)
FORBIDDEN = Trouble(
    "no permission to write",
    # modes count for root, too, where it may not override them
    'as=(setpriv --bounding-set=-dac_override,-dac_read_search); chmod -R a-w "$now"',
    'chmod -R u+w "$now"; as=()',
    "Permission denied",
)
LIMITED = Trouble(
    "a limit of 1 KiB on files",
    """as=(bash -c 'ulimit -f 1; exec "$@"' bash)""",
    "as=()",
    "File too large",
)


@dataclass(frozen=True)
class Whole:
    """A finished experiment, and the options of run.sh for it elsewhere.

    Attributes:
      data: the data folder, where the experiment's own is used and not copied.
    """

    folder: Path
    overrides: tuple[str, ...] = ()
    data: Path | None = None

    def command(self, now: Path, stage: int) -> list[str]:
        """The command that runs one stage below another folder."""
        options = arguments(now, *self.overrides, data=self.data)
        stages = ("--stage", str(stage), "--stop-stage", str(stage))
        return [str(ROOT / "run.sh"), *stages, *options]

    def size(self, stage: int) -> int:
        """The bytes of what a stage writes, about."""
        folder = self.folder / ("data" if stage < 4 else "exp")
        outputs = ("corpus",) if stage == 0 else RECIPE[stage].outputs + RECIPE[stage].beside
        paths = [path for out in outputs for path in (folder / out, *(folder / out).rglob("*"))]
        return sum(path.stat().st_size for path in paths if path.is_file())


def trials(setting: Setting) -> Iterator[Trial]:
    """Full disks at 20 random points, and every other trouble with three stages; the short form:
    one of each with the decoding, where this user may mount."""
    rng, mounts = random.Random(setting.seed), can_mount()
    if setting.short and setting.experiment:
        whole = Whole(setting.experiment, data=setting.experiment / "data")
        tasks = [(LIMITED, 6), *([(full(8192), 6)] if mounts else [])]
    else:
        whole = Whole(setting.folder / "kept", (*QUICK, "train.cpu_processes=1"))
        made = run_sh("--stop-stage", "10", *arguments(whole.folder, *whole.overrides))
        if made.returncode:
            raise RuntimeError(f"the experiment failed: {last_line(made.stdout)}")
        tasks = all_tasks(whole, rng) if mounts else [(LIMITED, stage) for stage in STAGES]

    yield from at_once(
        1 if setting.short else JOBS,
        {
            f"stage {stage}, {trouble.words} ({i})": partial(
                trial, whole, setting.folder / str(i), trouble, stage
            )
            for i, (trouble, stage) in enumerate(tasks)
        },
    )


def all_tasks(whole: Whole, rng: random.Random) -> list[tuple[Trouble, int]]:
    """Troubles with the stage in which they come."""
    stages = [*STAGES, *STAGES, *rng.sample(STAGES, 2)]
    tasks = [(full(int(whole.size(stage) * rng.random())), stage) for stage in stages]
    for trouble in (READ_ONLY, FORBIDDEN, LIMITED):
        tasks += [(trouble, stage) for stage in rng.sample(STAGES, 3)]
    return tasks


def trial(whole: Whole, folder: Path, trouble: Trouble, stage: int) -> Trial:
    """One trouble in one stage, and the same command when it is over. Where there was room for all
    that the stage writes, there is half of it the next time."""
    now, first, again = (folder / name for name in ("now", "first", "again"))
    shutil.rmtree(folder, ignore_errors=True)
    for each in (now, first, again):
        each.mkdir(parents=True)
    prepared = folder / "now.prepared"
    prepared.mkdir()
    copy_until(whole.folder, prepared, stage, data=whole.data is None)
    paths = [str(now), str(first), str(again)]
    inner = ["bash", "-c", SCRIPT, "bash", *paths, trouble.make, trouble.mend]
    mount = ["-t", "tmpfs", "-o", f"size={ROOM},mode=755", "tmpfs", str(now)]
    wrap = partial(with_mount, mount) if can_mount() else list
    done = run_sh(wrap=lambda _: wrap([*inner, *whole.command(now, stage)]))
    status = dict(re.findall(r"(first|again): (\d+)", done.stdout))
    if status.get("first") == "0" and (room := re.search(r"room for (\d+)", trouble.words)):
        return trial(whole, folder, full(int(room[1]) // 2), stage)
    problem = judge(whole, folder, trouble, stage, status)
    what = f"stage {stage}, {trouble.words}"
    said = error((folder / "first.txt").read_text()) if status else done.stdout
    if not problem:
        shutil.rmtree(folder)
    return Trial(what, not problem, problem or said.replace(str(folder), ""))


def judge(
    whole: Whole, folder: Path, trouble: Trouble, stage: int, status: dict[str, str]
) -> str | None:
    """Says what is wrong with the two runs of a trial; None: nothing."""
    if status.keys() != {"first", "again"}:
        return f"the trouble could not be made: {status}"
    output, later = ((folder / f"{name}.txt").read_text() for name in ("first", "again"))
    said = error(output)
    if status["first"] != "2" or TRACE in output:
        return f"ended with {status['first']}: {last_line(output)}"
    if trouble.reason not in said or f"{folder / 'now'}/" not in said:
        return f"the message does not name file and reason: {said}"
    if status["again"] != "0" or TRACE in later:
        return f"the same command again ended with {status['again']}: {last_line(later)}"
    for name in ("first", "again"):
        if half := half_files(folder / name):
            return f"{name}: {half[0]}"
    return difference(whole.folder, folder / "again", last=stage, made_at=folder / "now")


def error(output: str) -> str:
    """The line in which a program says why it has ended."""
    found = [line for line in output.splitlines() if line.startswith("ERROR")]
    return found[-1] if found else last_line(output)
