"""Stage 2: 80-dim log-mel filterbank features, stored or (features.on_the_fly) only their mean and deviation."""

import logging
import shutil
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from lhotse import CutSet, FeatureExtractor, LilcomChunkyWriter, MonoCut

from egs.librispeech.todm.config import Config, FeatureConfig
from egs.librispeech.todm.stages import stage_main
from local.make_corpus import jobs
from utils.files import atomic_path, write_json_atomic
from utils.progress import progress
from utils.stages import StageError

NUM_MEL_BINS = 80
STATISTICS_CUTS = 1000  # utterances of train that mean and deviation are taken from


def make_extractor(config: FeatureConfig) -> FeatureExtractor:
    """Filterbank as sherpa-onnx computes it: 16 kHz, 25/10 ms, povey window, no dither, 20 to 7600 Hz.

    Raises:
      StageError: kaldifeat is asked for and not installed.
    """
    if config.extractor == "lhotse":
        from lhotse import Fbank, FbankConfig

        return Fbank(FbankConfig(num_mel_bins=NUM_MEL_BINS))
    from lhotse import KaldifeatFbank, KaldifeatFbankConfig
    from lhotse.features.kaldifeat import KaldifeatMelOptions

    try:
        return KaldifeatFbank(KaldifeatFbankConfig(mel_opts=KaldifeatMelOptions(num_bins=NUM_MEL_BINS)))
    except (AssertionError, ImportError) as error:
        raise StageError(
            f"features.extractor=kaldifeat, but kaldifeat can not be imported ({error}). "
            "Build it: local/setup.sh --kaldifeat; or use features.extractor=lhotse, which gives the same features"
        ) from error


def compute_shard(config: FeatureConfig, cuts: list[MonoCut], storage: Path) -> tuple[list[MonoCut], list[tuple[str, str]]]:
    """Features of some utterances into one file. A file that can not be read is returned with the error."""
    import torch

    torch.set_num_threads(1)
    extractor = make_extractor(config)
    done, failed = [], []
    with LilcomChunkyWriter(storage) as writer:
        for cut in cuts:
            try:
                done.append(cut.compute_and_store_features(extractor, writer))
            except Exception as error:  # whatever the audio library raises for this one file
                failed.append((cut.id, f"{type(error).__name__}: {error}"))
    return done, failed


def compute_split(config: Config, cuts: CutSet, folder: Path, name: str) -> CutSet:
    """All features of a split, in parallel, in the order of the input."""
    processes = jobs(config)
    everything = list(cuts)
    size = max(1, min(200, -(-len(everything) // (4 * processes))))
    shards = [everything[i : i + size] for i in range(0, len(everything), size)]
    results: dict[int, list[MonoCut]] = {}
    failures: list[tuple[str, str]] = []
    with ProcessPoolExecutor(processes) as pool, progress(total=len(everything), desc=f"features of {name}", unit="utt") as bar:
        futures = {pool.submit(compute_shard, config.features, s, folder / f"{name}-{i}"): i for i, s in enumerate(shards)}
        for future in as_completed(futures):
            i = futures[future]
            results[i], failed = future.result()
            failures += failed
            bar.update(len(shards[i]))
    for utterance, message in failures:
        logging.warning("%s: dropped %s, its audio can not be read: %s", name, utterance, message)
    kept = [cut for i in sorted(results) for cut in results[i]]
    if not kept:
        raise StageError(f"no features could be computed for {name}; the warnings above say why")
    return CutSet.from_cuts(kept)


def statistics(cuts: list[MonoCut], extractor: FeatureExtractor) -> dict[str, list[float]]:
    """Mean and standard deviation of every mel bin over a part of train, for the model's fixed normalisation."""
    step = max(1, len(cuts) // STATISTICS_CUTS)
    count, total, squares = 0, np.zeros(NUM_MEL_BINS), np.zeros(NUM_MEL_BINS)
    for cut in cuts[::step]:
        x = cut.load_features() if cut.has_features else cut.compute_features(extractor)
        x = np.asarray(x, dtype=np.float64)
        count, total, squares = count + len(x), total + x.sum(0), squares + (x**2).sum(0)
    mean = total / count
    return {"mean": mean.tolist(), "std": np.sqrt(np.maximum(squares / count - mean**2, 1e-6)).tolist()}


def with_speed_perturbation(cuts: CutSet) -> CutSet:
    """Every utterance at 1.0, 0.9 and 1.1 times its speed."""
    return CutSet.from_cuts([*cuts, *cuts.perturb_speed(0.9), *cuts.perturb_speed(1.1)])


def musan_cuts(config: Config) -> CutSet:
    """MUSAN in pieces of 10 s, through lhotse's recipe."""
    from lhotse.recipes import prepare_musan

    root = Path(config.data.musan)
    if not root.is_dir():
        raise StageError(f"data.musan={root} is not a folder")
    parts = prepare_musan(root, parts=("music", "speech", "noise"))
    recordings = [r for part in parts.values() for r in part["recordings"]]
    return CutSet.from_cuts(r.to_cut() for r in recordings).cut_into_windows(10.0).filter(lambda c: c.duration > 5)


def compute(config: Config, arguments: Namespace) -> None:
    folder = config.data_dir / "features"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    extractor = make_extractor(config.features)
    sources = {split: CutSet.from_file(config.data_dir / "manifests" / f"{split}.jsonl.gz") for split in config.splits}
    if config.data.speed_perturb:
        sources.update({s: with_speed_perturbation(sources[s]) for s in config.data.train})
    if config.data.musan:
        sources["musan"] = musan_cuts(config)
    train: list[MonoCut] = []
    for name, cuts in sources.items():
        if not config.features.on_the_fly:
            cuts = compute_split(config, cuts, folder, name)
        with atomic_path(folder / f"{name}.jsonl.gz") as path:
            cuts.to_file(path)
        if name in config.data.train:
            train += list(cuts)
    write_json_atomic(folder / "statistics.json", statistics(train, extractor))
    how = "will be computed while training" if config.features.on_the_fly else "stored"
    logging.info("features (%s): %s", config.features.extractor, how)


if __name__ == "__main__":
    stage_main(2, compute, __doc__)
