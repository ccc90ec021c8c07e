"""subnets.json: the subnets that stage 5 chose, and that decoding, export and the report read."""

from pathlib import Path

from utils.errors import UserError
from utils.files import read_json, write_json_atomic


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
      UserError: the file is missing.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; stage 5 makes it: ./run.sh --stage 5 --stop-stage 5")
    content = read_json(path)
    return content["subnets"] + (content.get("baselines", []) if baselines else [])
