"""search.json: every candidate that the search of stage 5 scored, and the winners."""

from dataclasses import asdict, dataclass
from typing import Any

from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet
from utils.errors import UserError


@dataclass(frozen=True)
class ScoredNet:
    """A candidate of the search.

    Attributes:
      cost: in the search's unit of cost. loss: transducer loss per frame on the search's part of
        dev.
    """

    subnet: Subnet
    cost: float
    loss: float


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search; the meaning of a value is that of its key in the conf.

    Attributes:
      cost: ``search.cost``. cost_unit: its unit, for people.
      limits: the bound of the cost by budget, the budget as the conf has it.
    """

    cost: str
    cost_unit: str
    limits: dict[str, float]
    seed: int
    population: int
    generations: int
    proxy_seconds: float


@dataclass(frozen=True)
class SearchResults:
    """All that a search has found.

    Attributes:
      seconds: what it took, by way of searching; ``finalists`` is their decoding.
      computed_now: numbers of losses and of WERs that no earlier search had left.
      chosen: the winner of every budget, by way of searching.
      front: the candidates of ``select.method`` that no other beats in both cost and loss.
      candidates: all candidates, by way of searching.
    """

    settings: SearchSettings
    seconds: dict[str, float]
    computed_now: dict[str, int]
    chosen: dict[str, tuple[SubnetEntry, ...]]
    front: tuple[ScoredNet, ...]
    candidates: dict[str, tuple[ScoredNet, ...]]

    @property
    def selection_seconds(self) -> float:
        """Seconds that the choice of the subnets took, without the baseline of random search."""
        return sum(seconds for how, seconds in self.seconds.items() if how != "random")

    def as_dict(self) -> dict[str, Any]:
        """The search as search.json has it."""
        return asdict(self.settings) | {
            "seconds": self.seconds,
            "computed_now": self.computed_now,
            "scored": {how: len(found) for how, found in self.candidates.items()},
            "chosen": {how: [e.as_dict() for e in found] for how, found in self.chosen.items()},
            "front": _points(self.front),
            "candidates": {how: _points(found) for how, found in self.candidates.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SearchResults":
        """The inverse of :meth:`as_dict`.

        Raises:
          UserError: a key is missing, or a value is not of its kind.
        """
        keys = SearchSettings.__dataclass_fields__
        try:
            return cls(
                SearchSettings(**{key: values[key] for key in keys}),
                values["seconds"],
                values["computed_now"],
                {h: tuple(map(SubnetEntry.from_dict, f)) for h, f in values["chosen"].items()},
                _nets(values["front"]),
                {how: _nets(found) for how, found in values["candidates"].items()},
            )
        except KeyError as error:
            raise UserError(f"the results of a search lack {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"the results of a search are damaged: {error}") from error


def _points(nets: tuple[ScoredNet, ...]) -> list[list]:
    return [[str(net.subnet), net.cost, net.loss] for net in nets]


def _nets(points: list[list]) -> tuple[ScoredNet, ...]:
    return tuple(ScoredNet(Subnet.parse(text), cost, loss) for text, cost, loss in points)
