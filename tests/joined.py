"""Long recordings out of short ones; run as a program, what joining costs a trained net:

    python -m tests.joined exp/mini dev

prints the WER of a split's files alone, and of all of them joined with several kinds of pause.
"""

import sys
import time
from pathlib import Path

import numpy as np

RATE = 16000
KINDS = {  # seconds of pause, and the level of the noise in it
    "no pause": ((0.0, 0.0), 0.0),
    "0.25 to 1 s of digital silence": ((0.25, 1.0), 0.0),
    "0.25 to 1 s at -60 dB": ((0.25, 1.0), 1e-3),
    "0.25 to 1 s at -40 dB": ((0.25, 1.0), 1e-2),
    "2 to 5 s of digital silence": ((2.0, 5.0), 0.0),
    "2 to 5 s at -60 dB": ((2.0, 5.0), 1e-3),
    "2 to 5 s at -40 dB": ((2.0, 5.0), 1e-2),
    "a minute of digital silence after every 30": ((0.25, 1.0), 0.0),
}


def join_recordings(
    recordings: list[np.ndarray], pause: tuple[float, float], noise: float, seed: int = 0
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Recordings one after the other, each followed by a pause.

    Args:
      pause: shortest and longest, in seconds. noise: standard deviation of the white noise in it;
        0: digital silence.
    Returns:
      Samples, and where each recording begins and ends among them.
    """
    rng, parts, spans, end = np.random.default_rng(seed), [], [], 0
    for samples in recordings:
        gap = noise * rng.normal(size=round(rng.uniform(*pause) * RATE))
        spans.append((end, end + len(samples)))
        parts += [samples, gap.astype(np.float32)]
        end += len(samples) + len(gap)
    return np.concatenate(parts), spans


def main(model: str, split: str, *options: str) -> None:
    import torch

    from todm.data.loaders import load_cuts
    from todm.decoding.recognizer import Recognizer
    from todm.decoding.stream import Stream
    from todm.decoding.transcript import Transcript
    from utils.scoring import score

    torch.set_num_threads(1)
    recognizer = Recognizer.load(model)
    cuts = list(load_cuts(recognizer.config, [split]))
    recordings, texts = [c.load_audio()[0] for c in cuts], [c.supervisions[0].text for c in cuts]

    def heard(samples: np.ndarray) -> Transcript:
        pieces = [samples[i : i + 8000] for i in range(0, len(samples), 8000)]
        if "--streaming" not in options:
            return recognizer.transcribe(pieces)
        stream: Stream = recognizer.stream()
        for piece in pieces:
            stream.accept(piece)
        return stream.finish()

    def show(name: str, references: list[str], found: list[str], begin: float) -> None:
        errors = score(dict(enumerate(references)), dict(enumerate(found)))
        print(
            f"{name:45s} {errors.counts()} WER {errors.wer:.2f} %, {time.time() - begin:.0f} s",
            flush=True,
        )

    begin = time.time()
    show(
        f"alone (cut to {recognizer.longest} s)", texts, [heard(x).text for x in recordings], begin
    )
    for name, (pause, noise) in KINDS.items():
        begin = time.time()
        joined, spans = join_recordings(recordings, pause, noise)
        if "minute" in name:
            for _, end in spans[-30::-30]:
                joined = np.insert(joined, end, np.zeros(60 * RATE, np.float32))
        show(name, [" ".join(texts)], [heard(joined).text], begin)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    main(*sys.argv[1:])
