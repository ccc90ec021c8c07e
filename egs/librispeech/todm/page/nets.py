"""The nets of the report page: what each keeps of the largest net, and its rows of results."""

from collections.abc import Sequence
from dataclasses import dataclass

from todm.page.plots import finite
from todm.results.decode_results import DecodeRow, RunResults
from todm.subnet import Subnet


@dataclass(frozen=True)
class Block:
    """The parts of a block that stay.

    Attributes:
      heads, ffn: whether each head group and each FFN chunk of the largest net stays.
    """

    heads: list[bool]
    ffn: list[bool]

    @property
    def kept(self) -> bool:
        """Whether anything of the block stays."""
        return any(self.heads) or any(self.ffn)


@dataclass(frozen=True)
class Net:
    """A subnet on the page.

    Attributes:
      deployed: whether it is no baseline.
      rows: its results, of every split and search method.
    """

    name: str
    how: str
    encoder_params: int
    total_params: int
    macs_per_second: int
    deployed: bool
    blocks: list[Block]
    rows: list[DecodeRow]


@dataclass(frozen=True)
class Row:
    """A row of the table of results.

    Attributes:
      net: number of the net on the page.
      wers: of every split, None where it was not decoded.
    """

    net: int
    name: str
    method: str
    wers: list[float | None]


@dataclass(frozen=True)
class Split:
    """A set of utterances that was decoded. Attributes: seconds: of all its audio."""

    name: str
    role: str
    utterances: int
    words: int
    seconds: float


def find_nets(results: RunResults, deployed: list[str]) -> list[Net]:
    """Every subnet of the results, the deployed ones first, the largest first."""
    rows: dict[str, list[DecodeRow]] = {}
    for row in results.rows:
        rows.setdefault(row.name, []).append(row)
    nets = [
        Net(
            name,
            mine[0].entry.how,
            mine[0].entry.encoder_params,
            mine[0].entry.total_params,
            mine[0].entry.macs_per_second,
            name in deployed,
            kept_blocks(mine[0].entry.subnet, results.run.largest),
            mine,
        )
        for name, mine in rows.items()
    ]
    return sorted(nets, key=lambda net: (not net.deployed, -net.encoder_params))


def kept_blocks(subnet: Subnet, largest: Subnet) -> list[Block]:
    """The parts of every block of the largest net that stay in a subnet."""
    groups = sorted({i for block in largest.blocks for i in block.heads})
    chunks = sorted({i for block in largest.blocks for i in block.ffn})
    return [
        Block([i in block.heads for i in groups], [i in block.ffn for i in chunks])
        for block in subnet.blocks
    ]


def find_splits(rows: Sequence[DecodeRow]) -> list[Split]:
    """The splits that were decoded, in order."""
    found = {
        row.split: Split(row.split, row.role, row.utterances, row.words, row.audio_seconds)
        for row in rows
    }
    return list(found.values())


def make_rows(rows: Sequence[DecodeRow], nets: list[Net], splits: list[Split]) -> list[Row]:
    """A row of the table for every search method and subnet."""
    table = []
    for method in dict.fromkeys(row.method for row in rows):
        for number, net in enumerate(nets):
            found = {row.split: row.wer for row in net.rows if row.method == method}
            if found:
                wers = [found.get(split.name) for split in splits]
                table.append(Row(number, net.name, method, wers))
    return table


def lowest_rates(table: list[Row], splits: list[Split]) -> list[float | None]:
    """The lowest finite WER of every split; None where there is none."""
    columns = ([finite(row.wers[i]) for row in table] for i in range(len(splits)))
    return [min((wer for wer in column if wer is not None), default=None) for column in columns]
