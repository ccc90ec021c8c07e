"""Convolutional subsampling by 4: filterbank frames to encoder frames."""

import torch
from torch import Tensor, nn

from todm.data.frames import LOG_EPSILON, NUM_MEL_BINS, RECEPTIVE_FIELD, SILENCE


def subsampled_length(frames, tail: int = 0):
    """Encoder frames of ``frames`` filterbank frames (int or Tensor): two unpadded convolutions of
    size 3, stride 2.

    With ``tail`` more frames of silence behind them; but what is too short for one encoder frame of
    its own has none.
    """
    once = (frames - 1) // 2
    length = (once - 1) // 2
    length = length.clamp(min=0) if isinstance(length, Tensor) else max(length, 0)
    if not tail:
        return length
    with_tail = subsampled_length(frames + tail)
    return (
        torch.where(length > 0, with_tail, length)
        if isinstance(length, Tensor)
        else with_tail
        if length
        else 0
    )


class Frontend(nn.Module):
    """(B, T, 80) log-mel features -> (B, T', dim), T' = :func:`subsampled_length` of T.

    The convolutions are not padded in time, so an encoder frame sees seven real frames, in a batch
    as alone, in streaming as in whole utterances.  Features are normalised by the train set's mean
    and deviation, which are buffers: nothing is normalised outside the model.

    Args:
      tail_frames: filterbank frames of digital silence, such as a streaming client sends at the
        end, that every whole utterance gets behind its own, here and nowhere else.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, dim: int, tail_frames: int = 0):
        super().__init__()
        self.tail_frames = tail_frames
        self.register_buffer("mean", torch.zeros(NUM_MEL_BINS))
        self.register_buffer("std", torch.ones(NUM_MEL_BINS))
        self.conv1 = nn.Conv2d(1, max(channels // 4, 1), 3, stride=2)
        self.conv2 = nn.Conv2d(max(channels // 4, 1), channels, 3, stride=2)
        bins = subsampled_length(NUM_MEL_BINS)
        self.project = nn.Linear(channels * bins, dim)
        self.norm = nn.LayerNorm(dim, bias=False)

    def set_statistics(self, mean: list[float], std: list[float]) -> None:
        """Set the mean and the standard deviation of every mel bin, of the train set."""
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor(std))

    def length(self, frames):
        """Encoder frames of whole utterances of ``frames`` filterbank frames (int or Tensor), the
        tail among them."""
        return subsampled_length(frames, self.tail_frames)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encoder frames of features: (B, T, 80) -> (B, T', dim).

        Args:
          lengths: (B,) frames of whole utterances, of whose outputs the first :meth:`length` are
            real; None: the features are a piece of something longer and get no tail.
        """
        if lengths is not None and self.tail_frames:
            features = self.with_tail(features, lengths)
        # Too short for one encoder frame: make one out of padding.
        if features.shape[1] < RECEPTIVE_FIELD:
            features = nn.functional.pad(
                features, (0, 0, 0, RECEPTIVE_FIELD - features.shape[1]), value=LOG_EPSILON
            )
        x = (features - self.mean) / self.std  # (B, T, 80)
        x = nn.functional.silu(self.conv1(x[:, None]))
        x = nn.functional.silu(self.conv2(x))  # (B, channels, T', bins)
        return self.norm(self.project(x.transpose(1, 2).flatten(2)))

    def with_tail(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 80) -> (B, T + tail, 80): silence from the end of every utterance on, whatever its
        batch is padded with."""
        features = nn.functional.pad(features, (0, 0, 0, self.tail_frames))
        beyond = torch.arange(features.shape[1], device=features.device) >= lengths[:, None]
        return features.masked_fill(beyond[..., None], SILENCE)
