"""Stage 1, manifests: scans the corpus, checks every utterance, and writes lhotse manifests and the
list of what was dropped and why."""

import logging
import os
import shutil
import stat
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.audio.utils import AudioLoadingError

from local.corpus_files import Found, Utterance, find, pair
from local.dropped import Dropped, report, write_dropped
from local.make_corpus import jobs
from local.spoken_words import make_spoken_words
from todm.config.keys import SPOKEN_WORDS, Config
from todm.recipe.stage_main import stage_main
from utils.audio import SAMPLE_RATE
from utils.channels import as_mono, is_mean
from utils.errors import UserError
from utils.files import atomic_path, require_openable
from utils.processes import end_with_parent
from utils.progress import progress


def examine(verify: bool, utterance: Utterance) -> MonoCut | Dropped:
    """Makes of an utterance a cut at 16 kHz with one channel, or says what is wrong with its audio.

    Args:
      verify: whether to decode the whole file, which finds truncated ones.
    """
    name, path = utterance.id, utterance.audio
    if problem := audio_problem(name, path, verify):
        return problem
    try:
        recording = as_mono(Recording.from_file(path, recording_id=name))
    except (AudioLoadingError, OSError) as error:
        return Dropped(name, "corrupt audio", f"{path}: {error}")
    supervision = SupervisionSegment(
        name,
        name,
        0.0,
        recording.duration,
        channel=0,
        language="English",
        speaker=name.partition("-")[0],
        text=utterance.text,
    )
    cut = MonoCut(name, 0.0, recording.duration, 0, recording=recording, supervisions=[supervision])
    return cut if recording.sampling_rate == SAMPLE_RATE else cut.resample(SAMPLE_RATE)


def audio_problem(name: str, path: Path, verify: bool) -> Dropped | None:
    """Looks for what is wrong with an audio file; None: nothing. The arguments are as for
    :func:`examine`."""
    try:
        str(path).encode("utf-8")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Dropped(name, "corrupt audio", f"{path} is not a file")
        if status.st_size == 0:
            return Dropped(name, "empty audio", f"{path} has 0 bytes")
        if not os.access(path, os.R_OK):
            return Dropped(name, "unreadable audio", f"{path}: no permission to read it")
        frames = soundfile.info(path).frames
        decoded = len(soundfile.read(path, dtype="int16")[0]) if verify else frames
    except UnicodeEncodeError:
        return Dropped(
            name, "path not in UTF-8", f"{path}: manifests can not hold such names; rename it"
        )
    except FileNotFoundError:
        return Dropped(name, "missing audio", f"{path} is a link to a file that is not there")
    except (soundfile.SoundFileError, OSError, MemoryError) as error:
        require_openable(path)
        return Dropped(name, "corrupt audio", f"{path}: {error}")
    if frames == 0:
        return Dropped(name, "empty audio", f"{path} has no samples")
    if decoded < frames:
        return Dropped(name, "corrupt audio", f"{path} is truncated: {decoded} of {frames} samples")
    return None


def scan_split(
    root: Path, split: str, verify: bool, processes: int
) -> tuple[list[MonoCut], list[Dropped]]:
    """Examines all utterances of a split.

    Returns:
      Those that can be used, in the order of the transcripts, and those that can not.
    Raises:
      UserError: there are none.
    """
    folder = root / split
    found = find(folder)
    if not found.audio and not found.lines:
        unreadable = "".join(f"; {d.detail}" for d in found.unreadable[:3])
        raise UserError(
            f"no .flac and no .trans.txt below {folder}; expected "
            f"{split}/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac{unreadable}"
        )
    utterances, dropped = pair(found, folder)
    cuts: list[MonoCut] = []
    with ProcessPoolExecutor(processes, initializer=end_with_parent) as pool:
        results = pool.map(partial(examine, verify), utterances, chunksize=16)
        for result in progress(results, total=len(utterances), desc=split, unit="utt"):
            (cuts if isinstance(result, MonoCut) else dropped).append(result)
    account_for(folder, split, found, cuts, dropped)
    report_changed(split, utterances)
    return cuts, dropped


def account_for(
    folder: Path, split: str, found: Found, cuts: list[MonoCut], dropped: list[Dropped]
) -> None:
    """Logs what becomes of all files and lines below a split's folder.

    Raises:
      UserError: they do not add up.
    """
    for what, there, lost in (
        ("audio files", found.audio, [d for d in dropped if d.audio]),
        ("lines of transcripts", found.lines, [d for d in dropped if d.line]),
    ):
        logging.info(
            "%s: %d %s lie below %s: %d can be used, %d can not",
            split,
            len(there),
            what,
            folder,
            len(cuts),
            len(lost),
        )
        if len(there) != len(cuts) + len(lost):
            raise UserError(
                f"{split}: the {what} do not add up; this is a fault of local/corpus_files.py, "
                "please report it"
            )


def report_changed(split: str, utterances: list[Utterance]) -> None:
    """Logs how many transcripts were normalised to something else than what is written."""
    changed = [u for u in utterances if u.text != u.written]
    if changed:
        u = changed[0]
        logging.info(
            "%s: %d transcripts are not as they are written, but normalised (NFKC, white space, "
            "nothing that is not seen), "
            "for example %s: %r is now %r",
            split,
            len(changed),
            u.id,
            u.written,
            u.text,
        )


def length_problem(cut: MonoCut, config: Config) -> Dropped | None:
    """Says whether an utterance is too long or too short to train on; None: neither."""
    if cut.duration > config.data.max_seconds:
        return Dropped(
            cut.id,
            "too long",
            f"{cut.duration:.2f} s, data.max_seconds is {config.data.max_seconds}",
        )
    if cut.duration < config.data.min_seconds:
        return Dropped(
            cut.id,
            "too short",
            f"{cut.duration:.2f} s, data.min_seconds is {config.data.min_seconds}",
        )
    return None


def describe_audio(cuts: list[MonoCut]) -> str:
    """The note on recordings that are not 16 kHz mono files, for the log; empty: all are."""
    resampled = sum(
        any(type(t).__name__ == "Resample" for t in cut.recording.transforms or []) for cut in cuts
    )
    mixed = sum(is_mean(cut.recording) for cut in cuts)
    notes = [f"{resampled} resampled to 16 kHz"] * bool(resampled) + [
        f"{mixed} of more than one channel, whose mean is taken"
    ] * bool(mixed)
    return f" ({', '.join(notes)})" if notes else ""


def prepare(config: Config, arguments: Namespace) -> None:
    """Writes the manifests and ``dropped.tsv``.

    Raises:
      UserError: nothing is left of a split.
    """
    folder = config.data_dir / "manifests"
    all_dropped: dict[str, list[Dropped]] = {}
    texts: list[str] = []  # of train
    for split in config.splits:
        cuts = prepare_split(config, config.corpus_root, split, all_dropped)
        if split in config.data.train:
            texts += [cut.supervisions[0].text for cut in cuts]
        with atomic_path(folder / f"{split}.jsonl.gz") as path:
            CutSet.from_cuts(cuts).to_file(path)
    if config.data.spoken_words:
        hours, language = config.data.spoken_words, config.data.spoken_language
        target = config.data_dir / SPOKEN_WORDS
        shutil.rmtree(target, ignore_errors=True)
        made = make_spoken_words(texts, hours, language, target, jobs(config))
        logging.info("synthetic speech of the words of train: %.2f h in %s", made, target)
        cuts = prepare_split(config, config.data_dir, SPOKEN_WORDS, all_dropped)
        with atomic_path(folder / f"{SPOKEN_WORDS}.jsonl.gz") as path:
            CutSet.from_cuts(cuts).to_file(path)


def prepare_split(
    config: Config, root: Path, split: str, all_dropped: dict[str, list[Dropped]]
) -> list[MonoCut]:
    """The utterances of a split that can be used; the others are added to ``all_dropped`` and to
    ``dropped.tsv``.

    Raises:
      UserError: nothing is left of it.
    """
    listing = config.data_dir / "dropped.tsv"
    cuts, dropped = scan_split(root, split, config.data.verify_audio, jobs(config))
    if split in config.train_splits:
        problems = {c.id: p for c in cuts if (p := length_problem(c, config))}
        dropped += problems.values()
        cuts = [c for c in cuts if c.id not in problems]
    report(split, cuts, dropped, listing, describe_audio(cuts))
    all_dropped[split] = dropped
    write_dropped(listing, all_dropped)
    if not cuts:
        raise UserError(f"nothing is left of {split}; {listing} says why")
    return cuts


if __name__ == "__main__":
    stage_main(1, prepare, __doc__)
