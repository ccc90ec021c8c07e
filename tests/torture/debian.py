"""Bare releases of Debian: README's commands as a user without root, with nothing but Python and
what README asks for.

Needs root, ``debootstrap`` and the mirror that it knows; everything stays in the section's folder.
Folders that the releases share with this machine, such as its certificates or an index of packages,
are named in ``TODM_DEBIAN_BINDS``, with colons between them.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.torture.trials import ROOT, Trial, run

PYTHON = ("python3", "python3-venv", "ca-certificates")  # of which minbase has none
BUILDING = ("python3-dev", "g++", "git")
SHARED = ("PIP_", "SSL_", "http_proxy", "https_proxy", "no_proxy")  # variables of the network
USER = "reader"
Judge = Callable[[str, subprocess.CompletedProcess, str], Trial]
# In a mount namespace of its own: whatever ends, nothing stays mounted on this machine.
ENTER = """
root=$1 script=$2; shift 2
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for folder; do mkdir -p "$root$folder"; mount --rbind "$folder" "$root$folder"; done
exec chroot "$root" su USER -s /bin/bash -c "$script"
""".replace("USER", USER)


@dataclass(frozen=True)
class Release:
    """A release with some packages.

    Attributes:
      name: as the mirror calls it. packages: beside the base.
    """

    what: str
    name: str
    packages: tuple[str, ...]


RELEASES = [
    Release("Debian 12, Python alone", "bookworm", PYTHON),
    Release("Debian 12, compiler and git", "bookworm", (*PYTHON, *BUILDING)),
    Release("Debian 13, Python alone", "trixie", PYTHON),
    Release("Debian 13, compiler and git", "trixie", (*PYTHON, *BUILDING)),
]


def missing() -> str:
    """What this machine lacks for these trials; empty: nothing."""
    if not shutil.which("debootstrap") or not shutil.which("unshare"):
        return "no debootstrap or no unshare"
    if os.geteuid():
        return "no root"
    denied = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode
    return "mounting is not allowed" if denied else ""


def bootstrap(release: Release, root: Path, timeout: float = 1800.0) -> None:
    """Installs a release in a folder, with a user and a clone of this repository in its home.

    Raises:
      subprocess.SubprocessError: the mirror can not be reached, or lacks something.
    """
    packages = f"--include={','.join(release.packages)}"
    command = ["debootstrap", "--variant=minbase", packages, release.name, str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=timeout)
    subprocess.run(["chroot", root, "useradd", "-m", USER], check=True)
    clone = root / "home" / USER / "recipe"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    subprocess.run(["chroot", root, "chown", "-R", USER, f"/home/{USER}"], check=True)


def inside(root: Path, command: list[str]) -> list[str]:
    """The command that runs another in a release's clone, as its user."""
    variables = [f"{k}={v}" for k, v in os.environ.items() if k.startswith(SHARED)]
    own = [f"HOME=/home/{USER}", "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"]
    script = f"cd ~/recipe && exec env -i {shlex.join([*own, *variables, *command])}"
    binds = [path for path in os.environ.get("TODM_DEBIAN_BINDS", "").split(":") if path]
    namespace = ["unshare", "--mount", "--propagation", "private"]
    return [*namespace, "sh", "-ec", ENTER, "sh", str(root), script, *binds]


def attempt(release: Release, root: Path, commands: list[list[str]], judge: Judge) -> Trial:
    """Installs a release and runs commands in it, until one fails."""
    try:
        bootstrap(release, root)
    except subprocess.SubprocessError as error:
        return Trial(release.what, False, f"it could not be installed: {error}")
    trial = Trial(release.what, False, "nothing was run")
    for command in commands:
        done = run(inside(root, command), ROOT, dict(os.environ))
        trial = judge(release.what, done, "debug" if "./run.sh" in command else "")
        if not trial.survived:
            return Trial(release.what, False, f"{shlex.join(command)}: {trial.found}")
    version = run(inside(root, [".venv/bin/python", "-V"]), ROOT, dict(os.environ))
    return Trial(release.what, True, f"{version.stdout.strip()}; {trial.found}")


def trials(
    folder: Path, releases: list[Release], commands: list[list[str]], judge: Judge
) -> Iterator[Trial]:
    """A trial for each release, in folders that are removed after it.

    Args:
      judge: makes a trial of what is tried, a finished command, and what it must have said.
    """
    for number, release in enumerate(releases):
        root = folder / f"debian-{number}"
        yield attempt(release, root, commands, judge)
        shutil.rmtree(root, ignore_errors=True)
