"""Lhotse's manifests as splits: cuts, or supervisions with the recordings beside them."""

import warnings
from pathlib import Path

from lhotse import CutSet, MonoCut, RecordingSet, SupervisionSet
from lhotse.cut import Cut

from local.dropped import Dropped
from local.tables import checked_utterance, json_objects, one_word
from local.utterances import Utterance
from utils.errors import UserError
from utils.text import first_line


def is_lhotse(path: Path) -> bool:
    """Whether the first object of a file of JSON lines is one of lhotse's."""
    first = next(json_objects(path), {})
    return "supervisions" in first or "recording_id" in first or "sources" in first


def read_lhotse(path: Path) -> list[Utterance | Dropped]:
    """Reads the supervisions of a manifest: each is an utterance, called as it is.

    Raises:
      UserError: it is a manifest of recordings, or the recordings are not found, or lhotse can not
        read it.
    """
    first = next(json_objects(path), {})
    lost: list[Utterance | Dropped] = []
    try:
        if "supervisions" in first:
            cuts = CutSet.from_file(path)
        else:
            recordings = RecordingSet.from_file(_recordings(path, first))
            supervisions = SupervisionSet.from_file(path)
            there = {recording.id for recording in recordings}
            lost += [
                Dropped(
                    one_word(s.id), "missing audio", f"{path}: no recording {s.recording_id}", False
                )
                for s in supervisions
                if s.recording_id not in there
            ]
            cuts = CutSet.from_manifests(recordings, supervisions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = [part for cut in cuts for part in _parts(cut)]
    except UserError:
        raise
    except Exception as error:  # whatever lhotse raises for an entry that it can not use
        raise UserError(
            f"{path} is no manifest that lhotse can read: {first_line(error)}"
        ) from error
    return [*(_utterance(path, part) for part in parts), *lost]


def _parts(cut: Cut) -> list[Cut]:
    """A cut for each of its supervisions, as long as that is; itself where it has none."""
    return list(cut.trim_to_supervisions(keep_overlapping=False)) if cut.supervisions else [cut]


def _recordings(path: Path, first: dict) -> Path:
    """The recordings of a manifest of supervisions.

    Raises:
      UserError: they are not beside it, by lhotse's names.
    """
    if "sources" in first:
        raise UserError(
            f"{path} lists recordings and no transcripts; give the supervisions or the cuts"
        )
    beside = path.with_name(path.name.replace("supervisions", "recordings"))
    if beside == path or not beside.is_file():
        raise UserError(
            f"{path} lists supervisions, and their recordings are not beside it: expected "
            f"{path.with_name(path.name.replace('supervisions', 'recordings')).name}"
            if beside != path
            else f"{path} lists supervisions; call it ...supervisions..., with the recordings "
            "beside it as ...recordings..."
        )
    return beside


def _utterance(path: Path, cut: Cut) -> Utterance | Dropped:
    """The utterance of a cut with one supervision, or why it can not be used."""
    called = cut.supervisions[0].id if len(cut.supervisions) == 1 else cut.id
    name = one_word(called)
    problem = _problem(cut)
    if problem:
        return Dropped(name, "cut not usable", f"{path}: {problem}", audio=False)
    assert isinstance(cut, MonoCut) and cut.recording is not None
    [supervision], [source] = cut.supervisions, cut.recording.sources
    audio = Path(source.source)
    if not audio.is_absolute() and not audio.exists():
        audio = path.parent / audio
    whole = cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-3
    return checked_utterance(
        name,
        supervision.text,
        audio,
        one_word(supervision.speaker or name),
        str(path),
        cut.start,
        None if whole else cut.duration,
        cut.channel if cut.recording.num_channels > 1 else None,
    )


def _problem(cut: Cut) -> str | None:
    """What makes a cut unusable; None: nothing."""
    if not isinstance(cut, MonoCut):
        return f"it is a {type(cut).__name__}, not a MonoCut"
    if not cut.has_recording or cut.recording is None:
        return "it has no recording"
    if len(cut.supervisions) != 1:
        return "it has no supervision"
    if cut.recording.transforms:
        return "its recording is transformed; give the recordings as they are"
    kinds = [str(source.type) for source in cut.recording.sources]
    if kinds != ["file"]:
        return f"its audio is {' and '.join(kinds)}, which is not read; only one file is"
    if not isinstance(path := cut.recording.sources[0].source, str) or "\0" in path:
        return f"{path!r} is no name of a file"
    return None
