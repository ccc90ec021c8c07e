"""Looks at the audio of utterances, and makes cuts of what can be used."""

import hashlib
import math
import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio.utils import AudioLoadingError

from local.dropped import Dropped
from local.utterances import CONVERTED, Utterance, format_problem
from utils.audio import PIECE_VALUES, SAMPLE_RATE, AudioError, checked, rate_problem
from utils.channels import as_mono
from utils.ffmpeg import to_flac
from utils.files import WriteError, require_openable

STRETCH_TOLERANCE = 0.1  # seconds by which a stretch may end after its file
# values of torchaudio's filter from a sampling rate to 16 kHz, of which it makes some copies in
# float64: for 44100 Hz they are 70,560, for 44101 Hz 705,616,000
LARGEST_FILTER = 1 << 23


@dataclass(frozen=True)
class Examination:
    """The look at the audio of an utterance.

    Attributes:
      verify: whether to decode the whole file, which finds truncated ones.
      converted: the folder for what ffmpeg converts.
    """

    verify: bool
    converted: Path

    def __call__(self, utterance: Utterance) -> MonoCut | Dropped:
        """Makes of an utterance a cut at 16 kHz with one channel, or says what is wrong with its
        audio."""
        name, path = utterance.id, utterance.audio
        if problem := format_problem(name, path):
            return problem
        if path.suffix.lower() in CONVERTED:
            converted = self.convert(path)
            if isinstance(converted, str):
                return Dropped(name, "corrupt audio", converted)
            path = converted
        if problem := audio_problem(name, path, self.verify):
            return problem
        try:
            # a file of several utterances is called by its path
            called = name if utterance.whole else str(path)
            recording = Recording.from_file(path, recording_id=called)
        except (AudioLoadingError, OSError) as error:
            require_openable(path)
            return Dropped(name, "corrupt audio", f"{path}: {error}")
        return make_cut(utterance, recording)

    def convert(self, path: Path) -> Path | str:
        """The file as FLAC, or what is wrong with it. One that has been converted since it last
        changed is not converted again.

        Raises:
          MissingFfmpeg: there is no ffmpeg.
          WriteError: the disk is full, for one.
        """
        try:
            digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
            target = self.converted / f"{path.stem[:40]}-{digest}.flac"
            if target.is_file() and target.stat().st_mtime >= path.stat().st_mtime:
                return target
            if path.stat().st_size == 0:
                return f"{path} has 0 bytes"
            to_flac(path, target)
        except WriteError:
            raise
        except (ValueError, OSError) as error:
            require_openable(path)
            return f"{path}: {error}"
        return target


def make_cut(utterance: Utterance, recording: Recording) -> MonoCut | Dropped:
    """The cut of an utterance at 16 kHz, or the reason why its recording has no such stretch."""
    name, channel = utterance.id, utterance.channel or 0
    if channel not in recording.channel_ids:
        detail = f"{utterance.audio} has no channel {channel}"
        return Dropped(name, "no such stretch", detail)
    if utterance.channel is None:
        recording = as_mono(recording)
    rest = recording.duration - utterance.start
    duration = rest if utterance.duration is None else min(utterance.duration, rest)
    # the times of tables are rounded
    if duration <= 0 or (utterance.duration or 0) > rest + STRETCH_TOLERANCE:
        end = utterance.start + (utterance.duration or 0)
        detail = (
            f"{utterance.audio} is {recording.duration:.2f} s long, and the utterance is from "
            f"{utterance.start:.2f} to {end:.2f} s"
        )
        return Dropped(name, "no such stretch", detail)
    supervision = SupervisionSegment(
        name,
        recording.id,
        0.0,
        duration,
        channel=channel,
        language="English",
        speaker=utterance.speaker,
        text=utterance.text,
    )
    cut = MonoCut(
        name, utterance.start, duration, channel, recording=recording, supervisions=[supervision]
    )
    return cut if recording.sampling_rate == SAMPLE_RATE else cut.resample(SAMPLE_RATE)


def audio_problem(name: str, path: Path, verify: bool) -> Dropped | None:
    """Looks for what is wrong with an audio file; None: nothing.

    Args:
      name: of the utterance. verify: as :class:`Examination` has it.
    """
    problem = file_problem(path, verify) or (float_problem(path) if verify else None)
    return Dropped(name, *problem) if problem else None


@lru_cache(maxsize=64)  # a file of many utterances is looked at once
def file_problem(path: Path, verify: bool) -> tuple[str, str] | None:
    """The reason and the detail of what is wrong with an audio file; None: nothing."""
    try:
        str(path).encode("utf-8")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "corrupt audio", f"{path} is not a file"
        if status.st_size == 0:
            return "empty audio", f"{path} has 0 bytes"
        if not os.access(path, os.R_OK):
            return "unreadable audio", f"{path}: no permission to read it"
        with soundfile.SoundFile(path) as audio:
            frames = audio.frames
            if problem := rate_problem(audio.samplerate) or filter_problem(audio.samplerate):
                return "sampling rate not read", f"{path}: {problem}"
            # in pieces: a recording may be of hours, and have a thousand channels
            piece = max(1, PIECE_VALUES // audio.channels)
            blocks = audio.blocks(piece, dtype="int16") if verify else ()
            decoded = sum(map(len, blocks)) if verify else frames
    except UnicodeEncodeError:
        return "path not in UTF-8", f"{path}: manifests can not hold such names; rename it"
    except ValueError as error:  # a zero, such as may stand in a list
        return "missing audio", f"{str(path)!r} is no name of a file: {error}"
    except FileNotFoundError:
        is_link = "is a link to a file that is not there" if path.is_symlink() else "is not there"
        return "missing audio", f"{path} {is_link}"
    except (soundfile.SoundFileError, OSError, MemoryError) as error:
        require_openable(path)
        return "corrupt audio", f"{path}: {error}"
    if frames == 0:
        return "empty audio", f"{path} has no samples"
    if decoded < frames:
        return "corrupt audio", f"{path} is truncated: {decoded} of {frames} samples"
    return None


@lru_cache(maxsize=64)
def float_problem(path: Path) -> tuple[str, str] | None:
    """The reason and the detail of samples that are NaN, infinite or far too large, which a file of
    floats alone can hold; None: there are none. (As integers, which is how others are decoded, NaN
    would look like silence.)"""
    with soundfile.SoundFile(path) as audio:
        if audio.subtype in ("FLOAT", "DOUBLE"):
            try:
                for block in audio.blocks(max(1, PIECE_VALUES // audio.channels), dtype="float32"):
                    checked(block, str(path))
            except AudioError as error:
                return "corrupt audio", str(error)
    return None


def filter_problem(rate: int) -> str | None:
    """Says that features of a sampling rate would need too much memory; None: they do not."""
    common = math.gcd(rate, SAMPLE_RATE)
    if rate * SAMPLE_RATE // common**2 <= LARGEST_FILTER:
        return None
    return (
        f"{rate} Hz and {SAMPLE_RATE} Hz have so little in common that to resample it would take "
        f"gigabytes; convert it to {SAMPLE_RATE} Hz"
    )
