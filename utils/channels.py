"""Audio of several channels as lhotse reads it: their mean, as one channel, as transcribe.sh hears
it (utils/audio.py)."""

from dataclasses import dataclass

import numpy as np
from lhotse import AudioSource, Recording
from lhotse.augmentation import AudioTransform
from lhotse.utils import fastcopy


@dataclass
class MeanOfChannels(AudioTransform):
    """Samples (channels, N) -> (1, N). lhotse finds it by its name in a manifest, wherever this
    module has been imported."""

    def __call__(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        return samples.mean(axis=0, keepdims=True)

    def reverse_timestamps(
        self, offset: float, duration: float | None, sampling_rate: int
    ) -> tuple[float, float | None]:
        return offset, duration


def as_mono(recording: Recording) -> Recording:
    """A recording of any number of channels -> one of a single channel, which is their mean."""
    if recording.num_channels == 1:
        return recording
    # A source that says it has one channel is read whole; the transform comes before all others
    # (resampling, speed).
    sources = [
        AudioSource(source.type, channels=[0], source=source.source) for source in recording.sources
    ]
    return fastcopy(
        recording,
        sources=sources,
        channel_ids=[0],
        transforms=[MeanOfChannels(), *(recording.transforms or [])],
    )


def is_mean(recording: Recording) -> bool:
    """Whether :func:`as_mono` made it of several channels."""
    return any(
        isinstance(t, MeanOfChannels)
        or isinstance(t, dict)
        and t["name"] == MeanOfChannels.__name__
        for t in recording.transforms or []
    )
