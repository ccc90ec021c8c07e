"""The one choice of a search: greedy or beam, for a transducer or for a CTC model."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from todm.config.keys import DecodeConfig
from todm.decoding.ctc_search import CtcGreedySearch, ctc_prefix_beam_search
from todm.decoding.transducer_search import BeamSearch, GreedySearch, Hypothesis
from todm.model.transducer import Transducer
from utils.context_graph import ContextGraph


@dataclass(frozen=True)
class SearchOptions:
    """The way in which hypotheses are looked for.

    Attributes:
      beam: 0: greedy search; else the width of modified beam search, or of a CTC model's prefix
        beam search.
      max_symbols: the most that greedy search of a transducer may emit in one frame.
      blank_penalty: what is taken from the logit of a transducer's blank.
      hotwords: phrases that a transducer's beam search prefers.
      nbest: hypotheses that a search with a beam keeps with the best one; 0: none.
    """

    beam: int = 0
    max_symbols: int = 1
    blank_penalty: float = 0.0
    hotwords: ContextGraph | None = None
    nbest: int = 0

    @classmethod
    def of_method(cls, method: str, decode: DecodeConfig, rnnt_type: str) -> "SearchOptions":
        """The options of one of ``decode.methods``, without hotwords.

        A net of the modified lattice has never been asked what follows a symbol in the same frame,
        and would repeat itself (55 % WER instead of 2 %): it may emit one.

        Args:
          rnnt_type: the lattice that the net was trained on, ``loss.rnnt_type``.
        """
        symbols = 1 if rnnt_type == "modified" else decode.max_symbols
        beam, nbest = (decode.beam, decode.nbest) if method == "beam" else (0, 0)
        return cls(beam, symbols, decode.blank_penalty, nbest=nbest)


class Search(Protocol):
    """A search over a batch of utterances that goes on from one piece to the next."""

    def accept(self, encoded: Tensor, lengths: Tensor) -> None:
        """Takes the next frames: (B, T', dim), of which the first ``lengths`` (B,) are real."""

    def hypotheses(self) -> list[Hypothesis]:
        """The hypotheses of all utterances so far, in the order of the batch."""


class CtcSearchOfEncoder:
    """Greedy search of a CTC model on encoder output, as the transducer's searches take it."""

    def __init__(self, model: Transducer, batch: int):
        self.model, self.search = model, CtcGreedySearch(batch)

    def accept(self, encoded: Tensor, lengths: Tensor) -> None:
        """Takes the next frames: (B, T', dim), of which the first ``lengths`` (B,) are real."""
        self.search.accept(self.model.ctc_log_probs(encoded), lengths)

    def hypotheses(self) -> list[Hypothesis]:
        """The hypotheses of all utterances so far, in the order of the batch."""
        return self.search.hypotheses()


def start_search(
    model: Transducer, batch: int, device: torch.device, options: SearchOptions
) -> Search:
    """A search over ``batch`` new utterances that takes encoder output piece by piece.

    Raises:
      ValueError: the prefix beam search of a CTC model needs whole utterances.
    """
    if model.is_ctc and options.beam:
        raise ValueError("the prefix beam search of a CTC model needs whole utterances")
    if model.is_ctc:
        return CtcSearchOfEncoder(model, batch)
    if options.beam:
        return BeamSearch(
            model,
            batch,
            device,
            options.beam,
            options.blank_penalty,
            options.hotwords,
            options.nbest,
        )
    return GreedySearch(model, batch, device, options.max_symbols, options.blank_penalty)


def search_utterances(
    model: Transducer, encoded: Tensor, lengths: Tensor, options: SearchOptions
) -> list[Hypothesis]:
    """The hypotheses of whole utterances: encoder output (B, T', dim) and lengths (B,)."""
    if model.is_ctc and options.beam:
        log_probs = model.ctc_log_probs(encoded)
        return ctc_prefix_beam_search(log_probs, lengths, options.beam, options.nbest)
    search = start_search(model, len(encoded), encoded.device, options)
    search.accept(encoded, lengths)
    if isinstance(search, BeamSearch):
        search.finish()
    return search.hypotheses()
