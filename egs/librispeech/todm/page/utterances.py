"""The report page's errors: word pairs that are confused most, and the worst utterances, aligned
word by word, with their audio."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from todm.config.keys import Config
from todm.page.audio import AUDIO_SECONDS, Audio, encoded, find_cuts
from todm.results.decode_results import DecodeRow
from utils.scoring import align, kind_of, read_recogs
from utils.text import scored_units

COMMON = 10  # rows of each table of frequent errors
WORST = 20  # utterances
MOST_SIZES = 8  # shown per utterance; of more, some evenly spaced
MOST_WORDS = 120  # of an utterance that are shown
LINE_CHARACTERS = 76  # of an aligned line, after which the next begins
AUDIO_BYTES = 2_000_000  # of all utterances together, before base64 makes a third more of it
Pairs = list[tuple[str, str]]  # aligned (reference word or GAP, hypothesis word or GAP)
Alignments = dict[tuple[str, str], dict[str, Pairs]]  # by split and utterance, then by size


@dataclass(frozen=True)
class ErrorTable:
    """The most frequent errors of one kind.

    Attributes:
      rows: (word of the reference, word recognised instead, count per size); one of the words may
        be empty.
    """

    title: str
    rows: list[tuple[str, str, list[int]]]


@dataclass(frozen=True)
class Cell:
    """A word of an alignment.

    Attributes:
      kind: ``ref``, ``ok``, ``sub``, ``ins``, ``del`` or ``gap`` (nothing here).
      text: the word; of ``del`` the one that is missing.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Line:
    """A reference or hypothesis, its cells below those of the reference."""

    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Utterance:
    """An utterance that is shown with its alignment.

    Attributes:
      words: the number of words of the reference.
      errors: word errors by size.
      blocks: the alignment, broken into blocks of lines.
      left_out: the number of words that are not shown.
      direction: ``ltr`` or ``rtl``.
      seconds: its length; None: it is not known.
      note: why there is no audio.
    """

    name: str
    split: str
    words: int
    errors: dict[str, int]
    blocks: list[list[Line]]
    left_out: int
    direction: str
    seconds: float | None = None
    audio: Audio | None = None
    note: str = ""


@dataclass(frozen=True)
class Findings:
    """The errors that the page shows.

    Attributes:
      sizes: subnets whose texts were found. shown: those of the worst utterances.
      utterances: the number of all utterances.
      missing: files that are not there.
    """

    sizes: list[str]
    shown: list[str]
    method: str
    splits: list[str]
    tables: list[ErrorTable]
    worst: list[Utterance]
    utterances: int
    missing: list[str]


def find_errors(config: Config, rows: Sequence[DecodeRow]) -> Findings:
    """Errors on dev (on test, where there is no dev) out of stage 6's recogs-*.

    Args:
      rows: of the sizes to be shown and one search method, the largest first.
    """
    role = "dev" if any(row.role == "dev" for row in rows) else "test"
    rows = [row for row in rows if row.role == role]
    aligned, sizes, missing = read_alignments(config.exp_dir / "decode", rows)
    shown = evenly(sizes, MOST_SIZES)
    worst = [
        describe(*key, {size: by_size[size] for size in shown if size in by_size})
        for key, by_size in most_errors(aligned)
    ]
    return Findings(
        sizes,
        shown,
        rows[0].method if rows else "",
        list(dict.fromkeys(row.split for row in rows)),
        frequent(aligned, sizes),
        with_audio(config, worst),
        len(aligned),
        missing,
    )


def read_alignments(
    folder: Path, rows: Sequence[DecodeRow]
) -> tuple[Alignments, list[str], list[str]]:
    """The alignments of all utterances, from the recogs-* of some rows.

    Returns:
      The alignments, the names of the sizes that were found, and the files that were not.
    """
    aligned: Alignments = {}
    sizes, missing = [], []
    for row in rows:
        path = folder / f"recogs-{row.split}-{row.name}-{row.method}.txt"
        try:
            references, hypotheses = read_recogs(path)
        except (OSError, ValueError, SyntaxError):
            missing.append(str(path))
            continue
        sizes.append(row.name)
        for name, text in references.items():
            pairs = align(scored_units(text), scored_units(hypotheses.get(name, "")))
            aligned.setdefault((row.split, name), {})[row.name] = pairs
    return aligned, list(dict.fromkeys(sizes)), missing


def evenly(items: list, most: int) -> list:
    """Some of the items, at most so many, evenly spaced, with both ends."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def most_errors(aligned: Alignments) -> list[tuple[tuple[str, str], dict[str, Pairs]]]:
    """The utterances with most word errors, all sizes together; of equals the shorter one, in which
    they weigh more."""

    def total(by_size: dict[str, Pairs]) -> int:
        return sum(kind_of(pair) != "ok" for pairs in by_size.values() for pair in pairs)

    with_errors = [
        (total(by_size), sum(map(len, by_size.values())), key) for key, by_size in aligned.items()
    ]
    chosen = sorted((-errors, length, key) for errors, length, key in with_errors if errors)[:WORST]
    return [(key, aligned[key]) for _, _, key in chosen]


def frequent(aligned: Alignments, sizes: list[str]) -> list[ErrorTable]:
    """The most frequent substitutions, deletions and insertions, all sizes together, with the count
    of every size."""
    counts: dict[str, dict[str, Counter]] = {
        kind: {size: Counter() for size in sizes} for kind in ("sub", "del", "ins")
    }
    for by_size in aligned.values():
        for size, pairs in by_size.items():
            for pair in pairs:
                if (kind := kind_of(pair)) != "ok":
                    counts[kind][size][pair] += 1
    tables = []
    for kind, title in (("sub", "Taken for another word"), ("del", "Left out"), ("ins", "Put in")):
        together = sum(counts[kind].values(), Counter())
        common = sorted(together, key=lambda pair: (-together[pair], pair))[:COMMON]
        tables.append(
            ErrorTable(
                title,
                [
                    (
                        "" if kind == "ins" else r,
                        "" if kind == "del" else h,
                        [counts[kind][size][r, h] for size in sizes],
                    )
                    for r, h in common
                ],
            )
        )
    return tables


def describe(split: str, name: str, by_size: dict[str, Pairs]) -> Utterance:
    """An utterance without its audio."""
    lines, words = interlinear(by_size)
    shown = min(len(lines[0].cells), MOST_WORDS)
    blocks, begin, width = [], 0, 0
    for i in range(shown):
        longest = 3 + max(len(line.cells[i].text) for line in lines)
        if i > begin and width + longest > LINE_CHARACTERS:
            blocks.append((begin, i))
            begin, width = i, 0
        width += longest
    blocks.append((begin, shown))
    errors = {size: sum(kind_of(pair) != "ok" for pair in pairs) for size, pairs in by_size.items()}
    return Utterance(
        name,
        split,
        words,
        errors,
        [[Line(line.label, line.cells[a:b]) for line in lines] for a, b in blocks],
        len(lines[0].cells) - shown,
        direction(" ".join(cell.text for cell in lines[0].cells)),
    )


def interlinear(by_size: dict[str, Pairs]) -> tuple[list[Line], int]:
    """The reference and every hypothesis as lines of equally many cells, in which what belongs
    together stands below each other.

    Returns:
      The lines, and how many words the reference has.
    """
    reference = [r for r, h in next(iter(by_size.values())) if kind_of((r, h)) != "ins"]
    # by size: words before each word of the reference, and after the last
    inserted: dict[str, list[list[str]]] = {}
    under: dict[str, list[Cell]] = {}
    for size, pairs in by_size.items():
        inserted[size], under[size] = [[]], []
        for pair in pairs:
            kind = kind_of(pair)
            if kind == "ins":
                inserted[size][-1].append(pair[1])
            else:
                under[size].append(Cell(kind, pair[0] if kind == "del" else pair[1]))
                inserted[size].append([])
    first: list[Cell] = []
    lines: dict[str, list[Cell]] = {size: [] for size in by_size}
    for i in range(len(reference) + 1):
        room = max(len(words[i]) for words in inserted.values())
        first += [Cell("gap", "")] * room
        for size, cells in lines.items():
            words = inserted[size][i]
            cells += [Cell("ins", word) for word in words] + [Cell("gap", "")] * (room - len(words))
        if i < len(reference):
            first.append(Cell("ref", reference[i]))
            for size, cells in lines.items():
                cells.append(under[size][i])
    others = [Line(size, cells) for size, cells in lines.items()]
    return [Line("reference", first), *others], len(reference)


def visible(text: str) -> str:
    """A word whose invisible characters, which may be the whole error, are named. Joiners within
    words of some scripts stay as they are."""
    return "".join(
        c if c.isprintable() or (c in "\u200c\u200d" and len(text) > 1) else f"⟨U+{ord(c):04X}⟩"
        for c in text
    )


def direction(text: str) -> str:
    """The direction of a text: ``rtl`` where its first letter is of a script that runs from right
    to left, else ``ltr``."""
    for letter in text:
        kind = unicodedata.bidirectional(letter)
        if kind in ("L", "R", "AL"):
            return "ltr" if kind == "L" else "rtl"
    return "ltr"


def with_audio(
    config: Config,
    utterances: list[Utterance],
    most: int = AUDIO_BYTES,
    longest: float = AUDIO_SECONDS,
) -> list[Utterance]:
    """The same utterances with sound, as far as there is any, and as far as it fits.

    Args:
      most: bytes of all sound together. longest: seconds of an utterance that are kept.
    """
    wanted = {(u.split, u.name) for u in utterances}
    cuts, reasons = find_cuts(config, wanted)
    left, found = most, []
    for u in utterances:
        cut = cuts.get((u.split, u.name))
        if cut is None:
            reason = reasons.get(u.split, "it is not among the cuts of stage 3")
            found.append(replace(u, note=f"No audio: {reason}."))
            continue
        audio, note = encoded(cut, left, longest)
        left -= len(audio.uri) * 3 // 4 if audio else 0
        found.append(replace(u, seconds=cut.duration, audio=audio, note=note))
    return found
