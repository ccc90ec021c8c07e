"""Stage 4: trains the supernet. The same command after a kill goes on from the last checkpoint.

On several GPUs run.sh starts this through torchrun; on a CPU and on one GPU it is a plain process.
"""

import json
import logging
import time
from argparse import Namespace
from pathlib import Path

import torch

from todm.config.keys import Config
from todm.recipe.command_line import setup_logging
from todm.recipe.lineage import data_changes, training_data
from todm.recipe.stage_main import stage_main
from todm.recipe.stages import STAGES
from todm.supernet.budget import check_budgets
from todm.training.experiment import checkpoint_folder
from todm.training.initial import trained_values
from todm.training.optimization import slower_than_fp32
from todm.training.trainer import Trainer
from utils import conf as configuration
from utils import distributed
from utils.checkpoint import CheckpointError, list_checkpoints, load_finite, load_newest
from utils.errors import UserError
from utils.locks import LOCK


def reasons_to_begin_anew(config: Config, state: dict) -> list[str]:
    """The reasons why the checkpoints of another training are unusable for this one; without any,
    this one goes on from them."""
    saved = configuration.from_dict(Config, state["config"])
    reasons = STAGES.changes_before(4, saved, config) + data_changes(
        state.get("data"), training_data(config)
    )
    if state["update"] > config.train.updates:
        reasons.append(
            f"train.updates is {config.train.updates}, and the last checkpoint is of update "
            f"{state['update']} already"
        )
    return reasons


def archive(config: Config, reason: str) -> None:
    """Move an earlier training's files aside; nothing a user trained is ever deleted."""
    begin = config.exp_dir / "earlier" / time.strftime("%Y%m%d-%H%M%S")
    target = next(
        t
        for i in range(1, 1000)
        if not (t := begin.with_name(begin.name + (f"-{i}" if i > 1 else ""))).exists()
    )
    target.mkdir(parents=True)
    for path in sorted(config.exp_dir.iterdir()):
        if path.name not in ("earlier", ".stamps", LOCK):
            path.rename(target / path.name)
    logging.info("a new training, because %s. The earlier one was moved to %s", reason, target)


def previous_state(config: Config, force: bool) -> dict | None:
    """The checkpoint to go on from, after moving aside what does not fit this conf."""
    folder = checkpoint_folder(config.exp_dir)
    if not list_checkpoints(folder):
        return None
    newest = load_newest(folder)
    if newest is None:
        raise UserError(
            f"no checkpoint in {folder} can be read; --force moves them aside and starts anew"
        )
    state = newest[1]
    reasons = ["--force was given"] if force else reasons_to_begin_anew(config, state)
    if not reasons:
        judge_earlier(config, newest[0])
        return state
    if config.train.init:
        trained_values(Path(config.train.init))  # an error here leaves everything where it is
    archive(config, "; ".join(reasons[:3]))
    return None


def judge_earlier(config: Config, newest: int) -> None:
    """Looks for damage in the checkpoints before the one that a training goes on from; the mean of
    the weights may begin at one of them.

    Raises:
      UserError: one is damaged, and training is over, so that no later one will take its place.
    """
    for update, path in list_checkpoints(checkpoint_folder(config.exp_dir)):
        if update >= newest:
            break
        try:
            load_finite(path)
        except CheckpointError as error:
            if newest < config.train.updates:
                logging.warning("%s", error)
                continue
            raise UserError(
                f"{error}.\nThe mean of the weights (decode.range) may begin there. Move it away "
                "to do with the others, and the mean may be over other updates; or move it and "
                "all later ones away, and the updates after the one before it are trained again"
            ) from error


def planned_updates(config: Config, state: dict | None) -> int:
    """The updates that the shares in the conf are of: those that the training began with, from its
    checkpoint (older ones had no shares), unless there are fewer now."""
    if state is None:
        return config.train.updates
    began = state.get("planned", state["config"]["train"]["updates"])
    if began < config.train.updates:
        logging.info("phases stay as the training began: shares are of %d updates", began)
    return min(began, config.train.updates)


def train(config: Config, arguments: Namespace) -> None:
    """Train, or go on training, as one of the processes of stage 4."""
    rank, world_size = distributed.setup()
    device = distributed.local_device()
    state = previous_state(config, arguments.force) if rank == 0 else None
    distributed.barrier()  # the first rank may have moved an earlier training aside
    if rank > 0:
        state = previous_state(config, force=False)
    setup_logging(config.exp_dir / "train.log" if rank == 0 else None)
    if rank > 0:
        logging.getLogger().setLevel(logging.WARNING)
    if rank == 0:
        configuration.save(config, config.exp_dir / "conf.yaml")
    trainer = Trainer(config, device, rank, world_size, planned_updates(config, state))
    check_budgets(config, trainer.space)
    for name, net in trainer.space.ends().items():
        logging.info("%s net: %s", name, json.dumps(trainer.space.costs.cost(net).as_dict()))
    logging.info("%d process(es) on %s, torch %s", world_size, device, torch.__version__)
    warn_of_slow_precision(config.train.precision, device)
    if state is None and config.train.init:
        trainer.start_from(Path(config.train.init))
    if state is not None:
        trainer.load(state)
        logging.info(
            "going on from update %d (epoch %d, batch %d)",
            trainer.update,
            trainer.stream.epoch,
            trainer.stream.batch,
        )
    try:
        trainer.run()
    finally:
        distributed.cleanup()


def warn_of_slow_precision(precision: str, device: torch.device) -> None:
    """Many CPUs take far longer in bf16 than in fp32; a training would look stuck."""
    if (
        device.type == "cpu"
        and precision != "fp32"
        and (ratio := slower_than_fp32(precision)) > 1.5
    ):
        logging.warning(
            "train.precision=%s: this CPU multiplies matrices %.0f times slower in it than in "
            "fp32; use train.precision=fp32",
            precision,
            ratio,
        )


def main() -> None:
    """Runs stage 4 from the command line."""
    stage_main(4, train, __doc__)


if __name__ == "__main__":
    main()
