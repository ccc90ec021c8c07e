"""Hotwords: words and phrases that beam search prefers, read from a file as sherpa-onnx has it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from utils.context_graph import ContextGraph
from utils.errors import UserError
from utils.text import TextForm, normalise_transcript
from utils.tokens import SPECIAL, UNK, Tokenizer

BOOST_MARK = ":"  # begins the number behind the words of a line


@dataclass(frozen=True)
class Hotword:
    """A word or a phrase that is preferred.

    Attributes:
      text: in the form of the transcripts.
      tokens: the ids that the net would write it with.
      boost: what each of them adds to the log-probability of a hypothesis.
    """

    text: str
    tokens: tuple[int, ...]
    boost: float


def read_hotwords(
    path: str | Path, tokenizer: Tokenizer, boost: float, form: TextForm | None = None
) -> list[Hotword]:
    """The hotwords of a file: a line each, ``WORDS`` or ``WORDS :boost``; empty lines are left out.

    Args:
      boost: of the lines that have none.
      form: that the net's transcripts are in, and hotwords are brought into.
    Raises:
      UserError: the file can not be read or has no hotword, or a line can not be recognised; it is
        named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"hotwords {path} can not be read: {reason}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_parse(line, tokenizer, boost, form or TextForm()))
            except ValueError as error:
                raise UserError(f"hotwords {path}, line {number}: {error}") from error
    if not found:
        raise UserError(f"hotwords {path} has none; write one a line, such as NEW YORK :2.0")
    return found


def _parse(line: str, tokenizer: Tokenizer, boost: float, form: TextForm) -> Hotword:
    """The hotword of a line.

    Raises:
      ValueError: why there is none.
    """
    words = line.split()
    if len(words[-1]) > 1 and words[-1].startswith(BOOST_MARK):
        boost = _boost(words.pop())
    text = form(normalise_transcript(" ".join(words)))
    if not text:
        raise ValueError(f"{line.strip()!r} has no words")
    tokens = tokenizer.encode(text)
    if UNK in tokens:
        known = set("".join(tokenizer.symbols[len(SPECIAL) :]))
        strange = sorted({c for c in text if c not in known and not c.isspace()})
        why = f"the net has never seen {' '.join(strange)}" if strange else "not with its tokens"
        raise ValueError(
            f"{text!r} can not be recognised: {why}; write it as the transcripts of train are"
        )
    return Hotword(text, tuple(tokens), boost)


def _boost(text: str) -> float:
    try:
        boost = float(text.removeprefix(BOOST_MARK))
    except ValueError:
        boost = math.nan
    if not math.isfinite(boost) or boost == 0:  # sherpa-onnx takes 0 for no number
        raise ValueError(f"{text!r} is no boost; a number but 0 is needed, such as :2.0")
    return boost


def hotword_graph(hotwords: Iterable[Hotword]) -> ContextGraph:
    """The bonuses of hotwords, as a search takes them."""
    return ContextGraph((hotword.tokens, hotword.boost) for hotword in hotwords)


def hotword_lines(hotwords: Iterable[Hotword]) -> str:
    """The hotwords as a file that sherpa-onnx reads: in the form of the transcripts, each with its
    boost."""
    return "".join(f"{h.text} {BOOST_MARK}{h.boost:.6f}\n" for h in hotwords)
