"""Word error rate by kaldialign, and icefall's files: recogs-*, errs-*, wer-summary-*."""

import ast
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import kaldialign

from utils.files import write_text_atomic

GAP = " "  # stands for a missing word in an alignment: no word has a space
_RECOG = re.compile(r"^(.*?):\t(ref|hyp)=(\[.*\])$")


@dataclass
class Errors:
    """The word errors of a set of utterances.

    Attributes:
      words: the number of words in the references.
      pairs: counts of (reference word or GAP, hypothesis word or GAP).
    """

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    words: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All errors together."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def wer(self) -> float:
        """The word error rate in percent; with no reference words, 0 or infinite."""
        if self.words:
            return 100 * self.total / self.words
        return float("inf") if self.total else 0.0

    def counts(self) -> dict:
        """The counts and the WER, for a results file."""
        numbers = {k: v for k, v in asdict(self).items() if k != "pairs"}
        return {"wer": round(self.wer, 3)} | numbers


def align(reference: list[str], hypothesis: list[str]) -> list[tuple[str, str]]:
    """Aligns two lists of words with the fewest errors.

    Returns:
      Pairs of (reference word, hypothesis word); GAP on one side is an insertion or a deletion.
    """
    return kaldialign.align(reference, hypothesis, GAP)


def shown(word: str) -> str:
    """A word of an alignment as icefall's files have it: ``*`` for a missing one."""
    return "*" if word == GAP else word


def score(references: dict[str, str], hypotheses: dict[str, str]) -> Errors:
    """Counts the errors over all utterances; both arguments are texts by utterance.

    Raises:
      ValueError: an utterance has no hypothesis, or the other way round.
    """
    if references.keys() != hypotheses.keys():
        different = sorted(references.keys() ^ hypotheses.keys())
        raise ValueError(
            f"references and hypotheses are of different utterances, for example {different[:3]}"
        )
    errors = Errors()
    for name, reference in references.items():
        words = reference.split()
        errors.words += len(words)
        for ref, hyp in align(words, hypotheses[name].split()):
            errors.pairs[ref, hyp] += 1
            errors.substitutions += ref != hyp and GAP not in (ref, hyp)
            errors.insertions += ref == GAP
            errors.deletions += hyp == GAP
    return errors


def errors_by_utterance(references: dict[str, str], hypotheses: dict[str, str]) -> dict[str, int]:
    """The word errors of every utterance, which intervals and paired tests are computed from."""
    return {
        name: score({name: text}, {name: hypotheses[name]}).total
        for name, text in references.items()
    }


def write_recogs(path: Path, references: dict[str, str], hypotheses: dict[str, str]) -> None:
    """Writes one ``id: ref=[...]`` and one ``id: hyp=[...]`` line per utterance."""
    lines = [
        f"{name}:\tref={references[name].split()}\n{name}:\thyp={hypotheses[name].split()}\n"
        for name in sorted(references)
    ]
    write_text_atomic(path, "".join(lines))


def read_recogs(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Reads references and hypotheses by utterance, the inverse of :func:`write_recogs`, but for
    the white space between words."""
    found: dict[str, dict[str, str]] = {"ref": {}, "hyp": {}}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if match := _RECOG.match(line):
            name, kind, words = match.groups()
            found[kind][name] = " ".join(ast.literal_eval(words))
    return found["ref"], found["hyp"]


def write_errs(
    path: Path, title: str, errors: Errors, references: dict[str, str], hypotheses: dict[str, str]
) -> None:
    """Writes WER, every alignment, and the most frequent substitutions, deletions and insertions,
    as icefall writes them."""
    lines = [
        f"%WER of {title}: {errors.wer:.2f} [{errors.total} / {errors.words}, {errors.insertions} "
        "ins, "
        f"{errors.deletions} del, {errors.substitutions} sub]",
        "",
        "PER-UTT DETAILS: (ref->hyp) marks an error",
    ]
    for name in sorted(references):
        aligned = align(references[name].split(), hypotheses[name].split())
        lines.append(
            f"{name}:\t"
            + " ".join(r if r == h else f"({shown(r)}->{shown(h)})" for r, h in aligned)
        )
    common = errors.pairs.most_common()
    lines += ["", "SUBSTITUTIONS: count ref -> hyp"]
    lines += [f"{n}\t{r} -> {h}" for (r, h), n in common if r != h and GAP not in (r, h)]
    lines += ["", "DELETIONS: count ref"] + [f"{n}\t{r}" for (r, h), n in common if h == GAP]
    lines += ["", "INSERTIONS: count hyp"] + [f"{n}\t{h}" for (r, h), n in common if r == GAP]
    write_text_atomic(path, "\n".join(lines) + "\n")
