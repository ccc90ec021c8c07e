"""The net: a transducer whose encoder has blocks of MH-SSM and FFN, any part of which a subnet may
leave out. It imports ``todm.subnet``, ``todm.config``, ``todm.data`` (numbers of frames alone) and
``utils``; it knows no costs, no budgets and no training.

Words: a *head* is one of the parallel SSMs of an MH-SSM; a *head group*, the value head with its
gating head, is what a subnet keeps or leaves out of it, as a *chunk* of the FFN; *gates* are the
numbers by which learned selection multiplies those parts; *training heads* are linear layers that
only the losses need."""
