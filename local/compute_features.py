"""Stage 2, features: computes the 80-dim log-mel filterbank and stores it, or (features.on_the_fly)
only its mean and deviation."""

import logging
import shutil
from argparse import Namespace
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, FeatureExtractor, LilcomChunkyWriter, MonoCut
from lhotse.audio.utils import AudioLoadingError
from lhotse.recipes import prepare_musan
from lhotse.utils import fastcopy

from local.dropped import Dropped, report, write_dropped
from local.make_corpus import jobs
from todm.config.keys import Config, FeatureConfig
from todm.data.features import make_extractor
from todm.data.frames import FRAMES_PER_SECOND, NUM_MEL_BINS
from todm.recipe.stage_main import stage_main
from utils.channels import as_mono
from utils.errors import UserError
from utils.files import atomic_path, naming, require_openable, write_json_atomic
from utils.processes import end_with_parent
from utils.progress import progress
from utils.text import first_line

STATISTICS_CUTS = 1000  # the number of utterances of train for mean and deviation


class Writer(LilcomChunkyWriter):
    """lhotse's writer, whose errors name the file: a full disk is no unreadable audio."""

    def write(self, key: str, value: np.ndarray) -> str:
        """Appends the features of one utterance; returns the key that finds them."""
        with naming(self.storage_path_):
            return super().write(key, value)

    def close(self) -> None:
        """Writes what is left and closes the file."""
        with naming(self.storage_path_):
            super().close()


def compute_shard(
    config: FeatureConfig, cuts: list[MonoCut], storage: Path
) -> tuple[list[MonoCut], list[Dropped]]:
    """Writes the features of some utterances into one file.

    Returns:
      The utterances with their features, and those that have none with the reason.
    Raises:
      WriteError: the features can not be written.
    """
    torch.set_num_threads(1)
    extractor = make_extractor(config)
    done, failed = [], []
    storage.parent.mkdir(parents=True, exist_ok=True)
    with Writer(storage) as writer:
        for cut in cuts:
            samples = readable_audio(cut)
            if isinstance(samples, Dropped):
                failed.append(samples)
            else:
                features = extractor.extract_from_samples_and_store(
                    samples, writer, cut.sampling_rate, offset=cut.start, channel=cut.channel
                )
                done.append(fastcopy(cut, features=features))
    return done, failed


def read_shard(cuts: list[MonoCut]) -> tuple[list[MonoCut], list[Dropped]]:
    """Decodes some utterances; returns those that can be read, and those that can not."""
    failed = [found for cut in cuts if isinstance(found := readable_audio(cut), Dropped)]
    bad = {d.id for d in failed}
    return [cut for cut in cuts if cut.id not in bad], failed


def readable_audio(cut: MonoCut) -> np.ndarray | Dropped:
    """Reads the samples of an utterance, (channels, N), or says what is wrong with its file.

    Raises:
      OSError: what is wrong is not the file: too many are open, no memory is left.
    """
    path = cut.recording.sources[0].source
    if too_short(cut):
        return Dropped(
            cut.id, "too short", f"{path}: {cut.num_samples} samples are less than half a frame"
        )
    try:
        samples = cut.load_audio()
    except MemoryError:
        raise
    except Exception as error:  # whatever the audio library raises for this one file
        require_openable(path)
        return Dropped(cut.id, "unreadable audio", f"{path}: {error}")
    if not np.isfinite(samples).all():
        return Dropped(cut.id, "unreadable audio", f"{path}: samples are NaN or infinite")
    return samples


def too_short(cut: MonoCut) -> bool:
    """Whether an utterance has not one frame."""
    return cut.num_samples < cut.sampling_rate / FRAMES_PER_SECOND / 2


def compute_split(
    config: Config, cuts: CutSet, folder: Path, name: str
) -> tuple[CutSet, list[Dropped]]:
    """Computes the features of a split in parallel.

    Features that are computed on the fly are not stored: every file that stage 1 has not decoded is
    decoded here, so that training finds none that it can not read.

    Returns:
      The utterances that have features, in the order of the input, and those that have none.
    """
    everything, stored = list(cuts), not config.features.on_the_fly
    if not stored and config.data.verify_audio and name in config.prepared_splits:
        kept, short = drop_short(everything)
        return CutSet.from_cuts(kept), without_copies(short)
    processes = jobs(config)
    size = max(1, min(200, -(-len(everything) // (4 * processes))))
    shards = [everything[i : i + size] for i in range(0, len(everything), size)]
    results: dict[int, list[MonoCut]] = {}
    dropped: list[Dropped] = []
    with (
        ProcessPoolExecutor(processes, initializer=end_with_parent) as pool,
        progress(total=len(everything), desc=f"features of {name}", unit="utt") as bar,
    ):
        futures = {
            pool.submit(compute_shard, config.features, shard, folder / f"{name}-{i}")
            if stored
            else pool.submit(read_shard, shard): i
            for i, shard in enumerate(shards)
        }
        try:
            for future in as_completed(futures):
                i = futures[future]
                results[i], failed = future.result()
                dropped += failed
                bar.update(len(shards[i]))
        except (BrokenExecutor, MemoryError) as error:
            raise UserError(
                f"the memory does not suffice for {processes} processes ({first_line(error)}); "
                "lower data.num_jobs"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return CutSet.from_cuts(cut for i in sorted(results) for cut in results[i]), without_copies(
        dropped
    )


def drop_short(cuts: list[MonoCut]) -> tuple[list[MonoCut], list[Dropped]]:
    """Splits utterances into those that have a frame and those that have none."""
    kept, short = [], []
    for cut in cuts:
        found = readable_audio(cut) if too_short(cut) else None
        if isinstance(found, Dropped):
            short.append(found)
        else:
            kept.append(cut)
    return kept, short


def without_copies(dropped: list[Dropped]) -> list[Dropped]:
    """Each utterance once, in the order of ids: its copies at other speeds are the same file."""
    by_id = {d.id: d for d in sorted(dropped, key=lambda d: d.id)}
    return [d for name, d in by_id.items() if name.rpartition("_sp")[0] not in by_id]


def statistics(cuts: list[MonoCut], extractor: FeatureExtractor) -> dict[str, list[float]]:
    """The mean and standard deviation of every mel bin over a part of train, for the model's fixed
    normalisation.

    Returns:
      ``mean`` and ``std``, 80 numbers each.
    Raises:
      UserError: a file can not be read any more.
    """
    step = max(1, len(cuts) // STATISTICS_CUTS)
    count, total, squares = 0, np.zeros(NUM_MEL_BINS), np.zeros(NUM_MEL_BINS)
    for cut in cuts[::step]:
        try:
            x = cut.load_features() if cut.has_features else cut.compute_features(extractor)
        except (AudioLoadingError, OSError) as error:
            raise UserError(
                f"{cut.recording.sources[0].source} can not be read any more "
                f"({first_line(error)}); "
                "stage 1 with --force looks at all files again"
            ) from error
        x = np.asarray(x, dtype=np.float64)
        count, total, squares = count + len(x), total + x.sum(0), squares + (x**2).sum(0)
    mean = total / count
    return {
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(squares / count - mean**2, 1e-6)).tolist(),
    }


def with_speed_perturbation(cuts: CutSet) -> CutSet:
    """Every utterance at 1.0, 0.9 and 1.1 times its speed."""
    return CutSet.from_cuts([*cuts, *cuts.perturb_speed(0.9), *cuts.perturb_speed(1.1)])


def musan_cuts(config: Config) -> CutSet:
    """MUSAN in pieces of 10 s, through lhotse's recipe.

    Raises:
      UserError: the folder is not there.
    """
    root = Path(config.data.musan or "")
    if not root.is_dir():
        raise UserError(f"data.musan={root} is not a folder")
    parts = prepare_musan(root, parts=("music", "speech", "noise"))
    recordings = [r for part in parts.values() for r in part["recordings"]]
    return (
        CutSet.from_cuts(as_mono(r).to_cut() for r in recordings)
        .cut_into_windows(10.0)
        .filter(lambda c: c.duration > 5)
    )


def compute(config: Config, arguments: Namespace) -> None:
    """Computes the features of all splits and the statistics of train.

    Raises:
      UserError: nothing is left of a split.
    """
    folder, listing = config.data_dir / "features", config.data_dir / "dropped-features.tsv"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    extractor = make_extractor(config.features)
    sources = {
        split: CutSet.from_file(config.data_dir / "manifests" / f"{split}.jsonl.gz")
        for split in config.prepared_splits
    }
    if config.data.speed_perturb:
        sources.update({s: with_speed_perturbation(sources[s]) for s in config.data.train})
    if config.data.musan:
        sources["musan"] = musan_cuts(config)
    train: list[MonoCut] = []
    dropped: dict[str, list[Dropped]] = {}
    for name, source in sources.items():
        cuts, dropped[name] = compute_split(config, source, folder, name)
        write_dropped(listing, dropped)
        if dropped[name]:
            report(name, list(cuts), dropped[name], listing)
        if not len(cuts):
            raise UserError(f"no audio of {name} can be used; {listing} says why")
        with atomic_path(folder / f"{name}.jsonl.gz") as path:
            cuts.to_file(path)
        if name in config.data.train:
            train += list(cuts)
    write_json_atomic(folder / "statistics.json", statistics(train, extractor))
    how = "will be computed while training" if config.features.on_the_fly else "stored"
    logging.info("features (%s): %s", config.features.extractor, how)


def main() -> None:
    """Runs stage 2 from the command line."""
    stage_main(2, compute, __doc__)


if __name__ == "__main__":
    main()
