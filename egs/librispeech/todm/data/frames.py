"""Frames of the filterbank and of the encoder, as numbers that data, model and clients have in
common; imports no torch."""

from utils.audio import SAMPLE_RATE

NUM_MEL_BINS = 80
FRAMES_PER_SECOND = 100  # of the filterbank
SHIFT = SAMPLE_RATE // FRAMES_PER_SECOND  # samples from one filterbank frame to the next
SUBSAMPLING = 4  # filterbank frames to an encoder frame
RECEPTIVE_FIELD = 7  # input frames that one encoder frame sees
# Input frames that belong to the next encoder frame: a chunk needs as many beyond its end.
LOOK_AHEAD = RECEPTIVE_FIELD - SUBSAMPLING
LOG_EPSILON = -23.025850929940457  # log(1e-10): what features are padded with
# The log of the smallest float32 step: what the filterbank makes of samples that are 0.
SILENCE = -15.942384719848633
