"""Decodes one run of the tables and writes its record: results, curve, settings and costs in one
small file.

python -m todm.tables.record_run exp/NAME/runs/RUN/run.json
"""

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

from todm.config.keys import Config
from todm.config.load import load
from todm.decoding.decode import decode_subnets
from todm.learned_selection.methods import restore_selector
from todm.learned_selection.selection_report import draw_scores
from todm.recipe.command_line import setup_logging
from todm.recipe.stages import STAGES
from todm.results.records import Curve, Record, RunJob
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from todm.training.experiment import load_experiment
from utils.curves import scalars
from utils.distributed import local_device
from utils.errors import UserError

CURVES = (
    "dev loss per frame/largest",
    "dev loss per frame/middle",
    "dev loss per frame/smallest",
    "train loss per frame/largest",
)
CURVE_POINTS = 100


def record(config: Config, job: RunJob) -> None:
    """Decodes the experiment of ``config`` and writes the record of the job.

    Raises:
      UserError: the training has not finished, or is another than the job's.
    """
    path = Path(job.record)
    device = local_device()
    experiment = load_experiment(config.exp_dir, config.decode.weights, config.decode.range, device)
    if experiment.update != config.train.updates:
        raise UserError(
            f"{config.exp_dir} is at update {experiment.update} of {config.train.updates}: its "
            "training has not finished"
        )
    if reasons := STAGES.changes_before(4, experiment.config, config):
        raise UserError(
            f"{config.exp_dir} holds another training than this run's: {'; '.join(reasons[:3])}"
        )
    vocab_size = experiment.tokenizer.vocab_size
    selector = restore_selector(experiment.config, vocab_size, experiment.selector)
    chosen: list[tuple[str | None, Subnet]]
    if job.nets or selector is None:
        chosen = [(None, Subnet.parse(net)) for net in job.nets]
    else:
        chosen = list(selector.subnets().items())
        draw_scores(
            config.exp_dir,
            selector.units,
            path.parent.parent / f"{path.stem}-scores.png",
            path.stem,
        )
    entries = [
        replace(describe_subnet(experiment.config, vocab_size, net, ""), budget=budget)
        for budget, net in chosen
    ]
    # not into "decode", which is stage 6's where the run is the supernet's own
    results = decode_subnets(config, experiment, entries, device, config.exp_dir / "recorded")
    Record(job.facts, results, curves(config.exp_dir / "tensorboard")).write(path)
    logging.info("record: %s", path)


def curves(folder: Path) -> dict[str, Curve]:
    """Losses over updates from the training's tensorboard files, thinned."""
    found, written = {}, scalars(folder)
    for tag in CURVES:
        if tag in written:
            points = written[tag]
            steps = list(points)[:: max(1, len(points) // CURVE_POINTS)]
            found[tag] = Curve(tuple(steps), tuple(points[step] for step in steps))
    return found


def main() -> None:
    """Reads run.json and records the run; mistakes of users end with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "job",
        type=Path,
        help="JSON: conf, overrides, nets, record (the file to write) and facts (what it says of "
        "the run)",
    )
    arguments = parser.parse_args()
    setup_logging()
    try:
        job = RunJob.read(arguments.job)
        os.environ["TODM_COMMAND"] = job.facts.command
        record(load(job.conf, list(job.overrides)), job)
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
