"""Filterbank frames of audio as it arrives, by the library that sherpa-onnx uses on a device."""

import kaldi_native_fbank
import numpy as np
import torch
from torch import Tensor

from todm.data.frames import NUM_MEL_BINS
from utils.audio import SAMPLE_RATE


class OnlineFilterbank:
    """Samples in, 80-dim log-mel frames out, 25 ms windows every 10 ms; what was taken is
    forgotten.

    The same features as stage 2 stores (povey window, no dither, 20 to 7600 Hz, frames centred on
    their shift).
    """

    def __init__(self):
        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.samp_freq = SAMPLE_RATE
        options.frame_opts.dither = 0
        options.frame_opts.snip_edges = False
        options.mel_opts.num_bins = NUM_MEL_BINS
        options.mel_opts.low_freq = 20
        options.mel_opts.high_freq = -400
        self._fbank = kaldi_native_fbank.OnlineFbank(options)
        self._taken = 0

    def accept(self, samples: np.ndarray) -> None:
        """Take samples: floats in [-1, 1] at 16 kHz."""
        if len(samples):
            self._fbank.accept_waveform(SAMPLE_RATE, samples.tolist())

    def finish(self) -> None:
        """End the audio: the last frames become ready."""
        self._fbank.input_finished()

    def take(self) -> Tensor:
        """The frames that became ready since the last call, (frames, 80)."""
        ready = self._fbank.num_frames_ready
        frames = [np.array(self._fbank.get_frame(i)) for i in range(self._taken, ready)]
        self._fbank.pop(ready - self._taken)
        self._taken = ready
        return torch.from_numpy(np.stack(frames)) if frames else torch.zeros(0, NUM_MEL_BINS)


def filterbank(samples: np.ndarray) -> Tensor:
    """The filterbank frames of a whole utterance, (frames, 80)."""
    fbank = OnlineFilterbank()
    fbank.accept(samples)
    if len(samples):
        fbank.finish()
    return fbank.take()
