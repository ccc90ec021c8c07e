"""Makes lhotse read audio of several channels as their mean, which is what utils/audio.py does for
transcribe.sh."""

from dataclasses import dataclass

import numpy as np
from lhotse import AudioSource, Recording
from lhotse.augmentation import AudioTransform
from lhotse.utils import fastcopy


@dataclass
class MeanOfChannels(AudioTransform):
    """The mean of all channels: samples (channels, N) -> (1, N).

    lhotse finds it by its name in a manifest, wherever this module has been imported.
    """

    def __call__(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        return samples.mean(axis=0, keepdims=True)

    def reverse_timestamps(
        self, offset: float, duration: float | None, sampling_rate: int
    ) -> tuple[float, float | None]:
        """The times of supervisions before the transform, which are those after it."""
        return offset, duration


def as_mono(recording: Recording) -> Recording:
    """The recording with a single channel, which is the mean of all that it has."""
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
    """Whether :func:`as_mono` has made the recording's one channel of several."""
    return any(
        isinstance(t, MeanOfChannels)
        or isinstance(t, dict)
        and t["name"] == MeanOfChannels.__name__
        for t in recording.transforms or []
    )
