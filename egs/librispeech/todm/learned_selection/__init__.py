"""Selection learned in training: scores for the *units* of the largest net (modules, or their head
groups and chunks), from which three methods learn nested subnets. It imports ``todm.supernet`` and
the folders before it; the loss and the trainer use it, and a checkpoint opened for decoding does
not."""
