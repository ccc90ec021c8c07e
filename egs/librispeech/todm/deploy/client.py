"""The client that runs on devices: sherpa-onnx, with the files of an exported folder.

It computes its own features from audio.  Imports no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import sherpa_onnx

from todm.data.frames import LOOK_AHEAD, SHIFT
from todm.results.export_files import TOKENS, VOCABULARY, graph, holds_ctc, parts, require
from utils.audio import SAMPLE_RATE
from utils.errors import UserError

METHODS = {"greedy": "greedy_search", "beam": "modified_beam_search"}
TAIL_SECONDS = 1.0  # silence after a streamed utterance, at least: see with_tail


@dataclass(frozen=True)
class Recognized:
    """The text of an utterance, and the times of its tokens in seconds."""

    text: str
    timestamps: list[float]


class Client:
    """An exported folder in sherpa-onnx.

    Args:
      precision: ``fp32`` or ``int8``.
      method: ``greedy`` or ``beam``, the search.
      streaming: whether to use the online recogniser, chunk by chunk.
      beam: hypotheses that a search with a beam keeps.
      blank_penalty: what is taken from the logit of a transducer's blank.
      hotwords: a file of phrases that a search with a beam prefers, a line each; None: none.
      chunk_frames: filterbank frames that a stream advances at a time; None: read from the encoder,
        which takes some memory for a moment.
    Attributes:
      chunk_frames: filterbank frames that a stream advances at a time; 0 offline.
      first_seen: the time in seconds of the first token that :meth:`partial` has shown.
    Raises:
      UserError: a file is missing (sherpa-onnx itself would end the process), or a CTC model is to
        stream or to be decoded with a beam.
    """

    def __init__(
        self,
        folder: Path,
        precision: str = "fp32",
        method: str = "greedy",
        streaming: bool = False,
        beam: int = 4,
        threads: int = 1,
        chunk_frames: int | None = None,
        blank_penalty: float = 0.0,
        hotwords: Path | None = None,
    ):
        ctc = holds_ctc(folder)
        names = [
            graph(part, precision) for part in parts("streaming" if streaming else "offline", ctc)
        ]
        require(folder, [*names, TOKENS, *([VOCABULARY] if hotwords else [])])
        if ctc and (streaming or method != "greedy"):
            raise UserError(
                f"{folder} holds a CTC model: sherpa-onnx decodes it greedily, whole utterances "
                "at a time"
            )
        if hotwords and (ctc or method != "beam"):
            raise UserError("hotwords need a transducer and a search with a beam")
        self.streaming = streaming
        self.first_seen: float | None = None
        self.chunk_frames = 0
        if streaming:
            self.chunk_frames = chunk_frames or decode_chunk_length(folder / names[0])
        kind = sherpa_onnx.OnlineRecognizer if streaming else sherpa_onnx.OfflineRecognizer
        files = [str(folder / name) for name in names]
        if ctc:
            self.recognizer = kind.from_zipformer_ctc(
                model=files[0], tokens=str(folder / TOKENS), num_threads=threads
            )
        else:
            self.recognizer = kind.from_transducer(
                **dict(zip(("encoder", "decoder", "joiner"), files)),
                tokens=str(folder / TOKENS),
                num_threads=threads,
                decoding_method=METHODS[method],
                max_active_paths=beam,
                blank_penalty=blank_penalty,
                **(spelt_by(folder, hotwords) if hotwords else {}),
            )

    def decode(self, utterances: list[np.ndarray]) -> list[Recognized]:
        """Recognises a batch of utterances, float samples at 16 kHz in [-1, 1]; streams run side by
        side, chunk by chunk."""
        if not utterances:
            return []  # sherpa-onnx would crash
        streams = [self.recognizer.create_stream() for _ in utterances]
        for stream, samples in zip(streams, utterances):
            stream.accept_waveform(
                SAMPLE_RATE, with_tail(samples, self.chunk_frames) if self.streaming else samples
            )
        if not self.streaming:
            self.recognizer.decode_streams(streams)
            return [
                Recognized(" ".join(s.result.text.split()), list(s.result.timestamps))
                for s in streams
            ]
        for stream in streams:
            stream.input_finished()
        while ready := [s for s in streams if self.recognizer.is_ready(s)]:
            self.recognizer.decode_streams(ready)
        return [
            Recognized(
                " ".join(self.recognizer.get_result(s).split()), list(self.recognizer.timestamps(s))
            )
            for s in streams
        ]

    def partial(self, samples: np.ndarray, piece: int) -> Iterator[tuple[int, str]]:
        """Streams one utterance, and yields after each piece of it how many samples were heard and
        the text so far.

        :attr:`first_seen` is then the time of the first token that shows, or None. A space alone
        does not show.

        Args:
          piece: samples that arrive at a time.
        """
        self.first_seen = None
        stream = self.recognizer.create_stream()
        samples = with_tail(samples, self.chunk_frames)
        for start in range(0, len(samples), piece):
            stream.accept_waveform(SAMPLE_RATE, samples[start : start + piece])
            while self.recognizer.is_ready(stream):
                self.recognizer.decode_stream(stream)
            text = self.recognizer.get_result(stream)
            if self.first_seen is None and text.strip():
                visible = (bool(token.strip(" \u2581")) for token in self.recognizer.tokens(stream))
                self.first_seen = next(
                    time
                    for time, shows in zip(self.recognizer.timestamps(stream), visible)
                    if shows
                )
            yield min(start + piece, len(samples)), text


def spelt_by(folder: Path, hotwords: Path) -> dict[str, str]:
    """The options of sherpa-onnx for a file of hotwords, which the folder's vocabulary spells."""
    return {
        "hotwords_file": str(hotwords),
        "modeling_unit": "bpe",
        "bpe_vocab": str(folder / VOCABULARY),
    }


def with_tail(samples: np.ndarray, chunk_frames: int) -> np.ndarray:
    """The utterance with silence after it: so much that its last chunk is full and one more frame
    follows, because the client drops a chunk after which nothing comes."""
    frames = round((len(samples) + TAIL_SECONDS * SAMPLE_RATE) / SHIFT)
    chunks = -(-(frames - LOOK_AHEAD) // chunk_frames)
    silence = (chunks * chunk_frames + LOOK_AHEAD + 1) * SHIFT - len(samples)
    return np.concatenate([samples, np.zeros(silence, np.float32)])


def decode_chunk_length(path: Path) -> int:
    """The filterbank frames that a streaming encoder advances at a time, from its metadata."""
    model = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return int(model.get_modelmeta().custom_metadata_map["decode_chunk_len"])
