"""Stage 4: the losses of a step, the training loop, checkpoints, and how an experiment is opened
again. It imports ``todm.learned_selection`` and the folders before it; ``experiment.py``, which
decoding reads, imports no further than ``todm.model``."""
