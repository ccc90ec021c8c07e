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
from todm.learned_selection.selection_report import draw_scores
from todm.recipe.command_line import setup_logging
from todm.recipe.stages import STAGES
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from todm.training.experiment import load_experiment
from utils.curves import scalars
from utils.distributed import local_device
from utils.errors import UserError
from utils.files import read_json, write_json_atomic

CURVES = (
    "dev loss per frame/largest",
    "dev loss per frame/middle",
    "dev loss per frame/smallest",
    "train loss per frame/largest",
)
CURVE_POINTS = 100


def record(config: Config, path: Path, facts: dict, nets: list[str]) -> None:
    """Decode the experiment of ``config`` and write ``path``."""
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
    selector = experiment.model.selector
    if nets or selector is None:
        chosen = [(None, Subnet.parse(net)) for net in nets]
    else:
        chosen = list(selector.subnets().items())
        draw_scores(
            config.exp_dir,
            selector.units,
            path.parent.parent / f"{path.stem}-scores.png",
            path.stem,
        )
    entries = [
        replace(
            describe_subnet(experiment.config, experiment.tokenizer.vocab_size, net, ""),
            budget=budget,
        )
        for budget, net in chosen
    ]
    results = decode_subnets(config, experiment, entries, device)
    write_json_atomic(path, facts | results | {"curves": curves(config.exp_dir / "tensorboard")})
    logging.info("record: %s", path)


def curves(folder: Path) -> dict[str, dict[str, str]]:
    """Losses over updates from the training's tensorboard files, thinned, as text: a line of JSON
    each."""
    found, written = {}, scalars(folder)
    for tag in CURVES:
        if tag in written:
            points = written[tag]
            steps = list(points)[:: max(1, len(points) // CURVE_POINTS)]
            found[tag] = {
                "updates": " ".join(map(str, steps)),
                "values": " ".join(f"{points[s]:.4f}" for s in steps),
            }
    return found


def main() -> None:
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
    job = read_json(arguments.job)
    os.environ["TODM_COMMAND"] = job["facts"]["command"]
    try:
        record(load(job["conf"], job["overrides"]), Path(job["record"]), job["facts"], job["nets"])
    except UserError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
