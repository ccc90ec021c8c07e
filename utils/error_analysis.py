"""Where recognition errors are: the confusions, their place in the utterance, the speakers, and
transcripts to read, as a Markdown text."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping

from utils.scoring import GAP, Alignment, Errors, kind_of

MOST_FREQUENT = 10  # confusions that are shown
PARTS = 5  # of an utterance
TRANSCRIPTS = 20  # that are shown

# the kinds of errors, by what utils.scoring calls them, as the tables have them
KINDS = {"sub": "substituted", "del": "deleted", "ins": "inserted"}


def by_part(alignments: Mapping[str, Alignment], parts: int = PARTS) -> list[Counter[str]]:
    """The errors in every part of the utterances, from their beginning to their end.

    Word ``i`` of ``n`` reference words, from 0, is in part ``parts * i // n``; an inserted word is
    where the reference word after it is, or at the end.

    Returns:
      Of every part the number of ``words``, and of the errors of every kind.
    """
    found: list[Counter[str]] = [Counter() for _ in range(parts)]
    for aligned in alignments.values():
        words, before = sum(r != GAP for r, _ in aligned), 0
        for reference, hypothesis in aligned:
            part = found[min(parts * before // max(words, 1), parts - 1)]
            part[KINDS.get(kind_of((reference, hypothesis)), "right")] += 1
            if reference != GAP:
                part["words"] += 1
                before += 1
    return found


def by_speaker(
    alignments: Mapping[str, Alignment], speakers: Mapping[str, str]
) -> dict[str, Counter[str]]:
    """The errors of every speaker, as :func:`by_part` counts them, the most first.

    Args:
      speakers: of every utterance.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name, aligned in alignments.items():
        of_speaker = found[speakers[name]]
        for reference, hypothesis in aligned:
            of_speaker[KINDS.get(kind_of((reference, hypothesis)), "right")] += 1
            of_speaker["words"] += reference != GAP
    return dict(sorted(found.items(), key=lambda item: (-_rate(item[1]), item[0])))


def describe_errors(title: str, errors: Errors, speakers: Mapping[str, str]) -> str:
    """The analysis of a decoded split.

    Args:
      title: what was decoded, and with what. speakers: of every utterance.
    """
    said = Counter(r for aligned in errors.alignments.values() for r, _ in aligned)
    confusions = [
        f"| {_cell(reference)} | {_cell(hypothesis)} | {n} | {said[reference]} |"
        for (reference, hypothesis), n in errors.pairs.most_common()
        if kind_of((reference, hypothesis)) == "sub"
    ]
    names = sorted(errors.alignments)
    shown = sorted(random.Random(1).sample(names, min(TRANSCRIPTS, len(names))))
    return "\n".join(
        [
            f"# Errors of {title}",
            "",
            f"{errors.wer:.2f} % WER: {errors.total} errors in {errors.words} words, of which "
            f"{errors.substitutions} are substituted, {errors.deletions} deleted and "
            f"{errors.insertions} inserted. {errors.cer:.2f} % CER.",
            "",
            "## The most frequent confusions",
            "",
            "| said | recognised | times | of |",
            "|---|---|---:|---:|",
            *confusions[:MOST_FREQUENT],
            "",
            "## By the place in the utterance",
            "",
            *_table(
                "part", {f"{i + 1} of {PARTS}": c for i, c in enumerate(by_part(errors.alignments))}
            ),
            "",
            "## By speaker",
            "",
            *_table("speaker", by_speaker(errors.alignments, speakers)),
            "",
            f"## {len(shown)} transcripts, drawn at random",
            "",
            "An error is **[said / recognised]**; \u2013 is no word.",
            "",
            *(f"- `{name}` {_marked(errors.alignments[name])}" for name in shown),
            "",
        ]
    )


def _table(what: str, rows: Mapping[str, Counter[str]]) -> list[str]:
    return [
        f"| {what} | words | {' | '.join(KINDS.values())} | WER % |",
        "|---|---:|" + "---:|" * (len(KINDS) + 1),
        *(
            f"| {_cell(name)} | {counts['words']} | "
            + " | ".join(str(counts[kind]) for kind in KINDS.values())
            + f" | {100 * _rate(counts):.1f} |"
            for name, counts in rows.items()
        ),
    ]


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _rate(counts: Counter[str]) -> float:
    return sum(counts[kind] for kind in KINDS.values()) / max(counts["words"], 1)


def _marked(aligned: Alignment) -> str:
    return " ".join(
        r if r == h else "**[" + " / ".join("\u2013" if w == GAP else w for w in (r, h)) + "]**"
        for r, h in aligned
    )
