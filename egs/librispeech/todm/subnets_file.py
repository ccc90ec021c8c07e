"""subnets.json: the subnets that stage 5 chose, and that decoding, export and the report read."""

from pathlib import Path

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.cost import cost
from egs.librispeech.todm.subnet import Subnet
from utils.files import read_json, write_json_atomic
from utils.stages import StageError


def describe_subnet(config: Config, vocab_size: int, subnet: Subnet, how: str) -> dict:
    """An entry of subnets.json: name, architecture, cost, dev score (WER in percent; None: not
    scored), how it was found."""
    price = cost(config, vocab_size, subnet)
    return {
        "name": f"{price.encoder_params / 1e6:.2f}M",
        "architecture": str(subnet),
        **price.as_dict(),
        "dev_score": None,
        "how": how,
    }


def write_subnets(path: Path, method: str, entries: list[dict], baselines: list[dict] = ()) -> None:
    """Write subnets.json; names are made distinct.

    Args:
      baselines: entries found in other ways, decoded and reported for comparison but not deployed.
    """
    seen: dict[str, int] = {}
    for entry in [*entries, *baselines]:
        count = seen[entry["name"]] = seen.get(entry["name"], 0) + 1
        entry["name"] += f"-{count}" if count > 1 else ""
    write_json_atomic(path, {"method": method, "subnets": entries, "baselines": list(baselines)})


def read_subnets(path: Path, baselines: bool = False) -> list[dict]:
    """The entries of subnets.json, with the baselines after them if they are asked for.

    Raises:
      StageError: the file is missing.
    """
    if not path.is_file():
        raise StageError(f"{path} is missing; stage 5 makes it: ./run.sh --stage 5 --stop-stage 5")
    content = read_json(path)
    return content["subnets"] + (content.get("baselines", []) if baselines else [])
