"""Batches of padded features and their transcripts, from the cuts that stage 3 wrote."""

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import CutMix, DynamicBucketingSampler, K2SpeechRecognitionDataset, SimpleCutSampler, SpecAugment
from lhotse.dataset.input_strategies import OnTheFlyFeatures, PrecomputedFeatures
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from egs.librispeech.todm.config import Config, DataConfig
from egs.librispeech.todm.frontend import LOG_EPSILON
from egs.librispeech.todm.learnt_length import learnt_seconds
from utils.stages import StageError

# The cuts are in memory on purpose: they are filtered, counted and sorted.
warnings.filterwarnings("ignore", message="You are using DynamicBucketingSampler with an eagerly read CutSet")

FRAMES = 100                 # of features in a second
DIGITAL_SILENCE = -15.942385  # features of samples that are all 0: the logarithm of the smallest step of a 32-bit float beside 1
DIGITAL_SHARE = 0.25         # of the pauses between joined utterances that are that


@dataclass(frozen=True)
class Batch:
    """Attributes:
    features: (B, T, 80), padded with log(1e-10). lengths: (B,) frames. texts, ids: of every utterance.
    """

    features: Tensor
    lengths: Tensor
    texts: list[str]
    ids: list[str]

    @property
    def seconds(self) -> float:
        """Seconds of audio, without padding."""
        return float(self.lengths.sum()) / 100

    def to(self, device: torch.device) -> "Batch":
        return replace(self, features=self.features.to(device, non_blocking=True), lengths=self.lengths.to(device, non_blocking=True))

    def subset(self, keep: list[int]) -> "Batch":
        """Some of the utterances."""
        lengths = self.lengths[keep]
        return Batch(self.features[keep, : int(lengths.max())], lengths, [self.texts[i] for i in keep], [self.ids[i] for i in keep])


class BatchDataset(Dataset):
    """Maps a CutSet (a mini-batch that the sampler chose) to a :class:`Batch`, through lhotse's dataset."""

    def __init__(self, config: Config, train: bool):
        self.data, self.train = config.data, train
        self.inner = K2SpeechRecognitionDataset(
            return_cuts=True,
            cut_transforms=_noise(config) if train else [],
            input_strategy=_input_strategy(config),
            input_transforms=_spec_augment(config) if train else [],
        )

    def __getitem__(self, cuts: CutSet) -> Batch:
        got = self.inner[cuts]
        supervisions = got["supervisions"]
        order = supervisions["sequence_idx"].argsort()
        batch = Batch(
            features=got["inputs"],
            lengths=supervisions["num_frames"][order].long(),
            texts=[supervisions["text"][i] for i in order],
            ids=[supervisions["cut"][i].id for i in order],
        )
        if self.train and self.data.join_prob and random.random() < self.data.join_prob:  # of all its utterances: mixed with single ones they would be padded
            return joined(batch, self.data)
        return batch


def joined(batch: Batch, data: DataConfig) -> Batch:
    """The utterances of a batch joined two by two, with a pause of ``data.join_pause`` between them, unless that is longer than
    ``data.max_seconds``. Draws from Python's generator, as lhotse does."""
    utterances = [x[:n] for x, n in zip(batch.features, batch.lengths.tolist())]
    features, texts, ids = [], [], []
    for i in range(0, len(utterances), 2):
        pair = slice(i, i + 2)
        pause = round(FRAMES * random.uniform(*data.join_pause))
        together = sum(map(len, utterances[pair])) + pause
        if len(utterances[pair]) == 2 and together <= FRAMES * data.max_seconds:
            first, second = utterances[pair]
            features.append(torch.cat([first, silence(random.choice((first, second)), pause), second]))
            texts.append(" ".join(batch.texts[pair]))
            ids.append("+".join(batch.ids[pair]))
        else:
            features += utterances[pair]
            texts += batch.texts[pair]
            ids += batch.ids[pair]
    lengths = torch.tensor([len(x) for x in features])
    return Batch(pad_sequence(features, batch_first=True, padding_value=LOG_EPSILON), lengths, texts, ids)


def silence(utterance: Tensor, frames: int) -> Tensor:
    """A pause of so many frames: mostly the noise of the room, drawn from the quietest tenth of an utterance (T, 80), else digital silence.

    What batches are padded with would be wrong: no recording has it.
    """
    if random.random() < DIGITAL_SHARE:
        return utterance.new_full((frames, utterance.shape[1]), DIGITAL_SILENCE)
    quiet = utterance.mean(1).topk(max(len(utterance) // 10, 1), largest=False).indices.tolist()
    return utterance[random.choices(quiet, k=frames)]


def _input_strategy(config: Config):
    if not config.features.on_the_fly:
        return PrecomputedFeatures()
    from local.compute_features import make_extractor

    return OnTheFlyFeatures(make_extractor(config.features), fault_tolerant=True)


def _noise(config: Config) -> list:
    if not config.data.musan:
        return []
    musan = CutSet.from_file(config.data_dir / "features" / "musan.jsonl.gz")
    return [CutMix(musan, snr=(10, 20), p=config.data.musan_prob, preserve_id=True)]


def _spec_augment(config: Config) -> list:
    s = config.spec_augment
    if not s.enabled:
        return []
    return [SpecAugment(time_warp_factor=s.time_warp or None, num_feature_masks=s.num_freq_masks, features_mask_size=s.max_freq_mask,
                        num_frame_masks=s.num_time_masks, frames_mask_size=s.max_time_mask, max_frames_mask_fraction=s.max_time_fraction,
                        p=0.9)]


class ResumableSampler(Sampler):
    """A lhotse sampler that starts an epoch at any batch; what it skips is never read from disk.

    Args:
      longest: seconds that a net learns to recognise at once from its utterances.
    """

    def __init__(self, inner: DynamicBucketingSampler, longest: float):
        self.inner, self.longest, self.skip = inner, longest, 0

    def start(self, epoch: int, skip: int) -> None:
        """Begin ``epoch`` after its first ``skip`` batches."""
        self.inner.set_epoch(epoch)
        self.skip = skip

    def __iter__(self) -> Iterator[CutSet]:
        for i, cuts in enumerate(self.inner):
            if i >= self.skip:
                yield cuts
        self.skip = 0


def load_cuts(config: Config, splits: list[str]) -> CutSet:
    """The cuts of some splits, together.

    Raises:
      StageError: stage 3 has not written them.
    """
    paths = [config.data_dir / "cuts" / f"{split}.jsonl.gz" for split in splits]
    missing = [str(p) for p in paths if not p.is_file()]
    if missing:
        raise StageError(f"{', '.join(missing)} is missing; stage 3 makes it: ./run.sh --stage 0 --stop-stage 3")
    return CutSet.from_cuts(cut for path in paths for cut in CutSet.from_file(path))


def _seed_worker(worker: int) -> None:
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


def _loader(config: Config, dataset: Dataset, sampler) -> DataLoader:
    workers = config.data.num_workers
    return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=workers, persistent_workers=False,
                      worker_init_fn=_seed_worker, pin_memory=torch.cuda.is_available())


def train_loader(config: Config, rank: int = 0, world_size: int = 1) -> tuple[DataLoader, ResumableSampler]:
    """Shuffled, bucketed by duration, at most ``data.max_duration`` seconds a batch."""
    cuts = load_cuts(config, config.data.train)
    buckets = max(1, min(config.data.num_buckets, len(cuts) // 4))
    sampler = ResumableSampler(DynamicBucketingSampler(
        cuts, max_duration=config.data.max_duration, shuffle=True, num_buckets=buckets, seed=config.train.seed,
        rank=rank, world_size=world_size,
    ), learnt_seconds(config, [cut.duration for cut in cuts]))
    return _loader(config, BatchDataset(config, train=True), sampler), sampler


def eval_loader(config: Config, splits: list[str], max_duration: float, keep: Callable[[Cut], bool] = lambda cut: True) -> DataLoader:
    """Unshuffled, nothing dropped but what ``keep`` refuses, nothing augmented; similar lengths together."""
    cuts = CutSet.from_cuts(filter(keep, load_cuts(config, splits))).sort_by_duration(ascending=False)
    sampler = SimpleCutSampler(cuts, max_duration=max_duration, shuffle=False, rank=0, world_size=1)
    return _loader(config, BatchDataset(config, train=False), sampler)


def statistics_path(config: Config) -> Path:
    """Mean and deviation of the train features."""
    return config.data_dir / "cuts" / "statistics.json"
