"""TODM, Train Once Deploy Many (arXiv 2309.01947): an MH-SSM transducer supernet and its
subnets."""
