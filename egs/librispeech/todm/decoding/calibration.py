"""Calibration of word confidences: a recognised word is right where it is aligned with the same
word of the reference."""

from collections.abc import Mapping

from utils.calibration import Calibration, calibration
from utils.scoring import GAP, Alignment
from utils.text import TextForm, markdown_table, scored_units


def calibrate(
    alignments: Mapping[str, Alignment],
    words: Mapping[str, list[tuple[str, float]]],
    form: TextForm,
) -> Calibration | None:
    """The calibration of the words of some utterances; None where no word was recognised.

    Args:
      alignments: of the references and hypotheses, by utterance, in ``form``.
      words: of the hypotheses, each with its confidence. Utterances in which they are not those of
        the alignment are left out, and their words counted.
    """
    found: list[tuple[float, bool]] = []
    left_out = 0
    for name, said in words.items():
        units = [(unit, chance) for word, chance in said for unit in scored_units(form(word))]
        aligned = [(r, h) for r, h in alignments[name] if h != GAP]
        if [unit for unit, _ in units] == [h for _, h in aligned]:
            found += [(chance, r == h) for (_, chance), (r, h) in zip(units, aligned)]
        else:
            left_out += len(units)
    return calibration(found, left_out)


def describe_calibration(title: str, found: Calibration) -> str:
    """The calibration of a decoded split, in Markdown.

    Args:
      title: what was decoded, and with what.
    """
    width = 1 / len(found.bins)
    rows = [
        [
            f"{i * width:.1f} to {(i + 1) * width:.1f}",
            str(b.items),
            *([f"{b.confidence:.3f}", f"{b.share:.3f}"] if b.items else ["", ""]),
        ]
        for i, b in enumerate(found.bins)
    ]
    nce = "it has no value, because all words are right or all wrong."
    if found.nce is not None:
        nce = f"{found.nce:.4f} (1 is best; 0: the confidences tell nothing)."
    lines = [
        f"# Confidences of {title}",
        "",
        f"Expected calibration error: {found.ece:.4f} (0 is best).",
        f"Normalised cross entropy: {nce}",
        "",
        "Of well calibrated words with a confidence of 0.8, 80 % are right.",
        "",
        markdown_table(["confidence", "words", "mean confidence", "share right"], rows),
    ]
    if found.left_out:
        lines += ["", f"{found.left_out} words are left out: their places are not known."]
    return "\n".join(lines) + "\n"
