"""One process that streams audio without end, as fast as it can; ``tests.torture.soak`` watches it.

    python -m tests.torture.soak_stream {streams,stream,client} FOLDER

A line of JSON a second on stdout: the time, the seconds of audio heard, and the BPE pieces that the
present stream holds.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tests.recognizers import RATE, TEXTS, babble, spoken
from todm.decoding.recognizer import Recognizer
from todm.deploy.client import Client

PIECE = RATE // 10  # as a microphone gives them
LOOK_EVERY = 10  # pieces after which somebody looks at the text so far
STREAM_SECONDS = 600  # after which ``streams`` begins another one


def audio() -> np.ndarray:
    """Half a minute: sentences of espeak-ng, pauses that end an utterance, and noises."""
    return np.concatenate([*(spoken(text, room=1.0) for text in TEXTS), babble(8), np.zeros(RATE)])


def pieces() -> Iterator[np.ndarray]:
    """The same half minute again and again, in pieces."""
    samples = audio().astype(np.float32)
    while True:
        yield from (samples[i : i + PIECE] for i in range(0, len(samples), PIECE))


def torch_streams(folder: Path, stream_seconds: float) -> Iterator[tuple[float, int]]:
    """Yields seconds of audio and pieces of text of this stream, after every piece of audio."""
    recognizer = Recognizer.load(folder)
    stream, heard, begun, tokens = recognizer.stream(), 0, 0, 0
    for number, piece in enumerate(pieces()):
        stream.accept(piece)
        heard += len(piece)
        if number % LOOK_EVERY == 0:
            tokens = len(stream.transcript().tokens)
        if heard - begun >= stream_seconds * RATE:
            stream.finish()
            stream, begun = recognizer.stream(), heard
        yield heard / RATE, tokens


def client_streams(folder: Path) -> Iterator[tuple[float, int]]:
    """The same in sherpa-onnx, a stream for every half minute."""
    client, samples, before = Client(folder, streaming=True), audio().astype(np.float32), 0.0
    while True:
        for heard, _ in client.partial(samples, PIECE):
            yield before + heard / RATE, 0
        before += len(samples) / RATE


def main(kind: str, folder: Path) -> None:
    """Streams until somebody ends it."""
    torch.set_num_threads(1)
    if kind == "client":
        states = client_streams(folder)
    else:
        states = torch_streams(folder, STREAM_SECONDS if kind == "streams" else float("inf"))
    said = 0.0
    for heard, tokens in states:
        if time.time() - said >= 1:
            said = time.time()
            print(json.dumps([said, heard, tokens]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
