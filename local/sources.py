"""Where the utterances of a split come from: a folder in LibriSpeech layout, a Kaldi data folder, a
table (TSV, CSV, JSON lines), or a lhotse manifest."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from local.corpus_files import TRANSCRIPTS, find, pair
from local.dropped import Dropped
from local.kaldi_folder import is_kaldi_folder, read_kaldi
from local.lhotse_manifests import is_lhotse, read_lhotse
from local.tables import DELIMITERS, read_json_lines, read_table
from local.utterances import Utterance
from todm.config.sources import JSON_LINES, kind_of_file
from utils.errors import UserError
from utils.text import TextForm


@dataclass
class Source:
    """All that a source has, none of it lost.

    Attributes:
      utterances: those whose transcript can be used; nothing is known of their audio.
      dropped: the others. lines: the number of transcripts.
      audio_files: of audio files that lie in it; None: it only names some.
    """

    utterances: list[Utterance] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    lines: int = 0
    audio_files: int | None = None

    def bring_into(self, form: TextForm) -> None:
        """Brings the transcripts into a form; those of which nothing is left are dropped."""
        utterances, self.utterances = self.utterances, []
        for utterance in utterances:
            if text := form(utterance.text):
                self.utterances.append(replace(utterance, text=text))
            else:
                detail = f"{utterance.written!r} is punctuation alone"
                self.dropped.append(Dropped(utterance.id, "empty transcript", detail))


def read_source(path: Path, split: str, form: TextForm | None = None) -> Source:
    """Reads a split.

    Args:
      split: its name, for messages. form: that its transcripts are brought into.
    Raises:
      UserError: nothing is there, or nothing that could be a split.
    """
    source = _read(path, split)
    if form:
        source.bring_into(form)
    return source


def _read(path: Path, split: str) -> Source:
    if path.is_dir():
        return _listed(read_kaldi(path)) if is_kaldi_folder(path) else read_layout(path, split)
    if not path.is_file():
        raise UserError(f"{path}, the split {split}, is not there")
    kind = kind_of_file(path.name)
    if kind in DELIMITERS:
        return _listed(read_table(path, DELIMITERS[kind]))
    if kind in JSON_LINES:
        return _listed(read_lhotse(path) if is_lhotse(path) else read_json_lines(path))
    raise UserError(
        f"{path}, the split {split}, is no file that lists utterances: those end in "
        f"{', '.join([*DELIMITERS, *JSON_LINES])}"
    )


def _listed(found: list[Utterance | Dropped]) -> Source:
    """The source of a list; of several utterances with one id the first is kept."""
    lines = sum(isinstance(item, Utterance) or item.line for item in found)
    source, seen = Source(lines=lines), set[str]()
    for item in found:
        if isinstance(item, Utterance) and item.id in seen:
            item = Dropped(item.id, "duplicate id", f"{item.audio}: the first of this id is kept")
        if isinstance(item, Utterance):
            seen.add(item.id)
            source.utterances.append(item)
        else:
            source.dropped.append(item)
    return source


def read_layout(folder: Path, split: str) -> Source:
    """Reads a folder in LibriSpeech layout.

    Raises:
      UserError: it has no audio and no transcript; the message says what it has.
    """
    found = find(folder)
    if not found.audio and not found.lines:
        unreadable = "".join(f"; {d.detail}" for d in found.unreadable[:3])
        there = sorted(p.name for p in folder.iterdir())[:5] if folder.is_dir() else []
        raise UserError(
            f"no audio and no {TRANSCRIPTS} below {folder}, the split {split}; expected "
            f"{split}/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac (or .wav, .mp3, .ogg, .opus, "
            f".m4a) with SPEAKER-CHAPTER{TRANSCRIPTS} beside it; found: "
            f"{', '.join(there) or 'nothing'}{unreadable}"
        )
    utterances, dropped = pair(found, folder)
    return Source(utterances, dropped, len(found.lines), len(found.audio))
