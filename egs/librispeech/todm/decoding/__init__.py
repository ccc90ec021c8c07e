"""Decoding: searches for transducers and CTC models, the recogniser that transcribes files and
streams, and stage 6, which scores every subnet.

Imports training (to open an experiment) and what stands below it.
"""
