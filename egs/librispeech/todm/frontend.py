"""Convolutional subsampling by 4: filterbank frames to encoder frames."""

import torch
from torch import Tensor, nn

NUM_MEL_BINS = 80
SUBSAMPLING = 4
RECEPTIVE_FIELD = 7           # input frames that one encoder frame sees
LOOK_AHEAD = RECEPTIVE_FIELD - SUBSAMPLING  # those of them that belong to the next one: a chunk needs as many beyond its end
LOG_EPSILON = -23.025850929940457  # log(1e-10): what features are padded with


def subsampled_length(frames):
    """Encoder frames of ``frames`` filterbank frames (int or Tensor): two unpadded convolutions of size 3, stride 2."""
    once = (frames - 1) // 2
    length = (once - 1) // 2
    return length.clamp(min=0) if isinstance(length, Tensor) else max(length, 0)


class Frontend(nn.Module):
    """(B, T, 80) log-mel features -> (B, T', dim), T' = :func:`subsampled_length` of T.

    The convolutions are not padded in time, so an encoder frame sees seven real frames, in a batch as alone, in
    streaming as in whole utterances.  Features are normalised by the train set's mean and deviation, kept as
    buffers: nothing is normalised outside the model.
    """

    def __init__(self, channels: int, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUM_MEL_BINS))
        self.register_buffer("std", torch.ones(NUM_MEL_BINS))
        self.conv1 = nn.Conv2d(1, max(channels // 4, 1), 3, stride=2)
        self.conv2 = nn.Conv2d(max(channels // 4, 1), channels, 3, stride=2)
        bins = subsampled_length(NUM_MEL_BINS)
        self.project = nn.Linear(channels * bins, dim)
        self.norm = nn.LayerNorm(dim, bias=False)

    def set_statistics(self, mean: list[float], std: list[float]) -> None:
        """Mean and standard deviation of every mel bin, from the train set."""
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor(std))

    def forward(self, features: Tensor) -> Tensor:
        if features.shape[1] < RECEPTIVE_FIELD:  # too short for one encoder frame: make one out of padding
            features = nn.functional.pad(features, (0, 0, 0, RECEPTIVE_FIELD - features.shape[1]), value=LOG_EPSILON)
        x = (features - self.mean) / self.std
        x = nn.functional.silu(self.conv1(x[:, None]))
        x = nn.functional.silu(self.conv2(x))  # (B, channels, T', bins)
        return self.norm(self.project(x.transpose(1, 2).flatten(2)))
