"""Other talkers, microphones and rooms, made of the train utterances in their log-mel features.

The features are stored once; what is drawn here is another one every time that an utterance is
read, and costs a few per cent of an update. A mel spectrum is (T, 80), natural logarithms of the
energies in the bins; sums of sounds are sums of energies.
"""

import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor
from torch.nn.functional import interpolate

from todm.config.keys import AugmentConfig
from todm.config.phases import ramp
from todm.data.frames import FRAMES_PER_SECOND, LOOK_AHEAD, NUM_MEL_BINS, SILENCE, SUBSAMPLING
from utils.audio import SAMPLE_RATE

LOWEST, HIGHEST = 20.0, SAMPLE_RATE / 2 - 400  # Hz: where the filterbank begins and ends
FFT_BIN = SAMPLE_RATE / 512  # Hz: between two values of the filterbank's Fourier transform
KNEE = 4800.0  # Hz: up to here a vocal tract's length scales all frequencies
NEPERS = math.log(10) / 10  # of energy in a decibel
DECAY = math.log(1e6)  # nepers of energy in 60 dB
DIRECT = (0.0, 15.0)  # dB of the direct sound above what the room adds to it, drawn


def mel(hertz: np.ndarray | float) -> np.ndarray:
    """Frequencies on the filterbank's scale (HTK's)."""
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def hertz(mels: np.ndarray) -> np.ndarray:
    """The inverse of :func:`mel`."""
    return 700.0 * np.expm1(mels / 1127.0)


STEP = float(mel(HIGHEST) - mel(LOWEST)) / (NUM_MEL_BINS + 1)  # mel between two bins
CENTRES = hertz(mel(LOWEST) + STEP * np.arange(1, NUM_MEL_BINS + 1))  # Hz of the bins
# of the Fourier transform's values in a bin, about: noise in few of them fluctuates more
WIDTHS = np.maximum(np.gradient(CENTRES) / FFT_BIN, 1.0)


def frequency_warp(factor: float) -> Tensor:
    """The matrix (80, 80) that turns a mel spectrum into that of another vocal tract:
    ``x @ frequency_warp(1.1)`` has its formants 10 % higher.

    Frequencies up to about 4.8 kHz are scaled by the factor; the rest is spread linearly up to the
    end of the filterbank, so that none falls off (vocal tract length perturbation, Jaitly and
    Hinton 2013). Between bins the spectrum is linear.
    """
    # where a bin's frequency comes from: f / factor below the knee, then on to (HIGHEST, HIGHEST)
    knee = KNEE * min(1.0, factor)
    source = np.interp(CENTRES, [0.0, knee, HIGHEST], [0.0, knee / factor, HIGHEST])
    position = np.clip((mel(source) - mel(LOWEST)) / STEP - 1, 0, NUM_MEL_BINS - 1)
    below = np.minimum(position.astype(int), NUM_MEL_BINS - 2)
    share, bins = position - below, np.arange(NUM_MEL_BINS)
    matrix = np.zeros((NUM_MEL_BINS, NUM_MEL_BINS), dtype=np.float32)
    matrix[below, bins] = 1 - share
    matrix[below + 1, bins] += share
    return torch.from_numpy(matrix)


def change_tempo(features: Tensor, factor: float) -> Tensor:
    """A mel spectrum (T, 80) spoken ``factor`` times as fast: (round(T / factor), 80)."""
    frames = max(1, round(len(features) / factor))
    return interpolate(features.T[None], size=frames, mode="linear", align_corners=False)[0].T


def fastest_tempo(frames: int, text: str) -> float:
    """The most by which an utterance can be sped up with an encoder frame left for every token,
    whatever the tokens are: no text has more than characters and words, and a repeated one needs a
    frame between (CTC's blank). At least 1."""
    words = text.split()
    tokens = sum(map(len, words)) + len(words)
    repeated = sum(a == b for word in words for a, b in zip(word, word[1:]))
    needed = SUBSAMPLING * (tokens + repeated) + LOOK_AHEAD  # that give as many encoder frames
    return max(1.0, frames / needed)


def room(energy: Tensor, rt60: float, direct: float) -> Tensor:
    """The energies (T, 80) of speech heard in a room: behind every sound an exponential decay.

    Args:
      rt60: seconds until an echo has lost 60 dB.
      direct: dB of the direct sound above all of its echo.
    """
    decay = math.exp(-DECAY / (rt60 * FRAMES_PER_SECOND))
    # the echo of a unit's energy: (1 - decay) * (decay^0, decay^1, ...) behind it, together 1
    echo = lfilter([0.0, 1.0 - decay], [1.0, -decay], energy.numpy(), axis=0)
    return energy + 10 ** (-direct / 10) * torch.from_numpy(echo.astype(np.float32))


def smooth_curve(level: float) -> Tensor:
    """A random smooth curve over the mel bins, (80,), in nepers of energy: the frequency response
    of a microphone, or the colour of a noise; its two slow waves have at most ``level`` dB each."""
    place = torch.linspace(0, math.pi, NUM_MEL_BINS)
    return sum(
        NEPERS * random.uniform(-level, level) * torch.cos(waves * place) for waves in (1, 2)
    )  # type: ignore[return-value]


def noise(frames: int, mean: float) -> Tensor:
    """Energies (frames, 80) of a steady coloured noise whose bins have ``mean`` energy together."""
    colour = torch.exp(smooth_curve(10.0)) * torch.from_numpy(WIDTHS / WIDTHS.max()).float()
    shape = np.broadcast_to(WIDTHS, (frames, NUM_MEL_BINS))
    fluctuation = torch.from_numpy((np.random.gamma(shape) / WIDTHS).astype(np.float32))
    return fluctuation * (mean / float(colour.sum())) * colour


class Augmentation:
    """Draws another talker, microphone and room for an utterance; each part is left alone where its
    key is 0.

    Draws from the global generators of Python and numpy, which checkpoints hold.

    Args:
      config: with its phases in updates (:func:`todm.config.phases.in_updates`).
    """

    def __init__(self, config: AugmentConfig):
        self.config = config

    def share(self, update: float) -> float:
        """The share of utterances that are changed at an update."""
        c = self.config
        return c.prob * ramp(update, c.start, c.ramp) if c.changes_anything else 0.0

    def __call__(self, features: Tensor, text: str) -> Tensor:
        """Another talker in another place: the features (T', 80) of an utterance (T, 80), T' = T
        unless the tempo changes.

        Args:
          text: the transcript, whose tokens must keep a frame each.
        """
        return self.microphone(self.talker(features, text))

    def talker(self, features: Tensor, text: str) -> Tensor:
        """Another length of the vocal tract, and another tempo."""
        c = self.config
        if c.warp:
            features = features @ frequency_warp(around_one(c.warp))
        if c.tempo:
            factor = min(around_one(c.tempo), fastest_tempo(len(features), text))
            features = change_tempo(features, factor)
        return features

    def microphone(self, features: Tensor) -> Tensor:
        """The room's echo, the microphone's response and level, and noise."""
        c = self.config
        energy = features.exp()
        if random.random() < c.room_prob:
            energy = room(energy, random.uniform(*c.room_rt60), random.uniform(*DIRECT))
        if c.channel:
            energy = energy * smooth_curve(c.channel).exp()
        if c.gain:
            energy = energy * math.exp(NEPERS * random.uniform(-c.gain, c.gain))
        if random.random() < c.noise_prob:
            below = 10 ** (-random.uniform(*c.noise_snr) / 10)
            energy = energy + noise(len(energy), below * float(energy.sum(1).mean()))
        return energy.clamp(min=math.exp(SILENCE)).log()


def around_one(share: float) -> float:
    """A factor from 1 / (1 + share) to 1 + share, evenly drawn in its logarithm."""
    return math.exp(random.uniform(-1, 1) * math.log1p(share))


def utterances(features: Tensor, lengths: Tensor) -> Iterator[Tensor]:
    """The utterances of a padded batch (B, T, 80), without their padding."""
    return (x[:n] for x, n in zip(features, lengths.tolist()))
