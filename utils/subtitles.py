"""Subtitles, SRT and WebVTT, of words with their times."""

import html
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from utils.text import join_words

LINE = 42  # characters of a line, of which a cue has two at most, as broadcasters have it
LINES = 2
LONGEST = 7.0  # seconds of a cue
PAUSE = 1.0  # seconds between the beginnings of two words that begin a new cue
LINGER = 1.0  # seconds that a cue stays after its last word has begun
SHORTEST = 0.2  # seconds of a cue

Form = Literal["srt", "vtt"]


@dataclass(frozen=True)
class Cue:
    """A text that is shown from one time to another, in seconds."""

    start: float
    end: float
    text: str


def cues(words: Sequence[tuple[float, str]], seconds: float) -> list[Cue]:
    """The cues of some words.

    A new one begins after a pause, or where the words no longer fit. A cue ends when the next one
    begins, or some time after its last word has begun.

    Args:
      words: the time at which each begins, in order, and the word.
      seconds: the length of the recording, which no cue outlasts but a very short one.
    """
    groups: list[list[tuple[float, str]]] = []
    for start, word in words:
        group = groups[-1] if groups else []
        text = join_words([*(w for _, w in group), word])
        begin, last = (group[0][0], group[-1][0]) if group else (start, start)
        if group and start - last < PAUSE and start - begin < LONGEST and len(lines(text)) <= LINES:
            group.append((start, word))
        else:
            groups.append([(start, word)])
    found = []
    for i, group in enumerate(groups):
        following = groups[i + 1][0][0] if i + 1 < len(groups) else max(seconds, group[-1][0])
        end = max(min(group[-1][0] + LINGER, following), group[0][0] + SHORTEST)
        found.append(Cue(group[0][0], end, join_words(word for _, word in group)))
    return found


def lines(text: str) -> list[str]:
    """The lines of a cue."""
    return textwrap.wrap(text, LINE)


def subtitles(words: Iterable[tuple[float, str]], seconds: float, form: Form) -> str:
    """The content of a file of subtitles. Arguments as of :func:`cues`."""
    parts = ["WEBVTT\n"] if form == "vtt" else []
    for number, cue in enumerate(cues(list(words), seconds), 1):
        text = "\n".join(lines(cue.text))
        if form == "vtt":
            text = html.escape(text, quote=False)
        begin, end = (_time(t, "," if form == "srt" else ".") for t in (cue.start, cue.end))
        parts.append(f"{number}\n{begin} --> {end}\n{text}\n")
    return "\n".join(parts)


def _time(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
