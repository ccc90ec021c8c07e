"""The audio of dev and test, as the client decodes it: from the audio files, not from stored
features."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lhotse import CutSet

from todm.config.keys import Config
from todm.data.loaders import load_cuts
from utils.errors import UserError

Utterances = list[tuple[str, np.ndarray, str]]  # id, samples at 16 kHz, transcript


def audio_batches(config: Config, split: str, longest: float | None = None) -> Iterator[Utterances]:
    """Reads the utterances of a split in batches of similar lengths.

    Args:
      longest: seconds of audio to read in all, from the first utterance on; None: everything.
    """
    cuts = load_cuts(config, [split])
    require_audio(split, cuts)
    if longest is not None:
        kept, total = [], 0.0
        for cut in cuts:
            if total < longest:
                kept.append(cut)
                total += cut.duration
        cuts = kept
    batch: Utterances = []
    for cut in sorted(cuts, key=lambda cut: (cut.duration, cut.id)):
        if batch and (len(batch) + 1) * cut.duration > config.decode.max_duration:
            yield batch
            batch = []
        batch.append((cut.id, cut.load_audio()[0].astype(np.float32), cut.supervisions[0].text))
    if batch:
        yield batch


def speech(config: Config, seconds: float) -> list[np.ndarray]:
    """Samples of the first utterances of the first dev split, ``seconds`` of audio in all."""
    batches = audio_batches(config, config.data.dev[0], seconds)
    return [samples for batch in batches for _, samples, _ in batch]


def require_audio(split: str, cuts: CutSet) -> None:
    """Refuses a split of which audio files are gone, although its features may have been kept.

    Raises:
      UserError: some are gone.
    """
    gone = [
        source
        for cut in cuts
        for source in (s.source for s in cut.recording.sources)
        if not Path(source).is_file()
    ]
    if gone:
        raise UserError(
            f"{len(gone)} audio files of {split} are gone, for example {gone[0]}; stage 10 "
            "decodes them in the client"
        )
