"""The data of training and decoding: filterbank features, their frames, and batches made of the
cuts that stage 3 wrote. It imports ``todm.config`` and ``utils``; ``frames.py`` imports no torch,
so that programs on a device can share its numbers."""
