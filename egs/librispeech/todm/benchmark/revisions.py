"""The revisions of the repository that are measured: this checkout, and another commit."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from todm.config.paths import ROOT
from utils.errors import UserError


@dataclass(frozen=True)
class Revision:
    """The code of one side.

    Attributes:
      root: the folder of the repository at this revision.
      commit: its name; empty: this checkout, whose commit the worker tells.
      overrides: ``key=value`` each, of its confs.
    """

    root: Path
    commit: str = ""
    overrides: tuple[str, ...] = ()

    @property
    def python_path(self) -> str:
        """The folders that its modules are imported from, as its path.sh says."""
        recipe = self.root / "egs" / "librispeech"
        if (recipe / "__init__.py").is_file():  # modules are egs.librispeech.todm.*
            return str(self.root)
        return f"{self.root}:{recipe}"

    def conf(self, path: Path) -> Path:
        """This revision's own file of a conf of this checkout; a conf outside the repository is the
        same for all."""
        path = path.resolve()
        return self.root / path.relative_to(ROOT) if ROOT in path.parents else path


@contextlib.contextmanager
def checked_out(revision: str, overrides: tuple[str, ...] = ()) -> Iterator[Revision]:
    """Gives a revision in a temporary folder, which is removed when the block ends.

    Raises:
      UserError: this is no git checkout, or it has no such revision.
    """
    commit = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
    with tempfile.TemporaryDirectory(prefix="todm-benchmark-") as folder:
        archive = Path(folder) / "archive.tar"
        _git("archive", f"--output={archive}", commit)
        root = Path(folder) / "repository"
        root.mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", root], check=True)
        archive.unlink()
        yield Revision(root, commit, overrides)


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        raise UserError("--compare needs git, which is not installed") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or "there is no such revision"
        raise UserError(f"--compare: git {' '.join(arguments)}: {said}") from None
