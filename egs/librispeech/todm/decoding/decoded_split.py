"""One split decoded with one subnet: texts, and what the search tells beside them."""

import time
from dataclasses import dataclass, field, replace

import torch

from todm.config.keys import Config
from todm.data.loaders import eval_loader
from todm.decoding.hotwords import hotword_graph, read_hotwords
from todm.decoding.search import SearchOptions, search_utterances
from todm.decoding.transcript import Transcript, join
from todm.decoding.transducer_search import Hypothesis
from todm.model.encoder import Operators
from todm.subnet import Subnet
from todm.training.experiment import Experiment

Words = list[tuple[str, float]]  # each with its confidence


@dataclass
class DecodedSplit:
    """A decoded split, by utterance.

    Attributes:
      words: those of the hypotheses, with their confidence; empty where the search tells none.
      nbest: the texts of the best hypotheses, best first; empty where they were not asked for.
      audio_seconds, computing_seconds: of all utterances together.
    """

    references: dict[str, str] = field(default_factory=dict)
    hypotheses: dict[str, str] = field(default_factory=dict)
    words: dict[str, Words] = field(default_factory=dict)
    nbest: dict[str, list[str]] = field(default_factory=dict)
    audio_seconds: float = 0.0
    computing_seconds: float = 0.0


def search_options(method: str, config: Config, experiment: Experiment) -> SearchOptions:
    """The options of one of ``decode.methods``, with the hotwords of a transducer's beam search."""
    decode, trained = config.decode, experiment.config
    options = SearchOptions.of_method(method, decode, trained.loss.rnnt_type)
    if not decode.hotwords_file or not options.beam or experiment.model.is_ctc:
        return options
    found = read_hotwords(
        decode.hotwords_file, experiment.tokenizer, decode.hotwords_score, trained.text.form
    )
    return replace(options, hotwords=hotword_graph(found))


@torch.no_grad()
def decode_split(
    experiment: Experiment,
    config: Config,
    subnet: Subnet,
    split: str,
    method: str,
    device: torch.device,
    operators: Operators,
) -> DecodedSplit:
    """Decodes one split with one subnet.

    Args:
      operators: the supernet's, which are the same for every batch, split and subnet.
    """
    found, tokenizer = DecodedSplit(), experiment.tokenizer
    options = search_options(method, config, experiment)
    symbols = tokenizer.symbols
    for batch in eval_loader(config, [split], config.decode.max_duration):
        begin = time.monotonic()
        batch = batch.to(device)
        encoded, lengths = experiment.model.encoder(
            batch.features, batch.lengths.to(device), subnet, operators
        )
        hypotheses = search_utterances(experiment.model, encoded, lengths, options)
        found.computing_seconds += time.monotonic() - begin
        found.audio_seconds += batch.seconds
        found.references.update(zip(batch.ids, batch.texts))
        for name, hypothesis in zip(batch.ids, hypotheses):
            found.hypotheses[name] = tokenizer.decode(hypothesis.tokens)
            if hypothesis.probabilities:
                found.words[name] = words_of(hypothesis, symbols)
            if hypothesis.nbest:
                found.nbest[name] = [tokenizer.decode(h.tokens) for h in hypothesis.nbest]
    return found


def words_of(hypothesis: Hypothesis, symbols: list[str]) -> Words:
    """The words of a hypothesis, each with its confidence, as ``transcribe.sh --json`` has them."""
    tokens = [symbols[t] for t in hypothesis.tokens]
    transcript = Transcript(
        join(tokens), tokens, [0.0] * len(tokens), 0.0, hypothesis.probabilities
    )
    return [(word["word"], word["confidence"]) for word in transcript.words()]
