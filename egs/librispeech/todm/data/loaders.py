"""What gives a training and an evaluation their batches: samplers and loaders over the cuts that
stage 3 wrote."""

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler, SimpleCutSampler
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets
from torch.utils.data import DataLoader, Dataset, Sampler

from todm.config.keys import SPOKEN_WORDS, Config
from todm.config.phases import in_updates
from todm.data.batches import Asked, Batch, BatchDataset, TrainDataset, Unreadable
from todm.data.learnt_length import learnt_seconds
from utils.errors import UserError
from utils.interrupts import leave_group

ESTIMATED_FROM = 10_000  # utterances, lhotse's own default
# The cuts are in memory on purpose: they are filtered, counted and sorted.
warnings.filterwarnings(
    "ignore", message="You are using DynamicBucketingSampler with an eagerly read CutSet"
)


class BatchLoader(DataLoader):
    """A loader that ends with a UserError where a batch can not be read."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return map(_readable, super().__iter__())


def copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches with their features on a GPU. While one is worked on, the next one is read and
    copied, on a stream of its own."""
    copies = torch.cuda.Stream(device)

    def next_copied() -> Batch | None:
        with torch.cuda.stream(copies):
            batch = next(batches, None)
            return None if batch is None else batch.to(device)

    ready = next_copied()
    while ready is not None:
        work = torch.cuda.current_stream(device)
        work.wait_stream(copies)
        # Its memory belongs to the stream of the copies, which must not use it again before that.
        ready.features.record_stream(work)
        given, ready = ready, next_copied()
        yield given


def _readable(batch: Batch | Unreadable) -> Batch:
    if isinstance(batch, Unreadable):
        raise UserError(batch.message)
    return batch


@dataclass(frozen=True)
class FirstPart:
    """A part of the training set that a training begins with.

    Attributes:
      until: the update from which on an epoch is of the whole set. share: of the whole set.
    """

    sampler: DynamicBucketingSampler
    until: float
    share: float


class ResumableSampler(Sampler):
    """A lhotse sampler that starts an epoch at any batch; what it skips is never read from disk.

    Args:
      longest: seconds that a net learns to recognise at once from its utterances.
      accumulate: batches of an update.
      first: what a training begins with; None: the whole set.
    Attributes:
      share: of the whole set, that the epoch is of.
    """

    def __init__(
        self,
        inner: DynamicBucketingSampler,
        longest: float,
        accumulate: int = 1,
        first: FirstPart | None = None,
    ):
        self.inner, self.longest, self.accumulate, self.first = inner, longest, accumulate, first
        self.skip, self.update, self.share = 0, 0.0, 1.0
        self._of_epoch = inner

    def start(self, epoch: int, skip: int, update: float = 0.0) -> None:
        """Begin ``epoch`` after its first ``skip`` batches, at an update of the training."""
        begun = update - skip / self.accumulate
        if self.first is not None and begun < self.first.until:
            self._of_epoch, self.share = self.first.sampler, self.first.share
        else:
            self._of_epoch, self.share = self.inner, 1.0
        self._of_epoch.set_epoch(epoch)
        self.skip, self.update = skip, update

    def __iter__(self) -> Iterator[Asked]:
        for i, cuts in enumerate(self._of_epoch):
            if i >= self.skip:
                yield Asked(cuts, self.update + (i - self.skip) / self.accumulate)
        self.skip = 0


def load_cuts(config: Config, splits: list[str]) -> CutSet:
    """The cuts of some splits, together. An id that several of them have is ``ID in SPLIT`` in all
    but the first.

    Raises:
      UserError: stage 3 has not written them.
    """
    paths = [config.data_dir / "cuts" / f"{split}.jsonl.gz" for split in splits]
    missing = [str(p) for p in paths if not p.is_file()]
    if missing:
        raise UserError(
            f"{', '.join(missing)} is missing; stage 3 makes it: ./run.sh --stage 0 --stop-stage 3"
        )
    cuts: dict[str, Cut] = {}
    for split, path in zip(splits, paths):
        for cut in CutSet.from_file(path):
            cut = cut.with_id(f"{cut.id} in {split}") if cut.id in cuts else cut
            cuts[cut.id] = cut
    return CutSet.from_cuts(cuts.values())


def _start_worker(worker: int) -> None:
    leave_group()
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


def _loader(config: Config, dataset: Dataset, sampler: Sampler) -> BatchLoader:
    workers = config.data.num_workers
    return BatchLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        persistent_workers=False,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
    )


def train_loader(
    config: Config, rank: int = 0, world_size: int = 1
) -> tuple[DataLoader, ResumableSampler]:
    """The loader of the training set and its sampler: shuffled, bucketed by duration, at most
    ``data.max_duration`` seconds of audio in a batch."""
    config = in_updates(config)
    cuts, first = load_cuts(config, config.train_splits), None
    if config.data.spoken_words and config.data.spoken_words_first:
        spoken = load_cuts(config, [SPOKEN_WORDS])
        share = sum(c.duration for c in spoken) / sum(c.duration for c in cuts)
        of_spoken = bucketing_sampler(config, spoken, rank, world_size)
        first = FirstPart(of_spoken, config.data.spoken_words_first, share)
    sampler = ResumableSampler(
        bucketing_sampler(config, cuts, rank, world_size),
        learnt_seconds(config, [cut.duration for cut in cuts]),
        config.train.accumulate,
        first,
    )
    return _loader(config, TrainDataset(config), sampler), sampler


def bucketing_sampler(
    config: Config, cuts: CutSet, rank: int, world_size: int
) -> DynamicBucketingSampler:
    """lhotse's sampler of some utterances of train."""
    return DynamicBucketingSampler(
        cuts,
        max_duration=config.data.max_duration,
        shuffle=True,
        duration_bins=duration_bins(cuts, config.data.num_buckets),
        seed=config.train.seed,
        rank=rank,
        world_size=world_size,
    )


def duration_bins(cuts: CutSet, buckets: int) -> list[float]:
    """The durations at which a new bucket begins.

    Few utterances have few buckets, at least four in each, and may have one alone.
    """
    buckets = min(buckets, len(cuts) // 4)
    bins = estimate_duration_buckets(islice(cuts, ESTIMATED_FROM), buckets) if buckets > 1 else []
    # lhotse takes the mean of the list, which must not be empty: a second bucket that stays so.
    return bins or [max(cut.duration for cut in cuts) + 1]


def eval_loader(
    config: Config,
    splits: list[str],
    max_duration: float,
    keep: Callable[[Cut], bool] = lambda cut: True,
) -> DataLoader:
    """The loader of some splits for evaluation: unshuffled, nothing augmented, similar lengths
    together.

    Args:
      max_duration: seconds of audio in a batch. keep: refuses the utterances that are left out.
    """
    cuts = CutSet.from_cuts(filter(keep, load_cuts(config, splits))).sort_by_duration(
        ascending=False
    )
    sampler = SimpleCutSampler(cuts, max_duration=max_duration, shuffle=False, rank=0, world_size=1)
    return _loader(config, BatchDataset(config), sampler)


def statistics_path(config: Config) -> Path:
    """The file with the mean and the deviation of the train features."""
    return config.data_dir / "cuts" / "statistics.json"
