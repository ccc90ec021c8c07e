"""Makes the lock files: every package with its version and the hashes of its files, for CPython
3.10 to 3.13 on Linux and x86-64.

    pip install uv
    python -m local.make_lock torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl

``requirements.lock`` has everything but torch; ``requirements-cuda.lock`` has the torch of the
package index and the libraries that it asks for; ``requirements-cpu.lock`` has the wheels that are
named, CPU-only builds of the same version. ``local/setup.sh --locked`` installs from them.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from utils.files import write_text_atomic

SOURCES = ["requirements.txt", "requirements-build.txt"]
OLDEST = "3.10"
# The same in all lines: the files are for nothing else.
EVERYWHERE = re.compile(
    r" and (implementation_name == 'cpython'|platform_machine == 'x86_64'|sys_platform == 'linux'"
    r"|platform_python_implementation != 'PyPy')"
)
EVERY_PYTHON = re.compile(
    r" ; python_full_version < '3\.14'(?= )|(?<=') and python_full_version < '3\.14'"
)
TORCH = re.compile(r"torch==(\S+)")
OF_CUDA = re.compile(
    r"(nvidia-|cuda-|triton==|torch==)"
)  # torch for CUDA, and what it alone asks for
HEAD = "# Made by local/make_lock.py for Linux on x86-64; local/setup.sh --locked installs it.\n"


def main(wheels: list[Path]) -> None:
    """Writes the files beside requirements.txt."""
    command = ["uv", "pip", "compile", "--universal", "--python-version", OLDEST, "--no-build"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet", *SOURCES]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    entries = [simplified(entry) for entry in re.split(r"\n(?=\S)", made.strip())]
    torch = next(match[1] for entry in entries if (match := TORCH.match(entry)))
    files = {
        "requirements.lock": [e for e in entries if not OF_CUDA.match(e)],
        "requirements-cuda.lock": [e for e in entries if OF_CUDA.match(e)],
        "requirements-cpu.lock": [cpu_entry(torch, wheels)],
    }
    for name, chosen in files.items():
        write_text_atomic(Path(name), HEAD + "\n".join(chosen) + "\n")


def simplified(entry: str) -> str:
    """A package's lines without conditions that always hold."""
    return EVERY_PYTHON.sub("", EVERYWHERE.sub("", entry))


def cpu_entry(version: str, wheels: list[Path]) -> str:
    """Torch's CPU-only build with the hashes of its wheels.

    Raises:
      ValueError: a wheel is of another version.
    """
    lines = [f"torch=={version}+cpu"]
    for wheel in wheels:
        if not wheel.name.startswith(f"torch-{version}+cpu-"):
            raise ValueError(f"{wheel.name}: it must be of torch {version}+cpu")
        lines.append(f"--hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
    return " \\\n    ".join(lines)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
