"""Stage 5: chooses the subnets that are decoded and reported: a uniform ladder, a search on dev
under budgets, or what training has learnt."""

import logging
from argparse import Namespace
from dataclasses import replace

import torch

from todm.config.keys import LEARNED, Config
from todm.learned_selection.methods import restore_selector
from todm.learned_selection.score_file import selection_folder
from todm.learned_selection.selection_report import draw_masks, draw_scores
from todm.recipe.stage_main import stage_main
from todm.results.subnets import write_subnets
from todm.search.search_report import draw_front
from todm.search.subnet_search import SubnetSearch
from todm.supernet.budget import UNIT_OF_COST
from todm.supernet.cost import describe_subnet
from todm.supernet.search_space import SearchSpace
from todm.training.experiment import load_experiment
from utils.distributed import local_device
from utils.errors import UserError
from utils.files import write_json_atomic


def select(config: Config, arguments: Namespace) -> None:
    """Chooses the subnets in the way of ``select.method`` and writes subnets.json (stage 5)."""
    if config.select.method == "uniform":
        select_ladder(config)
    elif config.select.method in LEARNED:
        select_learned(config)
    else:
        select_by_search(config)


def select_ladder(config: Config) -> None:
    """Chooses uniform nets from the largest to the smallest, without a look at dev."""
    experiment = load_experiment(config.exp_dir, "last", 0, torch.device("cpu"))
    trained, vocab_size = experiment.config, experiment.tokenizer.vocab_size
    ladder = SearchSpace(trained, vocab_size).ladder(config.select.num_subnets)
    entries = [describe_subnet(trained, vocab_size, subnet, "uniform ladder") for subnet in ladder]
    path = config.exp_dir / "subnets.json"
    for entry in write_subnets(path, config.select.method, entries):
        logging.info("%s: %s", entry.name, entry.subnet)


def select_learned(config: Config) -> None:
    """Chooses the nets of the masks that training has frozen.

    Raises:
      UserError: the experiment has none.
    """
    experiment = load_experiment(config.exp_dir, "last", 0, torch.device("cpu"))
    trained, vocab_size = experiment.config, experiment.tokenizer.vocab_size
    selector = restore_selector(trained, vocab_size, experiment.selector)
    if selector is None or not selector.frozen:
        raise UserError(
            f"{config.exp_dir} has no frozen masks: stage 4 with "
            f"select.method={config.select.method} makes them: "
            "./run.sh --stage 4 --stop-stage 4"
        )
    how = f"{config.select.method} ({trained.learn.granularity}-wise)"
    entries = []
    for budget, subnet in selector.subnets().items():
        entry = replace(
            describe_subnet(trained, vocab_size, subnet, how),
            budget=budget,
            cost=selector.units.cost(subnet),
            limit=round(selector.budgets[budget], 4),
            cost_unit=UNIT_OF_COST[trained.search.cost],
        )
        entries.append(entry)
    path = config.exp_dir / "subnets.json"
    for entry in write_subnets(path, config.select.method, entries):
        logging.info("%s (%s, budget %s): %s", entry.name, how, entry.budget, entry.subnet)
    folder = selection_folder(config.exp_dir)
    draw_scores(config.exp_dir, selector.units, folder / "scores.png", f"{config.name}: {how}")
    draw_masks({str(e.budget): e.subnet for e in entries}, folder / "masks.png", how)
    logging.info("pictures: %s, %s", folder / "scores.png", folder / "masks.png")


def select_by_search(config: Config) -> None:
    """Searches the best net for every budget on dev."""
    device, folder = local_device(), config.exp_dir / "search"
    experiment = load_experiment(config.exp_dir, config.decode.weights, config.decode.range, device)
    logging.info(
        "weights: %s; scores are of dev (%s) alone", experiment.weights, ", ".join(config.data.dev)
    )
    search = SubnetSearch(config, experiment, folder, device)
    search.run()
    found = search.results()
    write_json_atomic(folder / "search.json", found.as_dict())
    draw_front(found, folder / "front.png")
    method = config.select.method
    baselines = [
        entry for how in search.candidates if how != method for entry in search.entries(how)
    ]
    path = config.exp_dir / "subnets.json"
    for entry in write_subnets(path, method, search.entries(method), baselines):
        logging.info(
            "%s (%s, budget %s): dev WER %.2f, loss %.4f: %s",
            entry.name,
            entry.how,
            entry.budget,
            entry.dev_score,
            entry.dev_loss,
            entry.subnet,
        )
    logging.info("every candidate: %s; picture: %s", folder / "search.json", folder / "front.png")


def main() -> None:
    """Runs stage 5 from the command line."""
    stage_main(5, select, __doc__)


if __name__ == "__main__":
    main()
