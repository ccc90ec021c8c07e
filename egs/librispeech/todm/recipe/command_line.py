"""The command line and the log that all scripts of the recipe share."""

import argparse
import logging
import sys
from pathlib import Path


def parse_arguments(
    description: str | None, arguments: list[str] | None = None
) -> argparse.Namespace:
    """Parses ``--conf X [--force] [key=value ...]``, as every stage script takes them.

    Returns:
      A namespace with ``conf``, ``force`` and ``overrides``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--conf",
        default="conf/mini.yaml",
        help="a YAML file; names are looked up in the recipe's conf folder",
    )
    parser.add_argument(
        "--force", action="store_true", help="redo the stage although it is finished"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="conf values to change")
    return parser.parse_args(arguments)


def setup_logging(log_file: Path | None = None) -> None:
    """Logs to the terminal, and to a file when one is given."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    # a full disk prints no traceback for every line that a log file can not take
    logging.raiseExceptions = False
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )
