"""Word and character error rates by kaldialign, and icefall's files: recogs-*, errs-*,
wer-summary-*."""

import ast
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import kaldialign

from utils.files import write_text_atomic
from utils.text import TextForm, scored_units

GAP = " "  # what stands for a missing word in an alignment: no word has a space
_RECOG = re.compile(r"^(.*?):\t(ref|hyp)=(\[.*\])$")


Alignment = list[tuple[str, str]]  # (reference word or GAP, hypothesis word or GAP)


@dataclass(frozen=True)
class Errors:
    """The errors of a set of utterances, in words, with the alignments that they are counted in.

    A word is what :func:`utils.text.scored_units` counts: a character in scripts that are written
    without spaces.

    Attributes:
      words: number of words of the references.
      alignments: by utterance.
      character_errors, characters: the same of all characters but spaces.
    """

    substitutions: int
    insertions: int
    deletions: int
    words: int
    alignments: dict[str, Alignment]
    character_errors: int = 0
    characters: int = 0

    @property
    def total(self) -> int:
        """The number of errors of all kinds."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def wer(self) -> float:
        """The word error rate in percent; with no reference words, 0 or infinite."""
        return percent(self.total, self.words)

    @property
    def cer(self) -> float:
        """The character error rate in percent; with no reference characters, 0 or infinite."""
        return percent(self.character_errors, self.characters)

    @property
    def pairs(self) -> Counter[tuple[str, str]]:
        """The number of times that each pair of reference and hypothesis word is aligned."""
        return Counter(pair for aligned in self.alignments.values() for pair in aligned)

    def of_utterance(self, name: str) -> int:
        """The number of errors of one utterance: what intervals and paired tests are made from."""
        return sum(reference != hypothesis for reference, hypothesis in self.alignments[name])

    def counts(self) -> dict[str, float]:
        """WER and counts, for a results file."""
        return {
            "wer": round(self.wer, 3),
            "cer": round(self.cer, 3),
            "substitutions": self.substitutions,
            "insertions": self.insertions,
            "deletions": self.deletions,
            "words": self.words,
        }


def percent(errors: int, of: int) -> float:
    """An error rate in percent; of nothing, 0 or infinite."""
    if of:
        return 100 * errors / of
    return float("inf") if errors else 0.0


def align(reference: list[str], hypothesis: list[str]) -> Alignment:
    """Pairs of (reference word, hypothesis word); GAP on one side is an insertion or a deletion."""
    return kaldialign.align(reference, hypothesis, GAP)


def kind_of(pair: tuple[str, str]) -> str:
    """The kind of an aligned pair: ``ok``, ``sub``, ``ins`` or ``del``."""
    reference, hypothesis = pair
    if reference == hypothesis:
        return "ok"
    return "ins" if reference == GAP else "del" if hypothesis == GAP else "sub"


def shown(word: str) -> str:
    """A word of an alignment as icefall's files have it: ``*`` for a missing one."""
    return "*" if word == GAP else word


def score(
    references: dict[str, str], hypotheses: dict[str, str], form: TextForm | None = None
) -> Errors:
    """The errors of all utterances of ``references``, each aligned once.

    Args:
      form: that both are brought into first.
    Raises:
      ValueError: an utterance has no hypothesis, or the other way round.
    """
    if references.keys() != hypotheses.keys():
        different = sorted(references.keys() ^ hypotheses.keys())
        raise ValueError(
            f"references and hypotheses are of different utterances, for example {different[:3]}"
        )
    form = form or TextForm()
    texts = {name: (form(text), form(hypotheses[name])) for name, text in references.items()}
    alignments = {
        name: align(scored_units(reference), scored_units(hypothesis))
        for name, (reference, hypothesis) in texts.items()
    }
    letters = [tuple(list("".join(text.split())) for text in pair) for pair in texts.values()]
    pairs = [pair for aligned in alignments.values() for pair in aligned]
    return Errors(
        substitutions=sum(r != h and GAP not in (r, h) for r, h in pairs),
        insertions=sum(r == GAP for r, _ in pairs),
        deletions=sum(h == GAP for _, h in pairs),
        words=sum(r != GAP for r, _ in pairs),
        alignments=alignments,
        character_errors=sum(kaldialign.edit_distance(r, h)["total"] for r, h in letters),
        characters=sum(len(r) for r, _ in letters),
    )


def write_recogs(path: Path, references: dict[str, str], hypotheses: dict[str, str]) -> None:
    """Writes one ``id: ref=[...]`` and one ``id: hyp=[...]`` line per utterance."""
    lines = [
        f"{name}:\tref={references[name].split()}\n{name}:\thyp={hypotheses[name].split()}\n"
        for name in sorted(references)
    ]
    write_text_atomic(path, "".join(lines))


def read_recogs(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """References and hypotheses by utterance: the inverse of :func:`write_recogs`, but for the
    white space between words."""
    found: dict[str, dict[str, str]] = {"ref": {}, "hyp": {}}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if match := _RECOG.match(line):
            name, kind, words = match.groups()
            found[kind][name] = " ".join(ast.literal_eval(words))
    return found["ref"], found["hyp"]


def write_errs(path: Path, title: str, errors: Errors) -> None:
    """Writes WER, every alignment and the most frequent errors of every kind, as icefall does."""
    lines = [
        f"%WER of {title}: {errors.wer:.2f} [{errors.total} / {errors.words}, {errors.insertions} "
        "ins, "
        f"{errors.deletions} del, {errors.substitutions} sub]",
        "",
        "PER-UTT DETAILS: (ref->hyp) marks an error",
    ]
    for name, aligned in sorted(errors.alignments.items()):
        words = (r if r == h else f"({shown(r)}->{shown(h)})" for r, h in aligned)
        lines.append(f"{name}:\t" + " ".join(words))
    common = errors.pairs.most_common()
    lines += ["", "SUBSTITUTIONS: count ref -> hyp"]
    lines += [f"{n}\t{r} -> {h}" for (r, h), n in common if r != h and GAP not in (r, h)]
    lines += ["", "DELETIONS: count ref"] + [f"{n}\t{r}" for (r, h), n in common if h == GAP]
    lines += ["", "INSERTIONS: count hyp"] + [f"{n}\t{h}" for (r, h), n in common if r == GAP]
    write_text_atomic(path, "\n".join(lines) + "\n")
