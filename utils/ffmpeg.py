"""Converts what libsndfile can not read, such as M4A, by ffmpeg."""

import shutil
import subprocess
from pathlib import Path

from utils.audio import SAMPLE_RATE
from utils.errors import UserError
from utils.files import atomic_path

SECONDS = 3600  # that one file may take
# what a file may be, whatever its name says: playlists, scripts and the like would read other files
FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,flac,flv,m4a,matroska,mov,mp3,mp4,mpeg,mpegts,ogg,w64,wav,"
    "webm,wv"
)


class MissingFfmpeg(UserError):
    """There is no ffmpeg."""


def ffmpeg() -> str:
    """The path of ffmpeg: the system's, or that of the package imageio-ffmpeg.

    Raises:
      MissingFfmpeg: there is neither.
    """
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        raise MissingFfmpeg(
            "ffmpeg is needed to read this format; install it, or its package: "
            ".venv/bin/pip install imageio-ffmpeg"
        ) from None


def to_flac(source: Path, target: Path) -> None:
    """Writes the first audio stream of a file as FLAC, 16 kHz, mono. Nothing but files is read,
    whatever the file says.

    Raises:
      MissingFfmpeg: there is no ffmpeg.
      ValueError: the file can not be converted; the message is ffmpeg's.
    """
    with atomic_path(target) as path:
        command = [
            *(ffmpeg(), "-nostdin", "-v", "error", "-y", "-protocol_whitelist", "file"),
            *("-format_whitelist", FORMATS),
            *("-xerror", "-i", f"file:{source}", "-map", "0:a:0", "-ac", "1"),
            *("-ar", str(SAMPLE_RATE), "-sample_fmt", "s16", "-f", "flac", f"file:{path}"),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"ffmpeg took longer than {SECONDS} s") from error
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            raise ValueError(f"ffmpeg: {lines[-1] if lines else 'failed'}") from error
