"""local/setup.sh with a stand-in for the environment's Python, and the lock files."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT
from tests.torture.machines import COMPILERS, programs_without
from tests.waiting import until

PYTHONS = ("3.10.0", "3.11.9", "3.12.0", "3.13.5")
# Notes its arguments; a package can be imported when it has been built.
PYTHON = """#!/bin/sh
here=${0%/bin/python}
case "$*" in
  *"import fast_rnnt"*) [ -f "$here/built" ] ;;
  *"import k2"*) exit 1 ;;
  *torch.version.cuda*) # prints an empty line for a CPU build
    echo "$CUDA_OF_TORCH" ;;
  *--cmakedir) echo "$here/lib/python3/site-packages/pybind11/share/cmake/pybind11" ;;
  *get_path*) echo /usr/include ;;
  *requirements.source.txt)
    printf '%s' "$FT_CMAKE_ARGS" >"$here/cmake-args"
    cat "$here/requirements.source.txt" >>"$here/installed"
    [ -n "$BUILD_FAILS" ] || touch "$here/built" ;;
  *" install "*)
    while [ -n "$HELD" ] && [ ! -e "$HELD" ]; do sleep 0.05; done
    echo "$*" >>"$here/installed" ;;
esac
"""


@pytest.fixture
def venv(tmp_path) -> Path:
    """An environment in a path with spaces and accents whose Python is a stand-in."""
    folder = tmp_path / "mit Leerzeichen und Ümlaut" / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder.parent / "compiler").mkdir()
    (folder.parent / "compiler/c++").touch(0o755)  # which is only looked for
    (folder / "bin/python").write_text(PYTHON)
    (folder / "bin/python").chmod(0o755)
    return folder


def setup(venv: Path, *arguments: str, **environment: str) -> str:
    """Runs local/setup.sh, where there is a compiler; what it says."""
    path = f"{venv.parent / 'compiler'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [ROOT / "local/setup.sh", *arguments],
        env=os.environ | {"TODM_VENV": str(venv), "FAST_RNNT_CUDA": "", "PATH": path} | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_runs_that_begin_at_once_install_once(venv):
    """Torch is there as a CPU-only build, so that nothing else is asked for."""
    other = venv.parent / "other"
    shutil.copytree(venv, other)
    setup(other)
    go, logs = venv.parent / "go", [venv.parent / f"{number}.log" for number in range(3)]
    environment = os.environ | {"TODM_VENV": str(venv), "FAST_RNNT_CUDA": "", "HELD": str(go)}
    together = []
    for log in logs:
        with open(log, "w") as output:
            command = [ROOT / "local/setup.sh"]
            together.append(subprocess.Popen(command, env=environment, stdout=output))

    def waiting() -> int:
        return sum("waiting until it has finished" in log.read_text() for log in logs)

    assert until(lambda: waiting() == 2)
    go.touch()
    assert [process.wait(timeout=300) for process in together] == [0, 0, 0]
    assert waiting() == 2
    assert installed(venv).count("\n") == installed(other).count("\n") > 1


def installed(venv: Path) -> str:
    return (venv / "installed").read_text() if (venv / "installed").exists() else ""


def test_fast_rnnt_is_built_in_a_path_with_spaces(venv, tmp_path):
    """Its build cuts its arguments at spaces."""
    assert "WARNING" not in setup(venv, TMPDIR=str(tmp_path))
    words = (venv / "cmake-args").read_text().split()
    assert len(words) >= 5 and all(word.startswith("-D") for word in words)
    assert words == shlex.split(" ".join(words))
    assert [path.name for path in tmp_path.iterdir()] == [venv.parent.name]  # nothing is left
    assert re.search(r"^fast_rnnt==\S+ --hash=sha256:[0-9a-f]{64}$", installed(venv), re.MULTILINE)


def test_without_a_compiler_it_says_what_is_slower(venv, tmp_path):
    path = programs_without(COMPILERS, tmp_path / "programs")
    assert "WARNING: no C++ compiler found" in setup(venv, PATH=str(path))
    assert not (venv / "built").exists()


@pytest.mark.parametrize("cuda", ["", "13.0"])
def test_a_build_that_fails_beside_torch_for_cuda_says_what_is_missing(venv, tmp_path, cuda):
    path = programs_without("nvcc", tmp_path / "programs")
    environment = {"PATH": str(path), "CUDA_HOME": str(tmp_path), "CUDA_OF_TORCH": cuda}
    said = setup(venv, BUILD_FAILS="yes", **environment)
    assert "WARNING: fast_rnnt could not be built" in said
    assert ("needs the CUDA toolkit (nvcc)" in said) == bool(cuda)


def test_locked_installs_from_the_lock_files_once(venv):
    setup(venv, "--locked")
    commands = [line for line in installed(venv).splitlines() if " install " in line]
    assert "--no-deps --require-hashes -r requirements.lock" in commands[0]
    assert not [c for c in commands if "--upgrade" in c or "requirements.most" in c]
    before = installed(venv)
    assert setup(venv) == setup(venv, "--locked") == "" and installed(venv) == before


def test_what_is_there_is_no_substitute_for_locked_versions(venv):
    setup(venv)
    assert "requirements.lock" not in installed(venv)
    setup(venv, "--locked")
    assert "requirements.lock" in installed(venv)


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """The packages of a lock file, with their hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line.split(" --hash=") for line in text.splitlines() if not line.startswith("#")]
    return [(Requirement(line[0]), [h.strip() for h in line[1:]]) for line in lines]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("torch", ["requirements-cpu.lock", "requirements-cuda.lock"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_the_requirements(python, torch):
    """Every package once, in a version that is asked for."""
    machine = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "extra": "",
    }
    versions: dict[str, list[Version]] = {}
    for entry, _ in [*entries("requirements.lock"), *entries(torch)]:
        if entry.marker is None or entry.marker.evaluate(machine):
            (pin,) = entry.specifier
            assert pin.operator == "=="
            versions.setdefault(normal(entry.name), []).append(Version(pin.version))
    assert all(len(found) == 1 for found in versions.values())
    asked = [
        Requirement(line.partition("#")[0])
        for name in ("requirements.txt", "requirements-build.txt")
        for line in (ROOT / name).read_text().splitlines()
        if re.match(r"[a-zA-Z]", line)
    ]
    assert len(asked) > 30
    for requirement in asked:
        assert versions[normal(requirement.name)][0] in requirement.specifier, requirement


@pytest.mark.parametrize("name", [path.name for path in sorted(ROOT.glob("requirements*.lock"))])
def test_every_locked_file_has_a_hash_and_no_place(name):
    assert "://" not in (ROOT / name).read_text()
    for entry, hashes in entries(name):
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", h) for h in hashes), entry
