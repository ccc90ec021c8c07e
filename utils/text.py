"""Small functions for transcripts, messages, names and tables."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# Characters that are not seen: format characters (zero-width ones, byte-order marks, directions,
# soft hyphens), variation selectors, fillers.
_UNSEEN = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef"
)
_UNSEEN_PATTERN = re.compile(f"[{_UNSEEN}]")
SENTENCEPIECE_SPACE = "\u2581"  # stands for a space in SentencePiece, so that no text can have both


# Marks on one letter: Unicode's stream-safe texts have 30 at most. To sort them, which NFC and NFKC
# do, takes time with the square of their number.
MOST_MARKS = 100


def too_many_marks(text: str) -> bool:
    """Whether there are so many marks on one letter that this is no text, and that to normalise it
    would take minutes."""
    if text.isascii():
        return False
    count = 0
    for c in text:
        # of what is taken apart, such as two marks in one, more than the first could be a mark
        count = count + 1 if unicodedata.combining(unicodedata.normalize("NFKD", c)[-1]) else 0
        if count > MOST_MARKS:
            return True
    return False


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


@dataclass(frozen=True)
class TextForm:
    """The form that texts are brought into, beside :func:`normalise_transcript`.

    Attributes:
      case: upper, lower, or none: as it is.
      strip_punctuation: whether punctuation goes, but for apostrophes inside words.
    """

    case: Literal["none", "upper", "lower"] = "none"
    strip_punctuation: bool = False

    def __call__(self, text: str) -> str:
        """The text in this form. Bringing it there again changes nothing."""
        if self.strip_punctuation:
            text = without_punctuation(text)
        if self.case != "none":
            text = text.upper() if self.case == "upper" else text.lower()
        return normalise_transcript(text) if self != TextForm() else text


_APOSTROPHES = "'\u2019\u02bc"


def without_punctuation(text: str) -> str:
    """The text with a space for every punctuation mark; an apostrophe between letters stays, as
    ``'``. Symbols (``%``, ``$``, ``+``) are no punctuation where Unicode says so."""
    kept = []
    for i, c in enumerate(text):
        if c in _APOSTROPHES and text[i - 1 : i].isalpha() and text[i + 1 : i + 2].isalpha():
            kept.append("'")
        elif unicodedata.category(c).startswith("P") or c in _APOSTROPHES:
            kept.append(" ")
        else:
            kept.append(c)
    return " ".join("".join(kept).split())


# Scripts that are written without spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer,
# Hiragana, Katakana, and Han with its extensions.
_SPACELESS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_SPACELESS_CHARACTER = re.compile(f"[{_SPACELESS}]")
_UNIT = re.compile(f"[{_SPACELESS}]|[^{_SPACELESS}]+")


def spaceless(left: str, right: str) -> bool:
    """Whether two words stand side by side without a space: one of the characters that meet is of a
    script that is written without, and the right one is no mark on the left one."""
    if not left or not right or unicodedata.category(right[0]).startswith("M"):
        return False
    return bool(_SPACELESS_CHARACTER.match(left[-1]) or _SPACELESS_CHARACTER.match(right[0]))


def join_words(words: Iterable[str]) -> str:
    """Words as a text, with spaces where their scripts have them."""
    text = ""
    for word in words:
        text += word if not text or spaceless(text, word) else f" {word}"
    return text


def scored_units(text: str) -> list[str]:
    """The units of a text that are counted when it is scored: its words, and of scripts that are
    written without spaces every character, with the marks that stand on it.

    So a text in Chinese has a character error rate, one in English a word error rate, and a mixed
    one a mixed rate.
    """
    units: list[str] = []
    for word in text.split():
        begin = len(units)
        for unit in _UNIT.findall(word):
            if len(units) > begin and unicodedata.category(unit[0]).startswith("M"):
                units[-1] += unit
            else:
                units.append(unit)
    return units


def file_name(text: str) -> str:
    """The text as a file name, its words joined by hyphens: ``max + random`` -> ``max-random``."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)


def folder_name_problem(name: str) -> str | None:
    """The reason why a name can not be that of a folder or a part of a file's; None: it can."""
    if not name.strip() or name != name.strip():
        return "it must not be empty nor begin or end with a space: it names folders"
    fits = name.isprintable() and len(name.encode("utf-8", "surrogatepass")) <= 200
    if "/" in name or name.startswith(".") or not fits:
        return "it names folders, so it has no slash, no dot in front and at most 200 characters"
    return None


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
