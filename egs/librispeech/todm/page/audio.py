"""The sound of the utterances on the report page, compressed and inside the page."""

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import soundfile
from lhotse.cut import Cut

from todm.config.keys import Config
from todm.data.loaders import load_cuts
from utils.audio import SAMPLE_RATE
from utils.errors import UserError

AUDIO_SECONDS = 60.0  # of an utterance
# The first that libsndfile can write is taken.
AUDIO_FORMATS = {"MP3": "audio/mpeg", "OGG": "audio/ogg", "FLAC": "audio/flac"}


@dataclass(frozen=True)
class Audio:
    """The sound of an utterance.

    Attributes:
      uri: the sound itself. cut: seconds after which it was cut, if it was.
    """

    uri: str
    cut: float | None = None


def find_cuts(
    config: Config, wanted: set[tuple[str, str]]
) -> tuple[dict[tuple[str, str], Cut], dict[str, str]]:
    """The cuts of some utterances, as far as stage 3's files can be read.

    Args:
      wanted: splits and ids.
    Returns:
      The cuts by split and id, and for each split that can not be read the reason.
    """
    cuts: dict[tuple[str, str], Cut] = {}
    reasons: dict[str, str] = {}
    for split in sorted({split for split, _ in wanted}):
        try:
            cuts |= {
                (split, cut.id): cut
                for cut in load_cuts(config, [split])
                if (split, cut.id) in wanted
            }
        except (UserError, OSError, EOFError, ValueError) as error:
            reasons[split] = str(error).partition(";")[0]
    return cuts, reasons


def encoded(cut: Cut, most: int, longest: float = AUDIO_SECONDS) -> tuple[Audio | None, str]:
    """The sound of a cut, mono and compressed, in at most so many bytes; else the reason why there
    is none."""
    sources = cut.recording.sources if cut.has_recording else []
    files = [source.source for source in sources if source.type == "file"]
    gone = [name for name in files if not Path(name).is_file()]
    if gone:
        return None, f"No audio: {gone[0]} is gone."
    long = cut.duration > longest
    try:
        part = cut.truncate(duration=longest) if long else cut
        samples = part.resample(SAMPLE_RATE).load_audio().mean(axis=0)
    except Exception as error:  # lhotse's readers raise whatever their libraries do
        logging.warning("report page: the audio of %s can not be read: %s", cut.id, error)
        return None, "No audio: it can not be read."
    form = next(name for name in AUDIO_FORMATS if name in soundfile.available_formats())
    content = io.BytesIO()
    soundfile.write(content, samples.clip(-1, 1), SAMPLE_RATE, format=form)
    if len(content.getvalue()) > most:
        return None, "Its audio is left out, so that this page stays small."
    text = base64.b64encode(content.getvalue()).decode()
    uri = f"data:{AUDIO_FORMATS[form]};base64,{text}"
    return Audio(uri, longest if long else None), ""
