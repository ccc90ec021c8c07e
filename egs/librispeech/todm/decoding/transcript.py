"""A transcript: text, BPE pieces, and the times at which they were recognised."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from utils.text import spaceless

WORD_START = "\u2581"  # SentencePiece's mark of a word's first piece


@dataclass(frozen=True)
class Alternative:
    """One of the hypotheses of a stretch of speech.

    Attributes:
      score: logarithm of its probability, with what hotwords and a blank penalty add.
    """

    text: str
    score: float


@dataclass(frozen=True)
class Alternatives:
    """The best hypotheses of a stretch of speech that was decoded at once, best first.

    Attributes:
      start: where the stretch begins, in seconds.
    """

    start: float
    hypotheses: list[Alternative]


@dataclass(frozen=True)
class Transcript:
    """A transcript of some audio.

    Attributes:
      tokens, timestamps: BPE pieces, and the seconds at which each was recognised (encoder frames
        of 40 ms).
      seconds: length of the audio.
      probabilities: of the tokens, by the net; empty: a beam search does not tell.
      nbest: the best hypotheses of every stretch; empty: they were not asked for.
    """

    text: str
    tokens: list[str]
    timestamps: list[float]
    seconds: float
    probabilities: list[float] = field(default_factory=list, compare=False)
    nbest: list[Alternatives] = field(default_factory=list, compare=False)

    def words(self) -> list[dict[str, Any]]:
        """The words, each with the time of its first piece, in seconds, and its confidence: the
        geometric mean of its pieces' probabilities, where those are known. In scripts that are
        written without spaces every piece is a word."""
        words: list[dict[str, Any]] = []
        logs: list[list[float]] = []
        known = self.probabilities or [1.0] * len(self.tokens)
        for token, time, chance in zip(self.tokens, self.timestamps, known):
            if token.startswith(WORD_START) or not words or spaceless(words[-1]["word"], token):
                words.append({"word": token.removeprefix(WORD_START), "start": time})
                logs.append([])
            else:
                words[-1]["word"] += token
            logs[-1].append(math.log(max(chance, 1e-10)))
        if self.probabilities:
            for word, of_word in zip(words, logs):
                word["confidence"] = round(math.exp(sum(of_word) / len(of_word)), 3)
        return [w for w in words if w["word"]]

    def as_dict(self) -> dict[str, Any]:
        """The transcript with its words, for JSON."""
        values = asdict(self) | {"words": self.words()}
        values["probabilities"] = [round(p, 4) for p in self.probabilities]
        if not self.nbest:
            del values["nbest"]
        return values


def moved(nbest: list[Alternatives], seconds: float) -> list[Alternatives]:
    """The alternatives of a stretch that begins so many seconds later."""
    return [replace(a, start=round(a.start + seconds, 2)) for a in nbest]


def join(tokens: list[str]) -> str:
    """The text of BPE pieces."""
    return " ".join("".join(tokens).replace(WORD_START, " ").split())
