"""The torture: every section's trials, a table, and a JSON file.

    python -m tests.torture                             # all sections: some hours
    python -m tests.torture --short                     # the form that the tests run: 2 minutes
    python -m tests.torture --sections kills damage --seed 2 --json results/torture.json
    python -m tests.torture --show results/torture.json # its table, for docs/reliability.md

Every trial that is lost is printed when it happens. Exit status 1 if one was.
"""

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tests.torture.report import lost_list, table
from tests.torture.trials import Setting
from utils.files import read_json, write_json_atomic
from utils.progress import progress
from utils.provenance import provenance

SECTIONS = {  # the module of each, which has a function ``trials``
    "kills": "stages and trainings are killed, and the same command goes on",
    "disks": "the disk is full, slow, read-only, or may not be written",
    "damage": "files of data/ and exp/ are damaged, one after the other",
    "hostile": "audio, transcripts, confs, checkpoints and folders made to attack",
    "numbers": "inf, NaN and huge values in features, losses and the scaler",
    "soak": "hours of training and of a stream: memory, descriptors, threads, speed",
    "load": "thousands of files, an audio of hours, trainings at once",
    "machines": "clean machines: versions of Python and of packages, paths, offline",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the sections and reports; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:<9} {what}" for name, what in SECTIONS.items()),
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="a few trials of every kind")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="the file that gets (or keeps) all trials")
    parser.add_argument(
        "--show", type=Path, help="print the table of such a file, and nothing else"
    )
    options = parser.parse_args(arguments)
    if options.show:
        print(table(read_json(options.show)))
        return 0
    result: dict = {"sections": {}}
    if options.json and options.json.exists():  # sections of earlier runs stay
        result = read_json(options.json)
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        for name in options.sections:
            for section in run_section(name, folder / name, options):  # longer with every trial
                result["sections"][name] = section
                if options.json:
                    write_json_atomic(options.json, result)
    print(table(result))
    lost = [line for name in options.sections for line in lost_list(result["sections"][name])]
    print("\n".join(lost))
    return 1 if lost else 0


def run_section(name: str, folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    """Runs one section in a folder; yields its trials so far after each, with how and where they
    are run. An experiment that an earlier call has finished in the folder is used again."""
    section = importlib.import_module(f"tests.torture.{name}").trials
    folder.mkdir(parents=True, exist_ok=True)
    begin, done, where = time.monotonic(), [], provenance()
    with progress(section(Setting(folder, options.seed, options.short)), desc=name) as bar:
        for trial in bar:
            done.append(asdict(trial))
            if not trial.survived:
                bar.write(f"LOST {name}: {trial.what}: {trial.found}", file=sys.stderr)
            yield {
                "seed": options.seed,
                "short": options.short,
                "seconds": round(time.monotonic() - begin, 1),
                **where,
                "trials": done,
            }


if __name__ == "__main__":
    sys.exit(main())
