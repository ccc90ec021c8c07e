"""Stage 5: chooses the subnets that are decoded and reported: a uniform ladder, or a search on dev under budgets."""

import logging
from argparse import Namespace

import torch

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.experiment import load_experiment
from egs.librispeech.todm.pictures import draw_front
from egs.librispeech.todm.search_space import SearchSpace
from egs.librispeech.todm.stages import stage_main
from egs.librispeech.todm.subnet_search import SubnetSearch
from egs.librispeech.todm.subnets_file import describe_subnet, write_subnets
from utils.checkpoint import CheckpointError
from utils.distributed import local_device
from utils.files import write_json_atomic
from utils.stages import StageError


def select(config: Config, arguments: Namespace) -> None:
    try:
        if config.select.method == "uniform":
            select_ladder(config)
        else:
            select_by_search(config)
    except CheckpointError as error:
        raise StageError(str(error)) from error


def select_ladder(config: Config) -> None:
    experiment = load_experiment(config.exp_dir, "last", 0, torch.device("cpu"))
    trained, vocab_size = experiment.config, experiment.tokenizer.vocab_size
    ladder = SearchSpace(trained, vocab_size).ladder(config.select.num_subnets)
    entries = [describe_subnet(trained, vocab_size, subnet, "uniform ladder") for subnet in ladder]
    write_subnets(config.exp_dir / "subnets.json", config.select.method, entries)
    for entry in entries:
        logging.info("%s: %s", entry["name"], entry["architecture"])


def select_by_search(config: Config) -> None:
    device, folder = local_device(), config.exp_dir / "search"
    experiment = load_experiment(config.exp_dir, config.decode.weights, config.decode.range, device)
    logging.info("weights: %s; scores are of dev (%s) alone", experiment.weights, ", ".join(config.data.dev))
    search = SubnetSearch(config, experiment, folder, device)
    search.run()
    found = search.as_dict()
    write_json_atomic(folder / "search.json", found)
    draw_front(found, folder / "front.png")
    method = config.select.method
    baselines = [entry for how in search.candidates if how != method for entry in search.entries(how)]
    write_subnets(config.exp_dir / "subnets.json", method, search.entries(method), baselines)
    for entry in search.entries(method) + baselines:
        logging.info("%s (%s, budget %s): dev WER %.2f, loss %.4f: %s", entry["name"], entry["how"], entry["budget"], entry["dev_score"],
                     entry["dev_loss"], entry["architecture"])
    logging.info("every candidate: %s; picture: %s", folder / "search.json", folder / "front.png")


if __name__ == "__main__":
    stage_main(5, select, __doc__)
