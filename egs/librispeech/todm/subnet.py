"""A subnet as a value: for every block, which SSM heads and which FFN chunks stay; and whether the
SSMs run in both directions."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_BLOCK = re.compile(r"^(?:h([\d,-]+))?(?:f([\d,-]+))?$")
_RUN = re.compile(r"^(\d+)(?:-(\d+))?$")
MOST_PARTS = 100_000  # heads, or chunks, of a block; conf ranges allow no more
CAUSAL = "causal"  # the first word of the text of such a subnet


@dataclass(frozen=True, order=True)
class BlockChoice:
    """The parts of one block that stay; an empty tuple leaves that module out.

    Attributes:
      heads: the kept head groups (a value head with its gate), increasing.
      ffn: the kept FFN chunks, increasing.

    Raises:
      ValueError: indices are negative or not increasing.
    """

    heads: tuple[int, ...]
    ffn: tuple[int, ...]

    def __post_init__(self) -> None:
        for kept in (self.heads, self.ffn):
            if any(a >= b for a, b in zip(kept, kept[1:])) or any(i < 0 for i in kept):
                raise ValueError(f"indices must be increasing and not negative: {kept}")

    @property
    def dropped(self) -> bool:
        """Whether the whole block is left out."""
        return not self.heads and not self.ffn


@dataclass(frozen=True, order=True)
class Subnet:
    """One net of the supernet. Leading slices, dropped blocks and arbitrary chunk sets are all of
    this form.

    It is an argument of forward, cost and extract; no module remembers which subnet ran last.

    Attributes:
      blocks: what stays of every block.
      causal: whether the backward direction of a dual supernet (``model.direction=dual``) is left
        out, so that the net can stream.  Subnets of other supernets have their model's direction,
        and leave nothing out.
    """

    blocks: tuple[BlockChoice, ...]
    causal: bool = False

    @classmethod
    def leading(cls, sizes: Iterable[tuple[int, int]], causal: bool = False) -> "Subnet":
        """The subnet of leading slices.

        Args:
          sizes: ``(head groups, FFN chunks)`` of every block, both counted from the first.
          causal: as in the class.
        """
        blocks = (BlockChoice(tuple(range(h)), tuple(range(f))) for h, f in sizes)
        return cls(tuple(blocks), causal)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The numbers ``(head groups, FFN chunks)`` that are kept in every block."""
        return tuple((len(b.heads), len(b.ffn)) for b in self.blocks)

    def packed(self) -> "Subnet":
        """The subnet of the same sizes as leading slices, which is what an extracted model is to
        itself: it has one direction, or both, and leaves neither out."""
        return Subnet.leading(self.sizes)

    def within(self, other: "Subnet") -> bool:
        """Whether everything this subnet keeps is kept by ``other`` too."""
        return (
            len(self.blocks) == len(other.blocks)
            and self.causal >= other.causal
            and all(
                set(a.heads) <= set(b.heads) and set(a.ffn) <= set(b.ffn)
                for a, b in zip(self.blocks, other.blocks)
            )
        )

    def __str__(self) -> str:
        """The subnet as text, one word per block: ``h0-3f0-7`` (heads 0 to 3, chunks 0 to 7),
        ``f0,2`` (FFN only), ``-`` (dropped); before them ``causal`` where it is."""
        return " ".join([CAUSAL] * self.causal + [_block_text(b) for b in self.blocks])

    @classmethod
    def parse(cls, text: str) -> "Subnet":
        """Reads a subnet from text, the inverse of ``str``.

        Raises:
          ValueError: a word is not of that form, or names more parts than any net has.
        """
        blocks, parts = [], 0
        words = text.split()
        causal = words[:1] == [CAUSAL]
        for word in words[causal:]:
            match = _BLOCK.match("" if word == "-" else word)
            if match is None:
                raise ValueError(
                    f"{word!r} is not a block of a subnet; expected something like h0-3f0-7, f0,2 "
                    "or -"
                )
            heads, ffn = match.groups()
            blocks.append(BlockChoice(_parse_indices(heads), _parse_indices(ffn)))
            parts += len(blocks[-1].heads) + len(blocks[-1].ffn)
            if parts > 10 * MOST_PARTS:
                raise ValueError(f"it names more than {10 * MOST_PARTS:,} heads and chunks")
        if not blocks:
            raise ValueError("an empty text is not a subnet")
        return cls(tuple(blocks), causal)


def _block_text(block: BlockChoice) -> str:
    text = (f"h{_index_text(block.heads)}" if block.heads else "") + (
        f"f{_index_text(block.ffn)}" if block.ffn else ""
    )
    return text or "-"


def _index_text(indices: tuple[int, ...]) -> str:
    runs: list[list[int]] = []
    for i in indices:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _parse_indices(text: str | None) -> tuple[int, ...]:
    indices: list[int] = []
    for run in text.split(",") if text else ():
        match = _RUN.match(run)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last >= MOST_PARTS:
            raise ValueError(f"{text!r:.200} is not a list of indices such as 0-3,5")
        indices += range(first, last + 1)
    return tuple(indices)


def is_leading(indices: tuple[int, ...]) -> bool:
    """Whether the indices are 0, 1, 2, ... so that a plain slice takes them."""
    return not indices or indices[-1] == len(indices) - 1
