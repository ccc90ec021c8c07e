"""Stage 0, a corpus in LibriSpeech layout: makes the embedded one, downloads one, or checks the
folder that is given."""

import contextlib
import difflib
import gzip
import logging
import os
import tarfile
import zlib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lhotse.recipes import download_librispeech

from local import synthetic
from todm.config.keys import Config
from todm.recipe.stage_main import stage_main
from utils.errors import UserError
from utils.files import WRITE_ERRORS
from utils.text import first_line

SMALL_ARCHIVE = 1 << 26  # bytes that any archive may unpack to


def jobs(config: Config) -> int:
    """The number of processes of the data stages."""
    return config.data.num_jobs or os.cpu_count() or 1


def make_corpus(config: Config, arguments: Namespace) -> None:
    """Makes the corpus that the conf asks for."""
    check_names(config.splits)
    check_sources(config)
    if not config.splits_in_root:
        logging.info("no corpus is needed: %s", ", ".join(config.data.paths))
    elif config.data.root:
        check_folder(config)
    elif config.is_synthetic:
        make_synthetic(config)
    elif config.data.corpus == "folder":
        raise UserError(
            f"{', '.join(config.splits_in_root)}: data.corpus=folder needs data.root, the folder "
            "that holds these splits (data.root=/path/to/LibriSpeech), or a path for each of them "
            "(data.train=[my.tsv] data.dev=[dev.tsv] data.test=[]; docs/own-corpus.md)"
        )
    else:
        download(config)


def check_names(splits: list[str]) -> None:
    """Checks the names of splits: each is a folder below the corpus, ``dev`` or ``english/dev``,
    and also names files in the data folder.

    Raises:
      UserError: one can not be such a name, or lies in another.
    """
    for name in splits:
        if (
            not name
            or os.path.isabs(name)
            or os.path.normpath(name) != name
            or name.split(os.sep)[0] in (os.curdir, os.pardir)
        ):
            raise UserError(
                f"the split {name!r} of data.train, data.dev or data.test is not the name of a "
                "folder below the corpus; "
                "write it as in dev-clean or english/dev, without / at either end, . and .."
            )
        above = [other for other in splits if name.startswith(other + os.sep)]
        if above:
            raise UserError(
                f"the split {name} lies in the split {above[0]}, whose utterances it would share; "
                f"name the folders in {above[0]} one by one"
            )


def check_sources(config: Config) -> None:
    """Checks that the splits with a path of their own are there, and that none lies in another.

    Raises:
      UserError: one is not; the message names what is beside it.
    """
    for split in config.splits:
        path = config.source(split)
        if split in config.splits_in_root or path.exists():
            continue
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, 5, 0.4) or beside[:5]
        raise UserError(
            f"{path}, the split {split}, is not there; its folder has "
            f"{', '.join(close) or 'nothing'}"
            if path.parent.is_dir()
            else f"{path}, the split {split}, is not there, nor is its folder"
        )
    real = {split: config.source(split).resolve() for split in config.splits}
    for split, path in real.items():
        for other, outer in real.items():
            if split != other and (outer == path or outer in path.parents):
                raise UserError(
                    f"the split {split} ({path}) lies in the split {other} ({outer}): the same "
                    "utterances would be in both"
                )


def make_synthetic(config: Config) -> None:
    """Makes the embedded corpus.

    Raises:
      UserError: the conf asks for more voices than there are, or for more splits than three.
    """
    if elsewhere := [name for name in config.splits if name not in config.splits_in_root]:
        raise UserError(
            f"{', '.join(config.splits_in_root)} would be of the synthetic corpus, beside "
            f"{', '.join(elsewhere)}; give a path for each of data.train, data.dev and data.test, "
            "or data.root, the folder of those without one"
        )
    for group in ("train", "dev", "test"):
        if len(getattr(config.data, group)) != 1:
            raise UserError(f"the synthetic corpus has one split each: give data.{group} one name")
    splits = {"train": config.data.train[0], "dev": config.data.dev[0], "test": config.data.test[0]}
    try:
        hours = synthetic.make_corpus(config.synthetic, config.corpus_root, splits, jobs(config))
    except ValueError as error:
        raise UserError(str(error)) from error
    for split, value in hours.items():
        logging.info(
            "synthetic speech, %s: %.2f h in %s", split, value, config.corpus_root / splits[split]
        )


def check_folder(config: Config) -> None:
    """Checks that the corpus folder holds every split.

    Raises:
      UserError: it does not.
    """
    root = config.corpus_root
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder")
    missing = [name for name in config.splits_in_root if not (root / name).is_dir()]
    if missing:
        there = sorted(p.name for p in root.iterdir() if p.is_dir())
        raise UserError(
            f"data.root={root} has no folder {', '.join(missing)}; it has: "
            f"{', '.join(there) or 'no folders'}. "
            "Say which are which: data.train=[...] data.dev=[...] data.test=[...]"
        )
    logging.info("using %s: %s", root, ", ".join(config.splits))


@contextlib.contextmanager
def contained(target: Path) -> Iterator[None]:
    """Lets tarfile unpack nothing but files and folders inside the folder that it unpacks into, no
    links that lead out, and no more than twice what the archives in ``target`` hold: FLAC can not
    be compressed. (Python before 3.10.12 and 3.11.4 takes no notice.)"""
    unpacked = 0

    def inside(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        nonlocal unpacked
        unpacked += member.size
        archives = sum(file.stat().st_size for file in target.glob("*.tar.gz"))
        if unpacked > 2 * archives + SMALL_ARCHIVE:
            raise tarfile.TarError(f"it would be more than {unpacked:,} bytes when unpacked")
        return tarfile.data_filter(member, path)

    kind: Any = tarfile.TarFile
    before = getattr(kind, "extraction_filter", None)
    kind.extraction_filter = staticmethod(inside)
    try:
        yield
    except Exception as error:
        # lhotse has no type of its own for an archive whose names lead out
        if type(error) is Exception:
            raise tarfile.TarError(str(error)) from error
        raise
    finally:
        kind.extraction_filter = before


def download(config: Config) -> None:
    """Downloads LibriSpeech or mini LibriSpeech through lhotse; parts that are complete are not
    fetched again.

    Raises:
      UserError: the download fails, or what came can not be unpacked.
    """
    target = config.corpus_root.parent
    target.mkdir(parents=True, exist_ok=True)
    # lhotse knows mini LibriSpeech's dev split as dev-clean-2, and takes the server from the names
    # of the parts.
    mini = config.data.corpus == "mini-librispeech"
    parts = "mini_librispeech" if mini else config.splits_in_root
    try:
        with contained(target):
            download_librispeech(target, dataset_parts=parts)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"an archive in {target} is damaged ({first_line(error)}); delete it and run again"
        ) from error
    except OSError as error:  # urllib's errors are OSErrors
        if error.errno in WRITE_ERRORS:
            raise
        raise UserError(
            f"the download failed: {error}. Without internet, copy the corpus here and give its "
            "folder: data.root=/path/to/LibriSpeech"
        ) from error


def main() -> None:
    """Runs stage 0 from the command line."""
    stage_main(0, make_corpus, __doc__)


if __name__ == "__main__":
    main()
