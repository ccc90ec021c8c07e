"""A transcript: text, BPE pieces, and the times at which they were recognised."""

from dataclasses import asdict, dataclass
from typing import Any

WORD_START = "\u2581"  # SentencePiece's mark of a word's first piece


@dataclass(frozen=True)
class Transcript:
    """A transcript of some audio.

    Attributes:
      tokens, timestamps: BPE pieces, and the seconds at which each was recognised (encoder frames
        of 40 ms).
      seconds: length of the audio.
    """

    text: str
    tokens: list[str]
    timestamps: list[float]
    seconds: float

    def words(self) -> list[dict[str, Any]]:
        """The words, each with the time of its first piece, in seconds."""
        words: list[dict[str, Any]] = []
        for token, time in zip(self.tokens, self.timestamps):
            if token.startswith(WORD_START) or not words:
                words.append({"word": token.removeprefix(WORD_START), "start": time})
            else:
                words[-1]["word"] += token
        return [w for w in words if w["word"]]

    def as_dict(self) -> dict[str, Any]:
        """The transcript with its words, for JSON."""
        return asdict(self) | {"words": self.words()}


def join(tokens: list[str]) -> str:
    """The text of BPE pieces."""
    return " ".join("".join(tokens).replace(WORD_START, " ").split())
