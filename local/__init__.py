"""Data stages 0 to 3: corpus, manifests, features, BPE."""
