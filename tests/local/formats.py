"""Stage 1 on made-up corpora of every kind that it takes; run as a program, a Markdown table of
them for docs/own-corpus.md:

    python -m tests.local.formats            # all of it: some minutes
    python -m tests.local.formats --short    # the sizes that the tests run

Every utterance is a tone of its own pitch. It is heard right if stage 1 keeps it, and its cut has
its length and its pitch.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from local.examination import Examination
from local.prepare_manifests import scan_split
from utils.audio import SAMPLE_RATE
from utils.errors import UserError
from utils.ffmpeg import MissingFfmpeg, ffmpeg
from utils.text import markdown_table

SECONDS = 1.2  # of an utterance
RATES = (8000, 16000, 44100, 48000)
LOWEST, STEP = 200, 7  # pitch of the first utterance in Hz, and by how much the next is higher
PITCHES = 400  # after which they begin again
WAV = {  # by the words of the table
    "WAV, 8 bits": "PCM_U8",
    "WAV, 16 bits": "PCM_16",
    "WAV, 24 bits": "PCM_24",
    "WAV, 32 bits": "PCM_32",
    "WAV, float": "FLOAT",
    "WAV, double": "DOUBLE",
}
FORMATS = {  # by the words of the table: file ending, and libsndfile's subtype where one is named
    "FLAC": (".flac", None),
    **{name: (".wav", subtype) for name, subtype in WAV.items()},
    "MP3": (".mp3", None),
    "OGG Vorbis": (".ogg", "VORBIS"),
    "Opus": (".opus", "OPUS"),
    "M4A (AAC, by ffmpeg)": (".m4a", None),
}
SIZES, SHORT_SIZES = (1, 100, 2000), (1, 20)


@dataclass(frozen=True)
class Tone:
    """An utterance: its id, its file and its pitch in Hz."""

    name: str
    path: Path
    pitch: float


@dataclass(frozen=True)
class Tried:
    """A corpus that stage 1 was given, and what it made of it.

    Attributes:
      right: the utterances that are heard right, of those that were looked at.
      seconds: of a core that stage 1 takes for the split, with those of ffmpeg.
    """

    what: str
    given: int
    kept: int
    right: int
    looked_at: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing was lost or misheard."""
        return self.kept == self.given and self.right == self.looked_at


def pitch_of(number: int) -> float:
    """The pitch of the utterance of that number, in Hz."""
    return LOWEST + STEP * (number % PITCHES)


def write_tone(
    folder: Path, number: int, kind: str, rate: int = SAMPLE_RATE, channels: int = 1
) -> Tone:
    """Writes an utterance in LibriSpeech layout, without its transcript.

    Raises:
      MissingFfmpeg: the format needs it.
    """
    ending, subtype = FORMATS[kind]
    name = f"7-1-{number:05}"
    path = folder / "7" / "1" / f"{name}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    time_axis = np.arange(round(SECONDS * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * pitch_of(number) * time_axis)
    samples = np.stack([tone] * channels, axis=1)
    if ending != ".m4a":
        container = {".opus": "OGG"}.get(ending)
        soundfile.write(path, samples, rate, subtype=subtype, format=container)
    else:
        wav = path.with_suffix(".wav")
        soundfile.write(wav, samples, rate)
        command = [ffmpeg(), "-loglevel", "error", "-y", "-i", wav, path]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        wav.unlink()
    return Tone(name, path, pitch_of(number))


def transcript(tone: Tone) -> str:
    """The text of an utterance."""
    return f"A TONE OF {round(tone.pitch)}"


def as_folder(folder: Path, tones: list[Tone]) -> Path:
    """A folder in LibriSpeech layout."""
    lines = "".join(f"{tone.name} {transcript(tone)}\n" for tone in tones)
    (tones[0].path.parent / "7-1.trans.txt").write_text(lines)
    return folder / "audio"


def as_tsv(folder: Path, tones: list[Tone]) -> Path:
    """A table."""
    lines = [f"{tone.name}\t{tone.path}\t{transcript(tone)}\n" for tone in tones]
    (folder / "x.tsv").write_text("id\tpath\ttext\n" + "".join(lines))
    return folder / "x.tsv"


def as_json_lines(folder: Path, tones: list[Tone]) -> Path:
    """JSON lines, as NeMo has them."""
    rows = ({"id": t.name, "audio_filepath": str(t.path), "text": transcript(t)} for t in tones)
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "x.jsonl"


def as_cuts(folder: Path, tones: list[Tone]) -> Path:
    """A manifest of lhotse's cuts."""
    cuts = []
    for tone in tones:
        recording = Recording.from_file(tone.path, recording_id=tone.name)
        text = transcript(tone)
        said = SupervisionSegment(tone.name, tone.name, 0.0, recording.duration, text=text)
        cuts.append(
            MonoCut(tone.name, 0.0, recording.duration, 0, recording=recording, supervisions=[said])
        )
    CutSet.from_cuts(cuts).to_file(folder / "cuts_x.jsonl.gz")
    return folder / "cuts_x.jsonl.gz"


def as_kaldi(folder: Path, tones: list[Tone]) -> Path:
    """A Kaldi data folder."""
    kaldi = folder / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text("".join(f"{t.name} {t.path}\n" for t in tones))
    (kaldi / "text").write_text("".join(f"{t.name} {transcript(t)}\n" for t in tones))
    return kaldi


LAYOUTS: dict[str, Callable[[Path, list[Tone]], Path]] = {
    "folder": as_folder,
    "TSV": as_tsv,
    "JSON lines": as_json_lines,
    "lhotse cuts": as_cuts,
    "Kaldi folder": as_kaldi,
}


def heard_right(cut: MonoCut, tone: Tone) -> bool:
    """Whether a cut has the utterance's text, its length and its pitch. Coders pad a little."""
    samples = cut.resample(SAMPLE_RATE).load_audio()[0]
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    heard = spectrum.argmax() * SAMPLE_RATE / len(samples)
    return (
        cut.supervisions[0].text == transcript(tone)
        and abs(len(samples) / SAMPLE_RATE - SECONDS) < 0.15
        and abs(heard - tone.pitch) < 2
    )


def core_seconds() -> float:
    """The seconds of a core that this process and those that it has waited for have taken: the same
    whatever runs beside them."""
    return sum(os.times()[:4])


def try_corpus(what: str, source: Path, tones: list[Tone], work: Path) -> Tried:
    """Gives a corpus to what stage 1 does with a split, and listens to what it keeps: to 50 of it
    at most."""
    begin = core_seconds()
    cuts, _ = scan_split(source, "x", Examination(True, work / "converted"), 1)
    seconds = core_seconds() - begin
    by_name = {cut.id: cut for cut in cuts}
    chosen = tones[:: max(1, len(tones) // 50)][:50]
    right = sum(t.name in by_name and heard_right(by_name[t.name], t) for t in chosen)
    return Tried(what, len(tones), len(cuts), right, len(chosen), seconds)


def trials(folder: Path, short: bool) -> Iterator[Tried]:
    """All that is tried: formats at every rate in mono and stereo, layouts, and sizes."""
    sizes = SHORT_SIZES if short else SIZES
    for kind in FORMATS:
        work = folder / "format"
        try:
            shapes = [(rate, channels) for rate in RATES for channels in (1, 2)]
            if kind == "Opus":  # has no 44.1 kHz
                shapes = [(rate, channels) for rate, channels in shapes if rate != 44100]
            tones = [write_tone(work / "audio", i, kind, *shape) for i, shape in enumerate(shapes)]
        except MissingFfmpeg:
            continue
        rates = ", ".join(f"{rate / 1000:g}" for rate in dict.fromkeys(rate for rate, _ in shapes))
        what = f"{kind}: {rates} kHz, mono and stereo"
        yield try_corpus(what, as_folder(work, tones), tones, work)
        shutil.rmtree(work)
    for layout, make in LAYOUTS.items():
        work = folder / "layout"
        tones = [write_tone(work / "audio", i, "FLAC") for i in range(sizes[1])]
        yield try_corpus(f"{layout}, FLAC", make(work, tones), tones, work)
        shutil.rmtree(work)
    for kind in ("FLAC", "MP3"):
        for size in sizes:
            work = folder / "size"
            tones = [write_tone(work / "audio", i, kind) for i in range(size)]
            yield try_corpus(f"folder, {kind}", as_folder(work, tones), tones, work)
            shutil.rmtree(work)


def table(tried: list[Tried]) -> str:
    """What was tried, in Markdown."""
    rows = [
        [
            t.what,
            f"{t.given:,}",
            f"{t.given - t.kept:,}",
            f"{t.right} of {t.looked_at}",
            f"{t.seconds:.1f}",
        ]
        for t in tried
    ]
    return markdown_table(["corpus", "utterances", "dropped", "heard right", "core seconds"], rows)


def main() -> int:
    """Prints the table; the exit status is 1 if something was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.local.formats",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--short", action="store_true", help="few utterances")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="formats-") as folder:
        try:
            tried = list(trials(Path(folder), arguments.short))
        except UserError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            return 2
    print(table(tried))
    return 0 if all(t.good for t in tried) else 1


if __name__ == "__main__":
    sys.exit(main())
