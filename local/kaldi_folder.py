"""A Kaldi data folder: ``wav.scp`` and ``text``, with ``segments`` and ``utt2spk`` where they are.

lhotse's reader stops at the first file that is damaged and runs the commands of ``wav.scp``; this
one lists what it can not use, and runs nothing.
"""

from pathlib import Path

from local.corpus_files import canonical, parse
from local.dropped import Dropped
from local.tables import checked_utterance, legible, located, one_word, stretch
from local.utterances import Utterance
from utils.errors import UserError

NEEDED = ("wav.scp", "text")


def is_kaldi_folder(folder: Path) -> bool:
    """Whether it has a ``wav.scp``."""
    return (folder / "wav.scp").is_file()


def read_kaldi(folder: Path) -> list[Utterance | Dropped]:
    """Reads the utterances that ``text`` has; those that ``segments``, or without it ``wav.scp``,
    has besides are without a transcript.

    Raises:
      UserError: ``wav.scp`` or ``text`` is missing, or a file is not in UTF-8.
    """
    files, repeated = {}, {}
    for name in ("wav.scp", "text", "segments", "utt2spk"):
        if name in NEEDED or (folder / name).is_file():
            files[name], repeated[name] = read_pairs(folder / name)
    text, listing = files["text"], "segments" if "segments" in files else "wav.scp"
    twice, unsaid = f"{folder / 'text'} has it more than once", f"{folder / 'text'} lacks it"
    return [
        *(_utterance(folder, files, name) for name in text),
        *(Dropped(name, "duplicate id", twice, audio=False) for name in repeated["text"]),
        *(
            Dropped(name, "missing transcript", unsaid, line=False)
            for name in files[listing]
            if name not in text
        ),
    ]


def _utterance(folder: Path, files: dict[str, dict[str, str]], name: str) -> Utterance | Dropped:
    """The utterance of a name, or the reason why it can not be used."""
    recording, start, duration = name, 0.0, None
    if "segments" in files:
        where = f"{folder / 'segments'}, {name}"
        fields = files["segments"].get(name, "").split()
        if len(fields) != 3:
            detail = f"{where}: expected RECORDING START END, found {' '.join(fields) or 'nothing'}"
            return Dropped(name, "no such stretch", detail, audio=False)
        recording, begin, end = fields
        try:
            # an end of -1 is that of the recording
            times = {"start": begin} if float(end) == -1 else {"start": begin, "end": end}
            start, duration = stretch(times)
        except ValueError as error:
            return Dropped(name, "no such stretch", f"{where}: {error}", audio=False)
    source = files["wav.scp"].get(recording)
    if not source:
        detail = f"{folder / 'wav.scp'} has no {recording}"
        return Dropped(name, "missing audio", detail, audio=False)
    if source.endswith("|"):
        detail = (
            f"{folder / 'wav.scp'} has the command {source!r}, which is not run; write its output "
            "to a file, and that into wav.scp"
        )
        return Dropped(name, "command for audio", detail, audio=False)
    speaker = one_word(files.get("utt2spk", {}).get(name) or name)
    return checked_utterance(
        name,
        files["text"][name],
        located(folder, source),
        speaker,
        str(folder / "text"),
        start,
        duration,
    )


def read_pairs(path: Path) -> tuple[dict[str, str], list[str]]:
    """The lines of a file, ``NAME REST``, by the name; of several the first counts. And the names
    of the others.

    Raises:
      UserError: it is missing, or not in UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} has a wav.scp and no {path.name}, as a Kaldi folder has")
    pairs: dict[str, str] = {}
    repeated: list[str] = []
    for line in legible(path, path.read_bytes()).split("\n"):
        name, rest = parse(line)
        name = canonical(name)
        if name in pairs:
            repeated.append(name)
        elif name:
            pairs[name] = rest
    return pairs, repeated
