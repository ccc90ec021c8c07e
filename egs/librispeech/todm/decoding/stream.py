"""Streaming: audio in as it arrives, text out chunk by chunk."""

import math

import numpy as np
import torch
from torch import Tensor

from todm.data.frames import LOOK_AHEAD, SILENCE, SUBSAMPLING
from todm.data.online_features import OnlineFilterbank
from todm.decoding.loaded_model import FRAME_SECONDS, LoadedModel
from todm.decoding.search import start_search
from todm.decoding.transcript import Alternatives, Transcript, join, moved
from todm.model.frontend import subsampled_length
from utils.audio import SAMPLE_RATE
from utils.voice_activity import ROOM, WINDOW, Endpoints

FRAME_SAMPLES = round(FRAME_SECONDS * SAMPLE_RATE)
# Samples of silence that an utterance of a stream begins with, where there are as many.
ROOM_SAMPLES = ROOM[1] * WINDOW


class Stream:
    """Audio in as it arrives, text out: every ``chunk_frames`` x 10 ms, with memory that does not
    grow but for the text.

    Chunk by chunk it computes what the same model computes of a whole utterance. A long pause ends
    an utterance: the next one begins afresh, whatever lies between them.

    Args:
      endpoints: where utterances begin and end; None: all there is is one utterance, speech or not.
    """

    def __init__(self, recognizer: LoadedModel, endpoints: Endpoints | None):
        self.recognizer = recognizer
        self.subnet = recognizer.subnet  # one that is chosen later is for later streams
        self.endpoints = endpoints
        self.fbank = OnlineFilterbank()
        self.waiting = torch.zeros(0, recognizer.model.encoder.frontend.mean.numel())
        # Chunks that may still be decoded, and how many of their encoder frames are real.
        self.held: list[tuple[Tensor, int]] = []
        self.samples = self.frames = 0
        self.passed = 0  # encoder frames decoded or left out
        self.tokens: list[str] = []  # of the utterances that are over
        self.times: list[float] = []
        self.probabilities: list[float] = []
        self.nbest: list[Alternatives] = []
        self._begin()

    def accept(self, samples: np.ndarray) -> None:
        """Takes float samples at 16 kHz; the chunks that they complete are decoded."""
        self.samples += len(samples)
        if self.endpoints:
            self.endpoints.accept(samples)
        self.fbank.accept(samples)
        self._take()

    def finish(self, tail: bool = True) -> Transcript:
        """Decodes the rest: no more samples come.

        Args:
          tail: with the silence of ``model.tail_frames`` behind it, as whole utterances have it;
            False where the samples end with silence enough, as a client's do.
        """
        if self.samples:
            self.fbank.finish()
            self._take()
        chunk, frontend = self.recognizer.chunk_frames, self.recognizer.model.encoder.frontend
        held = sum(count for _, count in self.held)
        left = (
            subsampled_length(self.frames, frontend.tail_frames if tail else 0) - self.passed - held
        )
        if left > 0 and self.endpoints:
            self.endpoints.finish()
        while left > 0:
            window = self.waiting[: chunk + LOOK_AHEAD]
            window = torch.nn.functional.pad(
                window, (0, 0, 0, chunk + LOOK_AHEAD - len(window)), value=SILENCE
            )
            count = min(left, chunk // SUBSAMPLING)
            self._chunk(window, count)
            self.waiting, left = self.waiting[chunk:], left - count
        return self.transcript()

    def transcript(self) -> Transcript:
        """The transcript of the audio so far."""
        part = self.recognizer.transcript(self.search.hypotheses()[0], math.inf)
        tokens = self.tokens + part.tokens
        return Transcript(
            join(tokens),
            tokens,
            self.times + self._times(part),
            round(self.samples / SAMPLE_RATE, 3),
            self.probabilities + part.probabilities,
            self.nbest + self._nbest(part),
        )

    def _begin(self) -> None:
        """A new utterance, which begins with the first chunk that is decoded."""
        loaded = self.recognizer
        self.search = start_search(loaded.model, 1, loaded.device, loaded.options)
        self.states = self.recognizer.model.encoder.initial_states(1, self.subnet)
        self.offset: int | None = None

    def _end(self) -> None:
        """The utterance is over: keep its text alone."""
        part = self.recognizer.transcript(self.search.hypotheses()[0], math.inf)
        self.tokens += part.tokens
        self.times += self._times(part)
        self.probabilities += part.probabilities
        self.nbest += self._nbest(part)
        self._begin()

    def _times(self, part: Transcript) -> list[float]:
        end = self.samples / SAMPLE_RATE  # a word may come in the tail of silence
        return [round(min((self.offset or 0) * FRAME_SECONDS + t, end), 2) for t in part.timestamps]

    def _nbest(self, part: Transcript) -> list[Alternatives]:
        return moved(part.nbest, (self.offset or 0) * FRAME_SECONDS)

    def _take(self) -> None:
        features = self.fbank.take()
        self.frames += len(features)
        self.waiting = torch.cat([self.waiting, features])
        chunk = self.recognizer.chunk_frames
        while len(self.waiting) >= chunk + LOOK_AHEAD:
            self._chunk(self.waiting[: chunk + LOOK_AHEAD], chunk // SUBSAMPLING)
            self.waiting = self.waiting[chunk:]

    def _chunk(self, window: Tensor, count: int) -> None:
        """One chunk, of whose encoder frames the first ``count`` are real: decode it, hold it or
        leave it out."""
        begin = (self.passed + sum(n for _, n in self.held)) * FRAME_SAMPLES
        self.held.append((window, count))
        what = (
            self.endpoints.chunk(begin, begin + count * FRAME_SAMPLES)
            if self.endpoints
            else Endpoints.SPEAKING
        )
        if what in (Endpoints.SPEAKING, Endpoints.LAST):
            for held in self.held:
                self._decode(*held)
            self.held = []
        if what in (Endpoints.LAST, Endpoints.OVER):
            self._end()
        if what in (Endpoints.IDLE, Endpoints.OVER):
            while len(self.held) > self._room():
                self.passed += self.held.pop(0)[1]

    def _room(self) -> int:
        """Chunks before the first one with speech that an utterance begins with."""
        return -(-ROOM_SAMPLES // (self.recognizer.chunk_frames // SUBSAMPLING * FRAME_SAMPLES))

    @torch.inference_mode()
    def _decode(self, window: Tensor, count: int) -> None:
        recognizer = self.recognizer
        operators = recognizer.operators(recognizer.chunk_frames // SUBSAMPLING)
        if self.offset is None:
            self.offset = self.passed
        window = window[None].to(recognizer.device)
        real = torch.tensor([count], device=recognizer.device)
        encoded, self.states = recognizer.model.encoder.step(
            window, self.states, self.subnet, operators, real
        )
        self.search.accept(encoded[:, :count], real)
        self.passed += count
