"""An utterance as the sources of a corpus give it: a stretch of an audio file, and what is said in
it."""

from dataclasses import dataclass
from pathlib import Path

from local.dropped import Dropped
from utils.text import MOST_MARKS, normalise_transcript, too_many_marks

# audio formats that libsndfile reads
READ = frozenset(
    ".flac .wav .wave .mp3 .ogg .oga .opus .aif .aiff .aifc .au .snd .caf .w64 .rf64".split()
)
# those that ffmpeg converts first
CONVERTED = frozenset(".m4a .aac .mp4 .webm .wma .amr .ape .wv .mka .mkv .mov .3gp".split())
# those that are seen and not read
OTHER = frozenset(".sph .nist .gsm .raw .pcm .shn".split())


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of an audio file with its transcript.

    Attributes:
      text: the transcript, normalised.
      written: the transcript as it is written.
      start, duration: of the stretch, in seconds; duration None: to the end of the file.
      channel: the one in which it is said, from 0; None: the mean of all.
    """

    id: str
    text: str
    written: str
    audio: Path
    speaker: str
    start: float = 0.0
    duration: float | None = None
    channel: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all of its file."""
        return self.start == 0 and self.duration is None


def transcript_problem(name: str, written: str, where: str) -> Dropped | None:
    """Says what is wrong with a transcript; None: nothing.

    Args:
      where: the file that it stands in.
    """
    if too_many_marks(written):
        return Dropped(
            name, "damaged transcript", f"{where}: more than {MOST_MARKS} marks are on one letter"
        )
    text = normalise_transcript(written)
    if not text:
        return Dropped(name, "empty transcript", where)
    if any("\ud800" <= c <= "\udfff" for c in text):
        return Dropped(
            name, "damaged transcript", f"{where}: a character of it is half of one (a surrogate)"
        )
    if "\N{REPLACEMENT CHARACTER}" in text:
        return Dropped(
            name,
            "damaged transcript",
            f"{where}: U+FFFD stands where characters were lost in a conversion",
        )
    return None


def format_problem(name: str, path: Path, line: bool = True) -> Dropped | None:
    """Says that the recipe does not read an audio file's format; None: it does."""
    if path.suffix.lower() in READ | CONVERTED:
        return None
    what = path.suffix or "a file without a suffix"
    detail = f"{path}: {what} is not read; convert it, for example to FLAC or WAV"
    return Dropped(name, "audio format not read", detail, line=line)
