"""Stage 1, manifests: scans the corpus, checks every utterance, and writes lhotse manifests and the
list of what was dropped and why."""

import logging
import shutil
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from lhotse import CutSet, MonoCut

from local.dropped import Dropped, report, write_dropped
from local.examination import Examination
from local.make_corpus import jobs
from local.sources import Source, read_source
from local.spoken_words import make_spoken_words
from local.utterances import Utterance
from todm.config.keys import SPOKEN_WORDS, Config
from todm.recipe.stage_main import stage_main
from utils.channels import is_mean
from utils.errors import UserError
from utils.files import atomic_path
from utils.processes import end_with_parent
from utils.progress import progress
from utils.text import TextForm


def scan_split(
    path: Path, split: str, examination: Examination, processes: int, form: TextForm | None = None
) -> tuple[list[MonoCut], list[Dropped]]:
    """Examines all utterances of a split.

    Args:
      path: its folder, or the file that lists it.
      form: that its transcripts are brought into.
    Returns:
      Those that can be used, in the order of the transcripts, and those that can not.
    Raises:
      UserError: there are none, or ffmpeg is needed and missing.
    """
    source = read_source(path, split, form)
    cuts: list[MonoCut] = []
    dropped = source.dropped
    with ProcessPoolExecutor(processes, initializer=end_with_parent) as pool:
        results = pool.map(examination, source.utterances, chunksize=16)
        for result in progress(results, total=len(source.utterances), desc=split, unit="utt"):
            (cuts if isinstance(result, MonoCut) else dropped).append(result)
    account_for(path, split, source, cuts, dropped)
    report_changed(split, source.utterances)
    return cuts, dropped


def account_for(
    path: Path, split: str, source: Source, cuts: list[MonoCut], dropped: list[Dropped]
) -> None:
    """Logs what becomes of all files and lines of a split.

    Raises:
      UserError: they do not add up.
    """
    for what, there, lost in (
        ("audio files", source.audio_files, [d for d in dropped if d.audio]),
        ("lines of transcripts", source.lines, [d for d in dropped if d.line]),
    ):
        if there is None:
            continue
        logging.info(
            "%s: %d %s lie %s %s: %d can be used, %d can not",
            split,
            there,
            what,
            "below" if path.is_dir() else "in",
            path,
            len(cuts),
            len(lost),
        )
        if there != len(cuts) + len(lost):
            raise UserError(
                f"{split}: the {what} do not add up; this is a fault of local/sources.py, please "
                "report it"
            )


def report_changed(split: str, utterances: list[Utterance]) -> None:
    """Logs how many transcripts were normalised to something else than what is written."""
    changed = [u for u in utterances if u.text != u.written]
    if changed:
        u = changed[0]
        logging.info(
            "%s: %d transcripts are not as they are written, but normalised (NFKC, white space, "
            "nothing that is not seen, text.normalize and text.punctuation), for example %s: %r is "
            "now %r",
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
        cuts = prepare_split(config, config.source(split), split, all_dropped)
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
        cuts = prepare_split(config, target, SPOKEN_WORDS, all_dropped)
        with atomic_path(folder / f"{SPOKEN_WORDS}.jsonl.gz") as path:
            CutSet.from_cuts(cuts).to_file(path)


def prepare_split(
    config: Config, path: Path, split: str, all_dropped: dict[str, list[Dropped]]
) -> list[MonoCut]:
    """The utterances of a split that can be used; the others are added to ``all_dropped`` and to
    ``dropped.tsv``.

    Args:
      path: the folder of the split, or the file that lists it.
    Raises:
      UserError: nothing is left of it.
    """
    listing = config.data_dir / "dropped.tsv"
    examination = Examination(config.data.verify_audio, config.data_dir / "converted")
    cuts, dropped = scan_split(path, split, examination, jobs(config), config.text.form)
    if split in config.train_splits:
        problems = {c.id: p for c in cuts if (p := length_problem(c, config))}
        dropped += problems.values()
        cuts = [c for c in cuts if c.id not in problems]
    report(split, cuts, dropped, listing, describe_audio(cuts))
    all_dropped[split] = dropped
    write_dropped(listing, all_dropped)
    if not cuts:
        why = f"{listing} says why" if dropped else f"{path} lists no utterance"
        raise UserError(f"nothing is left of {split}; {why}")
    return cuts


def main() -> None:
    """Runs stage 1 from the command line."""
    stage_main(1, prepare, __doc__)


if __name__ == "__main__":
    main()
