"""Batches of padded features and their transcripts, from the cuts that stage 3 wrote."""

import random
from dataclasses import dataclass, replace

import torch
from lhotse import CutSet
from lhotse.audio.utils import AudioLoadingError
from lhotse.dataset import CutMix, K2SpeechRecognitionDataset, SpecAugment
from lhotse.dataset.input_strategies import OnTheFlyFeatures, PrecomputedFeatures
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from todm.config.keys import Config, DataConfig
from todm.data.augment import Augmentation, change_tempo, utterances
from todm.data.features import make_extractor
from todm.data.frames import LOG_EPSILON, SILENCE
from utils import channels  # noqa: F401, so that lhotse knows the mean of channels, which manifests may name
from utils.errors import UserError
from utils.text import first_line

FRAMES = 100  # of features in a second
DIGITAL_SHARE = 0.25  # of the pauses between joined utterances that are digital silence


@dataclass(frozen=True)
class Batch:
    """A mini-batch of utterances.

    Attributes:
      features: (B, T, 80), padded with log(1e-10). lengths: (B,) frames, always in the CPU's
        memory, where they are counted.
      texts, ids: the transcript and the name of every utterance.
    """

    features: Tensor
    lengths: Tensor
    texts: list[str]
    ids: list[str]

    @classmethod
    def of(cls, features: list[Tensor], texts: list[str], ids: list[str]) -> "Batch":
        """The batch of utterances (T, 80) of any lengths."""
        lengths = torch.tensor([len(x) for x in features])
        padded = pad_sequence(features, batch_first=True, padding_value=LOG_EPSILON)
        return cls(padded, lengths, texts, ids)

    @property
    def seconds(self) -> float:
        """Seconds of audio, without padding."""
        return float(self.lengths.sum()) / FRAMES

    def not_finite(self) -> list[str]:
        """The names of the utterances whose features hold NaN or infinity."""
        finite = self.features.isfinite().flatten(1).all(1).tolist()
        return [name for name, good in zip(self.ids, finite) if not good]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its features on a device.  The copy of pinned features to a GPU is
        queued: nothing waits for it."""
        return replace(self, features=self.features.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch with its features in pinned memory; torch's loader asks for it where there is
        a GPU."""
        return replace(self, features=self.features.pin_memory())

    def subset(self, keep: list[int]) -> "Batch":
        """The batch of some of the utterances, by their numbers."""
        lengths = self.lengths[keep]
        return Batch(
            self.features[keep, : int(lengths.max())],
            lengths,
            [self.texts[i] for i in keep],
            [self.ids[i] for i in keep],
        )


class BatchDataset(Dataset):
    """Maps a CutSet (a mini-batch that the sampler chose) to a :class:`Batch`, through lhotse's
    dataset. Features that are not finite are refused: no score of them would mean anything."""

    def __init__(self, config: Config, transforms: list | None = None):
        # A ValueError: what lilcom says of stored features that are damaged.
        self.unreadable = (AudioLoadingError, OSError) + (
            () if config.features.on_the_fly else (ValueError,)
        )
        self.inner = K2SpeechRecognitionDataset(
            return_cuts=True,
            cut_transforms=transforms or [],
            input_strategy=_input_strategy(config),
        )

    def __getitem__(self, cuts: CutSet) -> "Batch | Unreadable":
        batch = self.read(cuts)
        if isinstance(batch, Unreadable) or not (bad := batch.not_finite()):
            return batch
        return Unreadable(
            f"the features of {' and '.join(bad[:5])} hold NaN or infinity; stage 2 with --force "
            "computes all of them again"
        )

    def read(self, cuts: CutSet) -> "Batch | Unreadable":
        """The batch of some utterances, whatever numbers their features hold."""
        try:
            got = self.inner[cuts]
        except self.unreadable as error:
            return Unreadable(
                f"audio or features of {' or '.join(sorted(c.id for c in cuts)[:5])} can not be "
                f"read: {first_line(error)}. Stages 1 "
                "and 2 could read them; if files have changed since, stage 1 with --force looks "
                "at all of them again"
            )
        supervisions = got["supervisions"]
        order = supervisions["sequence_idx"].argsort()
        return Batch(
            features=got["inputs"],
            lengths=supervisions["num_frames"][order].long(),
            texts=[supervisions["text"][i] for i in order],
            ids=[supervisions["cut"][i].id for i in order],
        )


@dataclass(frozen=True)
class Asked:
    """The utterances of a training's batch.

    Attributes:
      update: of the training in which the batch is used, about; a bad batch that is replaced does
        not count.
    """

    cuts: CutSet
    update: float


class TrainDataset(BatchDataset):
    """Maps what the sampler asks for to a batch as training has it: augmented and joined. Features
    that are not finite are left to the training, which skips the batch and says so."""

    def __init__(self, config: Config):
        super().__init__(config, _noise(config))
        self.data, self.augment = config.data, Augmentation(config.augment)
        self.spec_augment = _spec_augment(config)

    def longest(self, cuts: CutSet) -> "Batch | Unreadable":
        """The batch of some utterances as long as a slower tempo can make them."""
        batch, slowest = self.read(cuts), 1 / (1 + self.augment.config.tempo)
        if isinstance(batch, Unreadable) or slowest == 1:
            return batch
        singles = utterances(batch.features, batch.lengths)
        return Batch.of([change_tempo(x, slowest) for x in singles], batch.texts, batch.ids)

    def __getitem__(self, asked: Asked) -> "Batch | Unreadable":
        batch = self.read(asked.cuts)
        if isinstance(batch, Unreadable):
            return batch
        if share := self.augment.share(asked.update):
            singles = zip(utterances(batch.features, batch.lengths), batch.texts)
            features = [self.augment(x, t) if random.random() < share else x for x, t in singles]
            batch = Batch.of(features, batch.texts, batch.ids)
        if self.spec_augment is not None:
            batch = replace(batch, features=self.spec_augment(batch.features, segments(batch)))
        # Of all its utterances or of none: mixed with single ones they would be padded.
        if self.data.join_prob and random.random() < self.data.join_prob:
            return joined(batch, self.data)
        return batch


def joined(batch: Batch, data: DataConfig) -> Batch:
    """The utterances of a batch joined two by two, with a pause of ``data.join_pause`` between
    them, unless that is longer than ``data.max_seconds``.

    Draws from Python's generator, as lhotse does.
    """
    singles = list(utterances(batch.features, batch.lengths))
    features, texts, ids = [], [], []
    for i in range(0, len(singles), 2):
        pair = slice(i, i + 2)
        pause = round(FRAMES * random.uniform(*data.join_pause))
        together = sum(map(len, singles[pair])) + pause
        if len(singles[pair]) == 2 and together <= FRAMES * data.max_seconds:
            first, second = singles[pair]
            features.append(
                torch.cat([first, silence(random.choice((first, second)), pause), second])
            )
            texts.append(" ".join(batch.texts[pair]))
            ids.append("+".join(batch.ids[pair]))
        else:
            features += singles[pair]
            texts += batch.texts[pair]
            ids += batch.ids[pair]
    return Batch.of(features, texts, ids)


def segments(batch: Batch) -> Tensor:
    """The utterances of a batch as SpecAugment takes them: number, first frame, frames; (B, 3)."""
    numbers = torch.arange(len(batch.lengths))
    return torch.stack([numbers, torch.zeros_like(numbers), batch.lengths], dim=1)


def silence(utterance: Tensor, frames: int) -> Tensor:
    """A pause of so many frames: mostly the noise of the room, drawn from the quietest tenth of an
    utterance (T, 80), else digital silence.

    What batches are padded with would be wrong: no recording has it.
    """
    if random.random() < DIGITAL_SHARE:
        return utterance.new_full((frames, utterance.shape[1]), SILENCE)
    quiet = utterance.mean(1).topk(max(len(utterance) // 10, 1), largest=False).indices.tolist()
    return utterance[random.choices(quiet, k=frames)]


@dataclass(frozen=True)
class Unreadable:
    """Stands for a batch that could not be read: a worker can not raise an error without a
    traceback."""

    message: str

    def to(self, device: torch.device) -> "Batch":
        """Raises the error where a dataset is asked without a loader, as before a training on a
        GPU."""
        raise UserError(self.message)


def _input_strategy(config: Config) -> PrecomputedFeatures | OnTheFlyFeatures:
    if not config.features.on_the_fly:
        return PrecomputedFeatures()
    # Not fault_tolerant: what can not be read would vanish.
    return OnTheFlyFeatures(make_extractor(config.features))


class GlobalRandom(random.Random):
    """Python's global generator, for code that wants one of its own: it differs between ranks and
    workers, and checkpoints have it."""

    def random(self) -> float:
        """The next number of the global generator, in [0, 1)."""
        return random.random()

    def getrandbits(self, k: int) -> int:
        """The next k bits of the global generator."""
        return random.getrandbits(k)


def _noise(config: Config) -> list:
    if not config.data.musan:
        return []
    musan = CutSet.from_file(config.data_dir / "features" / "musan.jsonl.gz")
    return [
        CutMix(musan, snr=(10, 20), p=config.data.musan_prob, preserve_id=True, seed=GlobalRandom())
    ]


def _spec_augment(config: Config) -> SpecAugment | None:
    s = config.spec_augment
    if not s.enabled:
        return None
    masks, size, share = s.num_time_masks, s.max_time_mask, s.max_time_fraction
    # lhotse divides by both; a mask is narrower than its size: one of size 1 masks nothing.
    if not masks or not share:
        masks, size, share = 1, 1, 1.0
    return SpecAugment(
        time_warp_factor=s.time_warp or None,
        num_feature_masks=s.num_freq_masks,
        features_mask_size=s.max_freq_mask,
        num_frame_masks=masks,
        frames_mask_size=size,
        max_frames_mask_fraction=share,
        p=0.9,
    )
