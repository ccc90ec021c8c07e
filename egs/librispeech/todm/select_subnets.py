"""Stage 5: chooses the subnets that are decoded and reported. A ladder from the largest to the smallest."""

import logging
from argparse import Namespace
from pathlib import Path

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.cost import cost
from egs.librispeech.todm.experiment import load_experiment
from egs.librispeech.todm.search_space import SearchSpace
from egs.librispeech.todm.stages import stage_main
from egs.librispeech.todm.subnet import Subnet
from utils.files import read_json, write_json_atomic
from utils.stages import StageError


def describe_subnet(config: Config, vocab_size: int, subnet: Subnet, how: str) -> dict:
    """An entry of subnets.json: name, architecture, cost, dev score (None: not scored), how it was found."""
    price = cost(config, vocab_size, subnet)
    return {"name": f"{price.encoder_params / 1e6:.2f}M", "architecture": str(subnet), **price.as_dict(), "dev_score": None, "how": how}


def write_subnets(path: Path, method: str, entries: list[dict]) -> None:
    """Write subnets.json; names are made distinct."""
    seen: dict[str, int] = {}
    for entry in entries:
        count = seen[entry["name"]] = seen.get(entry["name"], 0) + 1
        entry["name"] += f"-{count}" if count > 1 else ""
    write_json_atomic(path, {"method": method, "subnets": entries})


def read_subnets(path: Path) -> list[dict]:
    """The entries of subnets.json.

    Raises:
      StageError: the file is missing.
    """
    if not path.is_file():
        raise StageError(f"{path} is missing; stage 5 makes it: ./run.sh --stage 5 --stop-stage 5")
    return read_json(path)["subnets"]


def select(config: Config, arguments: Namespace) -> None:
    import torch

    experiment = load_experiment(config.exp_dir, "last", 0, torch.device("cpu"))
    trained, vocab_size = experiment.config, experiment.tokenizer.vocab_size
    entries = [
        describe_subnet(trained, vocab_size, subnet, "uniform ladder")
        for subnet in SearchSpace(trained, vocab_size).ladder(config.select.num_subnets)
    ]
    write_subnets(config.exp_dir / "subnets.json", config.select.method, entries)
    for entry in entries:
        logging.info("%s: %s", entry["name"], entry["architecture"])


if __name__ == "__main__":
    stage_main(5, select, __doc__)
