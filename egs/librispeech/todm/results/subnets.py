"""subnets.json: the subnets that stage 5 chose, and that decoding, export and the report read."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from todm.subnet import Subnet
from utils.errors import UserError
from utils.files import read_json, write_json_atomic
from utils.text import first_line, folder_name_problem


@dataclass(frozen=True)
class SubnetEntry:
    """A subnet with its name and costs, and how it was chosen.

    Attributes:
      name: unique in its file, and the name of its folder when it is exported.
      encoder_params, total_params: numbers of parameters.
      macs_per_second: multiply-accumulates per second of audio.
      how: the way in which it was found, for people.
      dev_score: WER on dev in percent; None: it was not scored.
      dev_loss: transducer loss per frame on the search's part of dev.
      budget: the item of ``search.budgets`` it was chosen for, as the conf has it.
      cost, limit: its cost and the budget's bound, both in ``cost_unit``.
    """

    name: str
    subnet: Subnet
    encoder_params: int
    total_params: int
    macs_per_second: int
    how: str
    dev_score: float | None = None
    dev_loss: float | None = None
    budget: str | None = None
    cost: float | None = None
    limit: float | None = None
    cost_unit: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON files have it; what a search alone knows is left out without one."""
        required = {
            "name": self.name,
            "architecture": str(self.subnet),
            "encoder_params": self.encoder_params,
            "total_params": self.total_params,
            "macs_per_second": self.macs_per_second,
            "dev_score": self.dev_score,
            "how": self.how,
        }
        searched = {key: getattr(self, key) for key in SEARCHED}
        return required | {key: value for key, value in searched.items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SubnetEntry":
        """The inverse of :meth:`as_dict`; other keys are left alone.

        Raises:
          UserError: a key is missing, the architecture is none, or the name would not name a
            folder: stages 6 and 10 write files that are called by it.
        """
        try:
            if problem := folder_name_problem(str(values["name"])):
                raise UserError(f"a subnet is called {str(values['name'])[:100]!r}; {problem}")
            return cls(
                str(values["name"]),
                Subnet.parse(values["architecture"]),
                int(values["encoder_params"]),
                int(values["total_params"]),
                int(values["macs_per_second"]),
                values["how"],
                values.get("dev_score"),
                *(values.get(key) for key in SEARCHED),
            )
        except KeyError as error:
            raise UserError(f"the entry of subnet {values.get('name')!r} lacks {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"the entry of a subnet is damaged: {error}") from error


SEARCHED = ("dev_loss", "budget", "cost", "limit", "cost_unit")


def write_subnets(
    path: Path, method: str, entries: Iterable[SubnetEntry], baselines: Iterable[SubnetEntry] = ()
) -> list[SubnetEntry]:
    """Writes subnets.json and returns all entries as they are there, their names made distinct.

    Args:
      method: ``select.method``.
      baselines: entries found in other ways, decoded and reported for comparison but not deployed.
    """
    seen: dict[str, int] = {}

    def distinct(entry: SubnetEntry) -> SubnetEntry:
        count = seen[entry.name] = seen.get(entry.name, 0) + 1
        return replace(entry, name=f"{entry.name}-{count}") if count > 1 else entry

    chosen, others = ([distinct(entry) for entry in group] for group in (entries, baselines))
    content = {
        "method": method,
        "subnets": [entry.as_dict() for entry in chosen],
        "baselines": [entry.as_dict() for entry in others],
    }
    write_json_atomic(path, content)
    return chosen + others


def read_subnets(path: Path, baselines: bool = False) -> list[SubnetEntry]:
    """The entries of subnets.json, with the baselines after them if they are asked for.

    Raises:
      UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; stage 5 makes it: ./run.sh --stage 5 --stop-stage 5")
    try:
        content = read_json(path)
        rows = content["subnets"] + (content.get("baselines", []) if baselines else [])
        entries = [SubnetEntry.from_dict(row) for row in rows]
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({first_line(error)}); stage 5 makes it anew: "
            "./run.sh --stage 5 --stop-stage 5 --force"
        ) from error
    if not entries:
        raise UserError(
            f"{path} has no subnet; stage 5 makes it anew: ./run.sh --stage 5 --stop-stage 5 "
            "--force"
        )
    return entries
