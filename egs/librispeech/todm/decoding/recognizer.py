"""A recogniser for use: one loaded supernet whose size changes between utterances, or an exported
subnet."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from todm.config.keys import Config
from todm.data.frames import LOG_EPSILON
from todm.data.learnt_length import learnt_seconds_of_data, unknown_seconds
from todm.data.online_features import filterbank
from todm.decoding.hotwords import hotword_graph, read_hotwords
from todm.decoding.loaded_model import LoadedModel
from todm.decoding.search import SearchOptions, search_utterances
from todm.decoding.stream import Stream
from todm.decoding.transcript import Transcript, join, moved
from todm.decoding.transducer_search import Hypothesis
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
from utils.voice_activity import Endpoints, VoiceActivity, speech_stretches

BATCH_SECONDS = 60  # of the stretches of a long recording that are decoded at once


class Recognizer(LoadedModel):
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
        options = SearchOptions(beam, blank_penalty=config.decode.blank_penalty)
        super().__init__(config, model, tokenizer, entries[0].subnet, options, chunk_frames)
        self.entries = entries
        self.longest = longest or unknown_seconds(config)

    @classmethod
    def load(
        cls, path: str | Path, beam: int = 0, device: torch.device | None = None
    ) -> "Recognizer":
        """A recogniser of an experiment's folder (the whole supernet) or of an exported one.

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
            longest = facts.longest_seconds or learnt_seconds_of_data(config)
            entry = replace(facts.entry, subnet=model.full)
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
    def streaming(self) -> list[SubnetEntry]:
        """The known subnets that can decode audio as it arrives."""
        encoder = self.model.encoder
        return [entry for entry in self.entries if encoder.can_stream(entry.subnet)]

    def use(self, subnet: str | Subnet) -> None:
        """Recognise with this subnet from the next utterance on. Nothing is loaded or copied.

        Args:
          subnet: its name in subnets.json, its architecture, or the subnet itself.
        Raises:
          UserError: it is not known, or the model lacks something of it.
        """
        if isinstance(subnet, str):
            by_name = {entry.name: entry.subnet for entry in self.entries}
            try:
                subnet = by_name.get(subnet) or Subnet.parse(subnet)
            except ValueError:
                raise UserError(f"no subnet {subnet!r}; there are: {', '.join(by_name)}") from None
        self.use_subnet(subnet)

    def use_budget(self, budget: str, streaming: bool = False) -> SubnetEntry:
        """Use the best of the known subnets within a budget such as 600k, 3M or 0.5; returns its
        entry.

        Args:
          streaming: only those that can stream, if there are any.
        Raises:
          UserError: none fits.
        """
        entries = (streaming and self.streaming) or self.entries
        entry = within_budget(budget, self.config.search.cost, entries, "--budget")
        self.use(entry.subnet)
        return entry

    def prefer(self, hotwords: str | Path, boost: float | None = None) -> None:
        """Prefers the words and phrases of a file from the next utterance on.

        Args:
          hotwords: the file, as :func:`~todm.decoding.hotwords.read_hotwords` takes it.
          boost: of its lines without one; None: ``decode.hotwords_score``.
        Raises:
          UserError: the search is greedy, the model is a CTC model, or the file is not in order.
        """
        if self.model.is_ctc:
            raise UserError("hotwords are for transducers, and this is a CTC model")
        if not self.options.beam:
            raise UserError("hotwords need beam search: a beam of 4, for one")
        decode = self.config.decode
        found = read_hotwords(
            hotwords, self.tokenizer, boost or decode.hotwords_score, self.config.text.form
        )
        self.options = replace(self.options, hotwords=hotword_graph(found))

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
        found = search_utterances(self.model, encoded, lengths, self.options)
        return [
            self.transcript(h, len(samples) / SAMPLE_RATE) for h, samples in zip(found, utterances)
        ]

    def transcribe(self, pieces: Iterable[np.ndarray]) -> Transcript:
        """A recording of any length, given in pieces: what of it is speech, in stretches no longer
        than the net has learnt."""
        tokens, times, chances, nbest, heard = [], [], [], [], 0

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
                chances += part.probabilities
                nbest += moved(part.nbest, start / SAMPLE_RATE)
        seconds = round(heard / SAMPLE_RATE, 3)
        return Transcript(join(tokens), tokens, times, seconds, chances, nbest)

    def stream(self, endpoints: bool = True) -> Stream:
        """A stream, decoded as it arrives: speech, in utterances that end in long pauses.

        Args:
          endpoints: False: everything is one utterance, speech or not; as whole utterances are
            decoded by :meth:`transcribe_batch`.
        Raises:
          UserError: the model is bidirectional, or a CTC model with a beam.
        """
        if not self.can_stream:
            raise UserError(
                "this net is bidirectional and needs whole utterances; "
                + (
                    f"of this supernet these stream: {', '.join(e.name for e in self.streaming)}"
                    if self.streaming
                    else "conf/mini-streaming.yaml trains nets that stream (model.direction=causal)"
                )
            )
        if self.model.is_ctc and self.options.beam:
            raise UserError(
                "the prefix beam search of a CTC model needs whole utterances; streams are "
                "decoded greedily (without --beam)"
            )
        return Stream(self, Endpoints(self.longest, self.detector()) if endpoints else None)
