"""The utterances that the data stages leave out, each with its reason, in a TSV file per stage."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from utils.files import write_text_atomic


@dataclass(frozen=True, slots=True)
class Dropped:
    """An utterance that is left out.

    Attributes:
      reason: one of a few texts, which are counted.
      detail: what exactly is wrong.
      audio, line: whether there is an audio file and a line of a transcript, so that what lies on
        the disk can be accounted for.
    """

    id: str
    reason: str
    detail: str = ""
    audio: bool = True
    line: bool = True


def cell(text: str) -> str:
    """The text as a cell of a TSV file in UTF-8: on one line, with bytes of a file name that are
    not UTF-8 as escapes."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")


def write_dropped(path: Path, dropped: dict[str, list[Dropped]]) -> None:
    """Writes a TSV file with split, utterance, reason and detail.

    Args:
      dropped: the utterances by split.
    """
    rows = ["split\tutterance\treason\tdetail\n"]
    rows += [
        f"{split}\t{cell(d.id)}\t{d.reason}\t{cell(d.detail)}\n"
        for split, items in dropped.items()
        for d in items
    ]
    write_text_atomic(path, "".join(rows))


def report(split: str, kept: list, dropped: list[Dropped], listing: Path, notes: str = "") -> None:
    """Logs what a split keeps and drops.

    Args:
      kept: the cuts that stay.
      listing: the file that :func:`write_dropped` writes.
      notes: a remark on the cuts that stay.
    """
    hours = sum(c.duration for c in kept) / 3600
    logging.info(
        "%s: kept %d utterances, %.2f h%s; dropped %d", split, len(kept), hours, notes, len(dropped)
    )
    for reason, count in Counter(d.reason for d in dropped).most_common():
        example = next(d for d in dropped if d.reason == reason)
        logging.info(
            "%s:   %d %s, for example %s (all in %s)",
            split,
            count,
            reason,
            cell(example.id),
            listing,
        )
