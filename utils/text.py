"""Small functions for transcripts, messages, names and tables."""

import re
import unicodedata

# Characters that are not seen: format characters (zero-width ones, byte-order marks, directions,
# soft hyphens), variation selectors, fillers.
_UNSEEN = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef"
)
_UNSEEN_PATTERN = re.compile(f"[{_UNSEEN}]")
SENTENCEPIECE_SPACE = "\u2581"  # stands for a space in SentencePiece, so that no text can have both


def visible(text: str) -> str:
    """The text without control characters and characters that nobody sees; white space stays as it
    is."""
    if text.isascii() and text.isprintable():
        return text
    kept = (c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
    return _UNSEEN_PATTERN.sub("", "".join(kept))


def normalise_transcript(text: str) -> str:
    """The transcript as it is trained on and scored: its visible characters, in NFKC, words apart
    by one space.

    Normalising it again changes nothing.  Stage 1 does this once; nothing behind it (SentencePiece,
    scoring) normalises.
    """
    text = unicodedata.normalize("NFKC", visible(text)).replace(SENTENCEPIECE_SPACE, " ")
    return " ".join(visible(text).split())


def file_name(text: str) -> str:
    """The text as a file name, its words joined by hyphens: ``max + random`` -> ``max-random``."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)


def first_line(error: BaseException) -> str:
    """The exception's type and the first line of its text, which may be empty."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def markdown_table(titles: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A table in Markdown, its columns padded. The first ``left`` columns are aligned to the left,
    the others to the right."""
    rule = ["---" if i < left else "---:" for i in range(len(titles))]
    lines = [titles, rule, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    return "\n".join(
        "| " + " | ".join(text.ljust(w) for text, w in zip(line, widths)) + " |" for line in lines
    )
