"""Stage 1: scans the corpus, checks every utterance, writes lhotse manifests and the list of what was dropped and why."""

import logging
from argparse import Namespace
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import soundfile
from lhotse import CutSet, MonoCut
from lhotse.recipes.librispeech import parse_utterance

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.stages import stage_main
from local.make_corpus import jobs
from utils.files import atomic_path, write_text_atomic
from utils.progress import progress
from utils.stages import StageError

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Dropped:
    """An utterance that is left out: its id, the reason (one of a few) and what exactly was wrong."""

    id: str
    reason: str
    detail: str = ""


def scan_chapter(split_folder: Path, verify: bool, folder: Path) -> tuple[list[MonoCut], list[Dropped]]:
    """The utterances of one ``SPEAKER/CHAPTER`` folder: those that can be used and those that can not."""
    cuts, dropped = [], []
    lines = []
    for path in sorted(folder.glob("*.trans.txt")):
        lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
    listed = set()
    for line in filter(None, (line.strip() for line in lines)):
        name, _, text = line.partition(" ")
        if name in listed:
            dropped.append(Dropped(name, "duplicate id", f"a second transcript in {folder}"))
            continue
        listed.add(name)
        audio = folder / f"{name}.flac"
        problem = None if text.strip() else Dropped(name, "empty transcript", str(folder))
        problem = problem or audio_problem(name, audio, verify)
        if problem:
            dropped.append(problem)
            continue
        parsed = parse_utterance(split_folder, line, {})
        if parsed is None:  # its id does not spell its folder, SPEAKER-CHAPTER-NUMBER
            dropped.append(Dropped(name, "misplaced audio", f"{audio}: the id does not match the folder"))
            continue
        recording, supervision = parsed
        cut = MonoCut(name, 0.0, recording.duration, 0, recording=recording, supervisions=[supervision])
        cuts.append(cut if recording.sampling_rate == SAMPLE_RATE else cut.resample(SAMPLE_RATE))
    for audio in sorted(folder.glob("*.flac")):
        if audio.stem not in listed:
            dropped.append(Dropped(audio.stem, "missing transcript", str(audio)))
    return cuts, dropped


def audio_problem(name: str, path: Path, verify: bool) -> Dropped | None:
    """What is wrong with an audio file, if anything. ``verify`` decodes it whole, which finds truncated ones."""
    if not path.is_file():
        return Dropped(name, "missing audio", str(path))
    if path.stat().st_size == 0:
        return Dropped(name, "empty audio", f"{path} has 0 bytes")
    try:
        frames = soundfile.info(path).frames
        decoded = len(soundfile.read(path, dtype="int16")[0]) if verify else frames
    except (soundfile.SoundFileError, OSError, MemoryError) as error:
        return Dropped(name, "corrupt audio", f"{path}: {error}")
    if frames == 0:
        return Dropped(name, "empty audio", f"{path} has no samples")
    if decoded < frames:
        return Dropped(name, "corrupt audio", f"{path} is truncated: {decoded} of {frames} samples")
    return None


def scan_split(root: Path, split: str, verify: bool, processes: int) -> tuple[list[MonoCut], list[Dropped]]:
    """All utterances of a split, in the order of their ids."""
    folder = root / split
    chapters = sorted({p.parent for pattern in ("*.trans.txt", "*.flac") for p in folder.rglob(pattern)})
    if not chapters:
        raise StageError(f"no .flac and no .trans.txt below {folder}; expected {split}/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac")
    cuts, dropped, seen = [], [], set()
    with ProcessPoolExecutor(processes) as pool:
        results = pool.map(partial(scan_chapter, folder, verify), chapters, chunksize=4)
        for good, bad in progress(results, total=len(chapters), desc=split, unit="chapter"):
            dropped += bad
            for cut in good:
                if cut.id in seen:
                    dropped.append(Dropped(cut.id, "duplicate id", "in two chapters"))
                else:
                    seen.add(cut.id)
                    cuts.append(cut)
    return cuts, dropped


def length_problem(cut: MonoCut, config: Config) -> Dropped | None:
    """Too long or too short to train on."""
    if cut.duration > config.data.max_seconds:
        return Dropped(cut.id, "too long", f"{cut.duration:.2f} s, data.max_seconds is {config.data.max_seconds}")
    if cut.duration < config.data.min_seconds:
        return Dropped(cut.id, "too short", f"{cut.duration:.2f} s, data.min_seconds is {config.data.min_seconds}")
    return None


def write_dropped(path: Path, dropped: dict[str, list[Dropped]]) -> None:
    """A TSV file: split, utterance, reason, detail."""
    rows = ["split\tutterance\treason\tdetail\n"]
    rows += [f"{split}\t{d.id}\t{d.reason}\t{' '.join(d.detail.split())}\n" for split, items in dropped.items() for d in items]
    write_text_atomic(path, "".join(rows))


def report(split: str, kept: list, dropped: list[Dropped], listing: Path, notes: str = "") -> None:
    """Log what a split keeps and drops."""
    hours = sum(c.duration for c in kept) / 3600
    logging.info("%s: kept %d utterances, %.2f h%s; dropped %d", split, len(kept), hours, notes, len(dropped))
    for reason, count in Counter(d.reason for d in dropped).most_common():
        example = next(d for d in dropped if d.reason == reason)
        logging.info("%s:   %d %s, for example %s (all in %s)", split, count, reason, example.id, listing)


def prepare(config: Config, arguments: Namespace) -> None:
    folder, listing = config.data_dir / "manifests", config.data_dir / "dropped.tsv"
    all_dropped: dict[str, list[Dropped]] = {}
    for split in config.splits:
        cuts, dropped = scan_split(config.corpus_root, split, config.data.verify_audio, jobs(config))
        if split in config.data.train:
            problems = {c.id: p for c in cuts if (p := length_problem(c, config))}
            dropped += problems.values()
            cuts = [c for c in cuts if c.id not in problems]
        resampled = sum(c.recording.sampling_rate != SAMPLE_RATE or bool(c.recording.transforms) for c in cuts)
        notes = f" ({resampled} resampled to 16 kHz)" if resampled else ""
        report(split, cuts, dropped, listing, notes)
        all_dropped[split] = dropped
        write_dropped(listing, all_dropped)
        if not cuts:
            raise StageError(f"nothing is left of {split}; {listing} says why")
        with atomic_path(folder / f"{split}.jsonl.gz") as path:
            CutSet.from_cuts(cuts).to_file(path)


if __name__ == "__main__":
    stage_main(1, prepare, __doc__)
