"""Calibration of confidences: how far they are the probability of being right."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

BINS = 10  # of equal width, from 0 to 1
SURE = (
    1e-6  # a confidence nearer to 0 or 1 counts as this far from it: one error may not be infinite
)


@dataclass(frozen=True)
class Bin:
    """The items whose confidence is in one of the bins: how many, how many of them are right, and
    their mean confidence."""

    items: int
    right: int
    confidence: float

    @property
    def share(self) -> float:
        """The share of the items that are right; only where there are items."""
        return self.right / self.items


@dataclass(frozen=True)
class Calibration:
    """The calibration of a set of confidences.

    Attributes:
      bins: from the lowest confidences to the highest, those without items as well.
      ece: the expected calibration error: the mean distance of a bin's confidence from its share of
        right items, weighted by its items (Guo et al., "On calibration of modern neural networks",
        2017).
      nce: the normalised cross entropy of NIST's evaluations: 1 at best, 0 for a confidence that is
        the same share of right items everywhere, below that for what misleads; None where all items
        are right or all wrong, and it has no value.
      left_out: items whose place in the reference is not known.
    """

    bins: tuple[Bin, ...]
    ece: float
    nce: float | None
    left_out: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The calibration as JSON files have it, a line of text for each list."""
        return {
            "ece": round(self.ece, 5),
            "nce": None if self.nce is None else round(self.nce, 5),
            "left_out": self.left_out,
            "items": " ".join(str(b.items) for b in self.bins),
            "right": " ".join(str(b.right) for b in self.bins),
            "confidence": " ".join(f"{b.confidence:.5f}" for b in self.bins),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibration":
        """The inverse of :meth:`as_dict`.

        Raises:
          KeyError, ValueError: a key is missing, or a value is not of its kind.
        """
        items, right = (map(int, values[key].split()) for key in ("items", "right"))
        bins = map(Bin, items, right, map(float, values["confidence"].split()))
        return cls(tuple(bins), values["ece"], values["nce"], values["left_out"])


def calibration(
    found: Iterable[tuple[float, bool]], left_out: int = 0, bins: int = BINS
) -> Calibration | None:
    """The calibration of confidences from 0 to 1, each with whether its item is right; None without
    any.

    Args:
      left_out: items that are not among them, for the record.
    """
    pairs = list(found)
    if not pairs:
        return None
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for confidence, right in pairs:
        groups[min(int(confidence * bins), bins - 1)].append((confidence, right))
    made = tuple(
        Bin(len(g), sum(right for _, right in g), sum(c for c, _ in g) / max(len(g), 1))
        for g in groups
    )
    ece = sum(abs(b.right - b.items * b.confidence) for b in made) / len(pairs)
    return Calibration(made, ece, normalised_cross_entropy(pairs), left_out)


def normalised_cross_entropy(found: list[tuple[float, bool]]) -> float | None:
    """The share of the entropy of right and wrong that the confidences explain; None where there is
    none.

    (H - H(c)) / H, of which H is the entropy of items that are all right with the probability of
    the mean, and H(c) the cross entropy of the confidences.
    """
    right = sum(good for _, good in found)
    if right in (0, len(found)):
        return None
    mean = right / len(found)
    entropy = -(right * math.log2(mean) + (len(found) - right) * math.log2(1 - mean))
    cross = 0.0
    for confidence, good in found:
        confidence = min(max(confidence, SURE), 1 - SURE)
        cross -= math.log2(confidence if good else 1 - confidence)
    return (entropy - cross) / entropy
