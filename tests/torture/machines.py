"""Clean machines: README's commands in fresh clones, with every version of Python that is here, the
lowest and the newest packages, without a compiler or git, in odd paths, offline, and in bare
releases of Debian.

The full form installs everything anew for most trials: minutes and 2 to 6 GB each, removed after
it; ``TODM_MACHINES`` is a pattern that chooses some of them. Pythons are looked for on PATH and
among pyenv's; :mod:`tests.torture.debian` says what its releases need.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement

from tests.torture import debian
from tests.torture.trials import ROOT, TRACE, Setting, Trial, last_line, run

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
DEFAULT = "3.11"
COMPILERS = r"(.*-)?(gcc|g\+\+|c\+\+|cc|clang|clang\+\+|cpp|c89|c99)(-[\d.]+)?"
GIT = r"git.*"
DEBUG = ("--stop-stage", "10", "--conf", "conf/debug.yaml")
# every compiled package takes part in one of them
TESTS = "test_values or test_audio or test_scaled_adam or test_pruned_rnnt or test_tokens"
QUICK = [".ci/run", "-m", "not slow", "-k", TESTS]
ODD = "Übung mit Leer zeichen"


@dataclass(frozen=True)
class Place:
    """A machine, as far as it differs from this one.

    Attributes:
      python: the version to install with; None: nothing is installed, this interpreter's packages
        are used.
      missing: a pattern of programs that are not on PATH.
      setup: arguments of ``local/setup.sh``, which runs before anything else.
      lowest: whether every package of requirements.txt is of the lowest version.
      prefix: a command that the recipe is run by, once it is installed.
      tests: whether ``.ci/run`` runs as well.
    """

    what: str
    python: str | None = DEFAULT
    folder: str = "clone"
    missing: str = ""
    setup: tuple[str, ...] = ()
    lowest: bool = False
    prefix: tuple[str, ...] = ()
    tests: bool = False
    more: dict[str, str] = field(default_factory=dict)


PLACES = [
    *(Place(f"Python {v}, newest packages", v, tests=True) for v in PYTHONS),
    Place("the lowest versions of requirements.txt", lowest=True, tests=True),
    Place("local/setup.sh --locked", setup=("--locked",)),
    Place("no C++ compiler, no git", missing=f"{COMPILERS}|{GIT}"),
    Place("spaces and accents in the path", folder=ODD),
    Place(
        "a home that can not be written", None, more={"HOME": "/proc", "XDG_CACHE_HOME": "/proc"}
    ),
]


def trials(setting: Setting) -> Iterator[Trial]:
    """A trial per place."""
    if setting.short:
        yield from short_trials(setting)
        return
    chosen = os.environ.get("TODM_MACHINES", "")
    for number, place in enumerate(p for p in [*PLACES, offline()] if re.search(chosen, p.what)):
        folder = setting.folder / f"{number}"
        python = find_python(place.python) if place.python else Path(sys.executable)
        if python is None:
            print(f"machines: not tried, no Python {place.python}", file=sys.stderr)
            continue
        yield attempt(place, folder, python)
        shutil.rmtree(folder, ignore_errors=True)
    releases = [r for r in debian.RELEASES if re.search(chosen, r.what)]
    if releases and (lack := debian.missing()):
        print(f"machines: Debian's releases are not tried: {lack}", file=sys.stderr)
    elif releases:
        yield from debian.trials(setting.folder, releases, [["./run.sh", *DEBUG], QUICK], judged)


def short_trials(setting: Setting) -> Iterator[Trial]:
    """Neither compiler nor git, in a path with spaces and accents, with the packages that are
    there."""
    place = Place("", None, ODD, f"{COMPILERS}|{GIT}", more={"HOME": "/proc"})
    clone = cloned(place, setting.folder)
    environment = environment_of(place, setting.folder, Path(sys.executable))
    for arguments, said in (
        (["--help"], "Stages"),
        (["--dry-run", *DEBUG], "updates"),
        (["--stop-stage", "0", "--conf", "conf/debug.yaml"], "stage 0"),
    ):
        what = f"./run.sh {shlex.join(arguments)}: {ODD!r}, no compiler, no git, HOME not writable"
        yield judged(what, run([clone / "run.sh", *arguments], clone, environment), said)


def attempt(place: Place, folder: Path, python: Path) -> Trial:
    """Installs in a new clone and runs README's commands."""
    clone = cloned(place, folder)
    environment = environment_of(place, folder, python)
    commands: list[list] = [["local/setup.sh", *place.setup]]
    commands.append([*place.prefix, "./run.sh", *DEBUG])
    if place.tests:
        commands.append(QUICK)
    trial = Trial(place.what, False, "nothing was run")
    for command in commands:
        said = "" if command[0] != "./run.sh" else "debug"
        trial = judged(place.what, run(command, clone, environment), said)
        if not trial.survived:
            return Trial(place.what, False, f"{shlex.join(map(str, command))}: {trial.found}")
    return Trial(place.what, True, f"{clone_facts(clone, environment)}; {trial.found}")


def judged(what: str, done: subprocess.CompletedProcess, said: str) -> Trial:
    """Survived: exit status 0, what must be said was, and no traceback."""
    output = done.stdout
    trace = [line for line in output.splitlines() if TRACE in line]
    survived = done.returncode == 0 and said in output and not trace
    warnings = [line for line in output.splitlines() if line.startswith("setup: WARNING")]
    found = f"exit status {done.returncode}: {last_line(output)}"
    return Trial(what, survived, " ".join([found, *warnings[:1]]))


def cloned(place: Place, folder: Path) -> Path:
    """A fresh clone of the commit that is checked out."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["git", "clone", "--quiet", str(ROOT), str(folder / place.folder)]
    subprocess.run(command, check=True)
    return folder / place.folder


def environment_of(place: Place, folder: Path, python: Path) -> dict[str, str]:
    """The variables of a place."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHON=str(python))
    for name in ("PYTHONPATH", "TODM_ROOT", "TODM_VENV", "TODM_COMMAND", "TODM_CALLER"):
        environment.pop(name, None)
    if place.python is None:
        environment["TODM_VENV"] = sys.prefix
    if place.missing:
        environment["PATH"] = str(programs_without(place.missing, folder / "bin"))
    if place.lowest:
        lowest = folder / "lowest.txt"
        lowest.write_text("\n".join(lowest_versions(ROOT / "requirements.txt")) + "\n")
        environment["PIP_CONSTRAINT"] = str(lowest)
    return environment | place.more


def programs_without(pattern: str, folder: Path) -> Path:
    """A folder with links to every program of PATH but those whose names the pattern matches."""
    folder.mkdir(parents=True)
    for place in os.environ["PATH"].split(os.pathsep):
        for program in sorted(Path(place).glob("*")):
            link = folder / program.name
            if not re.fullmatch(pattern, program.name) and not os.path.lexists(link):
                link.symlink_to(program)
    return folder


def lowest_versions(path: Path) -> list[str]:
    """``NAME==VERSION`` for each lower bound of a requirements file."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in requirements
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


def find_python(version: str) -> Path | None:
    """An interpreter of this version that starts."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = shutil.which(f"python{version}")
    candidates = [
        *([Path(found)] if found else []),
        *pyenv.glob(f"versions/{version}.*/bin/python"),
    ]
    check = f"import sys; sys.exit(sys.version_info[:2] != {tuple(map(int, version.split('.')))})"
    for candidate in candidates:
        if subprocess.run([candidate, "-c", check], stderr=subprocess.DEVNULL).returncode == 0:
            return candidate
    return None


def offline() -> Place:
    """A machine without network after the installation: a network namespace of its own, or, where
    that is not allowed, proxies that refuse."""
    allowed = subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0
    refuse = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    how = "unshare -n" if allowed else "proxies that refuse"
    prefix = ("unshare", "-n") if allowed else ()
    return Place(f"offline ({how})", None, prefix=prefix, more={} if allowed else refuse)


def clone_facts(clone: Path, environment: dict[str, str]) -> str:
    """The versions that were installed, for the record."""
    python = Path(environment.get("TODM_VENV", clone / ".venv")) / "bin/python"
    code = (
        "import sys, torch, numpy, importlib.util as u; print('Python', sys.version.split()[0], "
        "'torch', torch.__version__, 'numpy', numpy.__version__, "
        "'fast_rnnt' if u.find_spec('fast_rnnt') else 'no fast_rnnt')"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment)
    return last_line(done.stdout + done.stderr)
