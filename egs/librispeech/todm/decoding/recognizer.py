"""A recogniser for use: one loaded supernet whose size changes between utterances, or an exported
subnet."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from todm.config.keys import Config
from todm.data.frames import LOG_EPSILON, LOOK_AHEAD, SILENCE, SUBSAMPLING
from todm.data.learnt_length import learnt_seconds_of_data, unknown_seconds
from todm.data.online_features import OnlineFilterbank, filterbank
from todm.decoding.ctc_search import CtcGreedySearch, ctc_prefix_beam_search
from todm.decoding.transducer_search import BeamSearch, GreedySearch, Hypothesis
from todm.model.encoder import Operators
from todm.model.frontend import subsampled_length
from todm.model.transducer import Transducer
from todm.results.export_files import FACTS
from todm.results.subnets import SubnetEntry, read_subnets
from todm.subnet import Subnet
from todm.supernet.budget import within_budget
from todm.supernet.cost import describe_subnet
from todm.supernet.exported import load_model
from todm.training.experiment import load_experiment
from utils.audio import SAMPLE_RATE
from utils.errors import UserError
from utils.tokens import Tokenizer
from utils.voice_activity import ROOM, WINDOW, Endpoints, VoiceActivity, speech_stretches

FRAME_SECONDS = 0.04
FRAME_SAMPLES = round(FRAME_SECONDS * SAMPLE_RATE)
ROOM_SAMPLES = (
    ROOM[1] * WINDOW
)  # of silence that an utterance of a stream begins with, where there is as much
BATCH_SECONDS = 60  # of the stretches of a long recording that are decoded at once
WORD_START = "\u2581"


@dataclass(frozen=True)
class Transcript:
    """What was said.

    Attributes:
      tokens, timestamps: BPE pieces, and the seconds at which each was recognised (encoder frames
        of 40 ms).
      seconds: of audio.
    """

    text: str
    tokens: list[str]
    timestamps: list[float]
    seconds: float

    def words(self) -> list[dict]:
        """Words with the time of their first piece."""
        words: list[dict] = []
        for token, time in zip(self.tokens, self.timestamps):
            if token.startswith(WORD_START) or not words:
                words.append({"word": token.removeprefix(WORD_START), "start": time})
            else:
                words[-1]["word"] += token
        return [w for w in words if w["word"]]

    def as_dict(self) -> dict:
        return asdict(self) | {"words": self.words()}


class Recognizer:
    """Speech to text on 16 kHz float samples.

    Args:
      entries: subnets by name, as subnets.json has them; the first is in use until :meth:`use` says
        otherwise.
      beam: 0: greedy search; else the width of modified beam search.
      chunk_frames: filterbank frames (10 ms) that a stream advances at a time.
      longest: seconds that the net has learnt to recognise at once; None: not known.

    Attributes:
      detector: what tells speech from everything else, made anew for every recording.
    """

    detector: Callable[[], VoiceActivity] = VoiceActivity

    def __init__(
        self,
        config: Config,
        model: Transducer,
        tokenizer: Tokenizer,
        entries: list[SubnetEntry],
        beam: int = 0,
        chunk_frames: int = 32,
        longest: float | None = None,
    ):
        self.config, self.model, self.tokenizer, self.entries = config, model, tokenizer, entries
        self.beam, self.chunk_frames, self.longest = (
            beam,
            chunk_frames,
            longest or unknown_seconds(config),
        )
        self.device = next(model.parameters()).device
        self._operators: dict[int, Operators] = {}
        self.use(entries[0].subnet)

    @classmethod
    def load(
        cls, path: str | Path, beam: int = 0, device: torch.device | None = None
    ) -> "Recognizer":
        """From an experiment's folder (the whole supernet) or an exported one.

        Raises:
          UserError: it is neither, or something in it is missing or damaged.
        """
        path, device = Path(path), device or torch.device("cpu")
        if not path.is_dir():
            raise UserError(
                f"{path}: no such folder; give an experiment (exp/NAME) or an exported subnet "
                "(exp/NAME/export/SUBNET)"
            )
        if (path / FACTS).is_file() or not (path / "checkpoints").is_dir():
            config, model, tokenizer, facts = load_model(path, device)
            longest = facts.get("longest_seconds") or learnt_seconds_of_data(config)
            entry = replace(SubnetEntry.from_dict(facts), subnet=model.full)
            return cls(config, model, tokenizer, [entry], beam, config.export.chunk_frames, longest)
        trained = load_experiment(path, None, None, device)
        subnets = path / "subnets.json"
        largest = describe_subnet(
            trained.config, trained.tokenizer.vocab_size, trained.model.full, "largest"
        )
        entries = read_subnets(subnets) if subnets.is_file() else [largest]
        return cls(
            trained.config,
            trained.model,
            trained.tokenizer,
            entries,
            beam,
            trained.config.export.chunk_frames,
            trained.longest,
        )

    @property
    def can_stream(self) -> bool:
        return self.config.model.direction == "causal"

    def use(self, subnet: str | Subnet) -> None:
        """Recognise with this subnet from the next utterance on. Nothing is loaded or copied.

        Args:
          subnet: its name in subnets.json, its architecture, or the subnet itself.
        Raises:
          UserError: it is not known, or the model lacks something of it.
        """
        by_name = {entry.name: entry.subnet for entry in self.entries}
        try:
            if not isinstance(subnet, Subnet):
                chosen = by_name.get(subnet) or Subnet.parse(subnet)
            else:
                chosen = subnet
        except ValueError:
            raise UserError(f"no subnet {subnet!r}; there are: {', '.join(by_name)}") from None
        if not chosen.within(self.model.full):
            raise UserError(f"subnet {subnet} does not fit the model: {self.model.full}")
        self.subnet = chosen

    def use_budget(self, budget: str) -> SubnetEntry:
        """Use the best of the known subnets within a budget such as 600k, 3M or 0.5; returns its
        entry.

        Raises:
          UserError: none fits.
        """
        entry = within_budget(budget, self.config.search.cost, self.entries, "--budget")
        self.use(entry.subnet)
        return entry

    def operators(self, block: int | None = None) -> Operators:
        """What the SSMs need of the weights of the whole model, computed once."""
        key = block or 0
        if key not in self._operators:
            with torch.inference_mode():
                self._operators[key] = self.model.encoder.operators(*([block] if block else []))
        return self._operators[key]

    def search(self, batch: int) -> GreedySearch | BeamSearch | CtcGreedySearch:
        """A search over new utterances that goes on from one piece to the next; prefix beam search
        of CTC models does not."""
        if self.model.is_ctc:
            return CtcGreedySearch(batch)
        if self.beam:
            return BeamSearch(self.model, batch, self.device, self.beam)
        return GreedySearch(self.model, batch, self.device)

    @torch.inference_mode()
    def transcribe_batch(self, utterances: list[np.ndarray]) -> list[Transcript]:
        """Whole utterances at once, each float samples at 16 kHz; one that is too short gives an
        empty text."""
        features = [filterbank(samples) for samples in utterances]
        frames = torch.tensor([len(f) for f in features], device=self.device)
        encoder = self.model.encoder
        lengths = encoder.frontend.length(frames)
        if not utterances or int(lengths.max()) == 0:
            return [
                self.transcript(Hypothesis([], []), len(samples) / SAMPLE_RATE)
                for samples in utterances
            ]
        x = pad_sequence(features, batch_first=True, padding_value=LOG_EPSILON).to(self.device)
        encoded, _ = encoder(x, frames, self.subnet, self.operators())
        return [
            self.transcript(h, len(samples) / SAMPLE_RATE)
            for h, samples in zip(self.found(encoded, lengths), utterances)
        ]

    def searched(self, encoded: Tensor) -> Tensor:
        """What the search looks at: encoder output (B, T', dim), or of a CTC model its
        log-probabilities (B, T', V)."""
        return self.model.ctc_log_probs(encoded) if self.model.is_ctc else encoded

    def found(self, encoded: Tensor, lengths: Tensor) -> list[Hypothesis]:
        """The hypotheses of whole utterances: encoder output (B, T', dim) and lengths (B,)."""
        if self.model.is_ctc and self.beam:
            return ctc_prefix_beam_search(self.searched(encoded), lengths, self.beam)
        search = self.search(len(encoded))
        search.accept(self.searched(encoded), lengths)
        return search.hypotheses()

    def transcribe(self, pieces: Iterable[np.ndarray]) -> Transcript:
        """A recording of any length, given in pieces: what of it is speech, in stretches no longer
        than the net has learnt."""
        tokens, times, heard = [], [], 0

        def counted() -> Iterator[np.ndarray]:
            nonlocal heard
            for piece in pieces:
                heard += len(piece)
                yield piece

        stretches = speech_stretches(counted(), self.longest, self.detector)
        while batch := list(islice(stretches, max(int(BATCH_SECONDS / self.longest), 1))):
            for (start, _), part in zip(
                batch, self.transcribe_batch([samples for _, samples in batch])
            ):
                tokens += part.tokens
                times += [round(start / SAMPLE_RATE + t, 2) for t in part.timestamps]
        return Transcript(join(tokens), tokens, times, round(heard / SAMPLE_RATE, 3))

    def stream(self, endpoints: bool = True) -> "Stream":
        """A stream, decoded as it arrives: speech, in utterances that end in long pauses.

        Args:
          endpoints: False: everything is one utterance, speech or not; as whole utterances are
            decoded by :meth:`transcribe_batch`.
        Raises:
          UserError: the model is bidirectional, or a CTC model with a beam.
        """
        if not self.can_stream:
            raise UserError(
                "this model is bidirectional and needs whole utterances; conf/mini-streaming.yaml "
                "trains one that streams "
                "(model.direction=causal)"
            )
        if self.model.is_ctc and self.beam:
            raise UserError(
                "the prefix beam search of a CTC model needs whole utterances; streams are "
                "decoded greedily (without --beam)"
            )
        return Stream(self, Endpoints(self.longest, self.detector()) if endpoints else None)

    def transcript(self, hypothesis: Hypothesis, seconds: float) -> Transcript:
        """Tokens and frames as text and times."""
        symbols = self.tokenizer.symbols
        tokens = [symbols[t] for t in hypothesis.tokens]
        times = [
            round(min(f * FRAME_SECONDS, seconds), 2) for f in hypothesis.frames
        ]  # a word may come in the tail of silence
        return Transcript(join(tokens), tokens, times, round(seconds, 3))


class Stream:
    """Audio in as it arrives, text out: every ``chunk_frames`` x 10 ms, with memory that does not
    grow but for the text.

    Chunk by chunk it computes what the same model computes of a whole utterance. A long pause ends
    an utterance: the next one begins afresh, whatever lies between them.

    Args:
      endpoints: where utterances begin and end; None: all there is is one utterance, speech or not.
    """

    def __init__(self, recognizer: Recognizer, endpoints: Endpoints | None):
        self.recognizer, self.subnet = (
            recognizer,
            recognizer.subnet,
        )  # a subnet chosen later is for later streams
        self.endpoints = endpoints
        self.fbank = OnlineFilterbank()
        self.waiting = torch.zeros(0, recognizer.model.encoder.frontend.mean.numel())
        self.held: list[
            tuple[Tensor, int]
        ] = []  # chunks that may still be decoded, and how many of their encoder frames are real
        self.samples = self.frames = 0
        self.passed = 0  # encoder frames decoded or left out
        self.tokens, self.times = [], []  # of the utterances that are over
        self._begin()

    def accept(self, samples: np.ndarray) -> None:
        """More samples; whatever chunks they complete are decoded."""
        self.samples += len(samples)
        if self.endpoints:
            self.endpoints.accept(samples)
        self.fbank.accept(samples)
        self._take()

    def finish(self, tail: bool = True) -> Transcript:
        """No more samples come: decode what is left.

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
        """What has been recognised so far."""
        part = self.recognizer.transcript(self.search.hypotheses()[0], math.inf)
        tokens = self.tokens + part.tokens
        return Transcript(
            join(tokens),
            tokens,
            self.times + self._times(part),
            round(self.samples / SAMPLE_RATE, 3),
        )

    def _begin(self) -> None:
        """A new utterance, which begins with the first chunk that is decoded."""
        self.search = self.recognizer.search(1)
        self.states = self.recognizer.model.encoder.initial_states(1, self.subnet)
        self.offset: int | None = None

    def _end(self) -> None:
        """The utterance is over: keep its text alone."""
        part = self.recognizer.transcript(self.search.hypotheses()[0], math.inf)
        self.tokens += part.tokens
        self.times += self._times(part)
        self._begin()

    def _times(self, part: Transcript) -> list[float]:
        end = self.samples / SAMPLE_RATE  # a word may come in the tail of silence
        return [round(min((self.offset or 0) * FRAME_SECONDS + t, end), 2) for t in part.timestamps]

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
        encoded, self.states = recognizer.model.encoder.step(
            window, self.states, self.subnet, operators
        )
        self.search.accept(
            recognizer.searched(encoded[:, :count]), torch.tensor([count], device=recognizer.device)
        )
        self.passed += count


def join(tokens: list[str]) -> str:
    """Pieces as text."""
    return " ".join("".join(tokens).replace(WORD_START, " ").split())
