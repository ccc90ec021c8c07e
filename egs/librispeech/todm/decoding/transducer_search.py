"""Greedy and modified beam search for a stateless transducer, batched, over whole utterances or
piece by piece.

Both follow what sherpa-onnx does on a device: at most one symbol per frame (greedy: by default),
<unk> counts as blank, and the best beam is chosen by score per token.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from todm.model.transducer import Transducer
from utils.context_graph import ROOT, ContextGraph
from utils.tokens import BLANK, UNK


@dataclass(frozen=True)
class Hypothesis:
    """A decoded utterance.

    Attributes:
      tokens, frames: token ids, and the encoder frame at which each was emitted.
      probabilities: of each token where it was emitted, by the net alone; empty: the search does
        not tell.
      score: logarithm of the probability of all alignments that a beam search has kept, with what
        hotwords and a blank penalty add; None: the search does not tell.
      nbest: the best hypotheses, this one first; empty: they were not asked for.
    """

    tokens: list[int]
    frames: list[int]
    probabilities: list[float] = field(default_factory=list, compare=False)
    score: float | None = field(default=None, compare=False)
    nbest: list["Hypothesis"] = field(default_factory=list, compare=False)


class Partial(NamedTuple):
    """A token sequence in a beam: its log-probability with the bonus of hotwords, the frames of its
    tokens, and its state among the hotwords."""

    score: float
    frames: list[int]
    state: int = ROOT


class GreedySearch:
    """The best symbol at every node, carried on from one piece of encoder output to the next.

    Args:
      max_symbols: the most that one frame may emit; a device's client allows 1.
      blank_penalty: what is taken from blank's logit: less is left out, and more is made up.
    """

    def __init__(
        self,
        model: Transducer,
        batch: int,
        device: torch.device,
        max_symbols: int = 1,
        blank_penalty: float = 0.0,
    ):
        self.model, self.max_symbols, self.blank_penalty = model, max_symbols, blank_penalty
        self.results = [Hypothesis([], []) for _ in range(batch)]
        self.frames = 0
        self.context = model.predictor.start(batch, device)
        self.predicted = model.joiner.predictor_proj(model.predictor(self.context)[:, 0])

    @torch.no_grad()
    def accept(self, encoded: Tensor, lengths: Tensor) -> None:
        """The next frames: encoder output (B, T', dim), of which the first ``lengths`` (B,) are
        real."""
        model = self.model
        projected = model.joiner.encoder_proj(encoded)
        for t in range(int(lengths.max())):
            active = t < lengths
            for _ in range(self.max_symbols):
                logits = model.joiner(projected[:, t], self.predicted)
                symbol = penalised(logits, self.blank_penalty).argmax(-1)
                active = active & (symbol != BLANK) & (symbol != UNK)
                if not active.any():
                    break
                chances = logits.float().softmax(-1).gather(1, symbol[:, None])[:, 0].tolist()
                for i in active.nonzero()[:, 0].tolist():
                    self.results[i].tokens.append(int(symbol[i]))
                    self.results[i].frames.append(self.frames + t)
                    self.results[i].probabilities.append(chances[i])
                self.context = torch.where(
                    active[:, None],
                    torch.cat([self.context[:, 1:], symbol[:, None]], dim=1),
                    self.context,
                )
                self.predicted = model.joiner.predictor_proj(model.predictor(self.context)[:, 0])
        self.frames += encoded.shape[1]

    def hypotheses(self) -> list[Hypothesis]:
        """The hypotheses of all utterances so far, in the order of the batch."""
        return self.results


class BeamSearch:
    """Beam search with at most one symbol per frame; equal token sequences are merged by adding
    probabilities.

    Args:
      beam: hypotheses that are kept. blank_penalty: as :class:`GreedySearch` has it.
      hotwords: phrases that are preferred.
      nbest: hypotheses that are kept with the best one; 0: none.
    """

    def __init__(
        self,
        model: Transducer,
        batch: int,
        device: torch.device,
        beam: int,
        blank_penalty: float = 0.0,
        hotwords: ContextGraph | None = None,
        nbest: int = 0,
    ):
        self.model, self.beam, self.blank_penalty = model, beam, blank_penalty
        self.hotwords, self.kept = hotwords or ContextGraph([]), nbest
        self.order = model.predictor.context_size
        self.frames = 0
        start = tuple(model.predictor.start(1, device)[0].tolist())
        # Per utterance, by token sequence (with its first context).
        self.beams: list[dict[tuple, Partial]] = [{start: Partial(0.0, [])} for _ in range(batch)]

    @torch.no_grad()
    def accept(self, encoded: Tensor, lengths: Tensor) -> None:
        """The next frames, as of :meth:`GreedySearch.accept`."""
        model, beams, device = self.model, self.beams, encoded.device
        projected = model.joiner.encoder_proj(encoded)
        for t in range(int(lengths.max())):
            active = [i for i in range(len(beams)) if t < lengths[i]]
            rows = [(i, tokens) for i in active for tokens in beams[i]]
            context = torch.tensor([tokens[-self.order :] for _, tokens in rows], device=device)
            predicted = model.joiner.predictor_proj(model.predictor(context)[:, 0])
            frame = projected[torch.tensor([i for i, _ in rows], device=device), t]
            logits = penalised(model.joiner(frame, predicted), self.blank_penalty)
            log_probs = logits.float().log_softmax(-1)
            scores = (
                log_probs
                + torch.tensor([beams[i][tokens].score for i, tokens in rows], device=device)[
                    :, None
                ]
            )
            first = 0
            for i in active:
                sequences = list(beams[i])
                mine = scores[first : first + len(sequences)]
                first += len(sequences)
                best, index = mine.flatten().topk(min(self.beam, mine.numel()))
                found = zip(best.tolist(), index.tolist())
                beams[i] = self._extend(beams[i], sequences, found, self.frames + t)
        self.frames += encoded.shape[1]

    def _extend(
        self, old: dict, sequences: list[tuple], found: Iterable[tuple[float, int]], t: int
    ) -> dict[tuple, Partial]:
        """The beam after frame ``t``.

        Args:
          found: scores, best first, and their places in a table of all symbols after every old
            sequence.
        """
        new: dict[tuple, Partial] = {}
        for score, place in found:
            tokens, symbol = (
                sequences[place // self.model.vocab_size],
                place % self.model.vocab_size,
            )
            _, frames, state = old[tokens]
            if symbol not in (BLANK, UNK):
                tokens, frames = tokens + (symbol,), frames + [t]
                bonus, state = self.hotwords.step(state, symbol)
                score += bonus
            if tokens in new:  # the best come first: the frames of the likelier alignment stay
                score, frames = float(np.logaddexp(new[tokens].score, score)), new[tokens].frames
            new[tokens] = Partial(score, frames, state)
        return new

    def finish(self) -> None:
        """The utterances are over: hotwords that are not complete lose their bonus. A client does
        this where it has whole utterances, and not in streams."""
        self.beams = [
            {
                tokens: Partial(score + self.hotwords.finish(state), frames)
                for tokens, (score, frames, state) in candidates.items()
            }
            for candidates in self.beams
        ]

    def hypotheses(self) -> list[Hypothesis]:
        """The best of every beam so far, by score per token, those of the first context counted."""
        found = []
        for candidates in self.beams:
            best_first = heapq.nlargest(
                max(self.kept, 1),
                candidates,
                key=lambda tokens: candidates[tokens].score / len(tokens),
            )
            ranked = [
                Hypothesis(
                    list(tokens[self.order :]),
                    candidates[tokens].frames,
                    score=candidates[tokens].score,
                )
                for tokens in best_first
            ]
            found.append(with_nbest(ranked, self.kept))
        return found


def with_nbest(ranked: list[Hypothesis], nbest: int) -> Hypothesis:
    """The first of some hypotheses, best first, with the ``nbest`` best of them."""
    return replace(ranked[0], nbest=ranked[:nbest])


def penalised(logits: Tensor, blank_penalty: float) -> Tensor:
    """Logits (..., V) with a penalty on blank, as sherpa-onnx has it."""
    if not blank_penalty:
        return logits
    logits = logits.clone()
    logits[..., BLANK] -= blank_penalty
    return logits


def greedy_search(
    model: Transducer, encoded: Tensor, lengths: Tensor, max_symbols: int = 1
) -> list[Hypothesis]:
    """Whole utterances: encoder output (B, T', dim) and lengths (B,) -> B hypotheses."""
    search = GreedySearch(model, len(encoded), encoded.device, max_symbols)
    search.accept(encoded, lengths)
    return search.hypotheses()


def modified_beam_search(
    model: Transducer, encoded: Tensor, lengths: Tensor, beam: int
) -> list[Hypothesis]:
    """Whole utterances: encoder output (B, T', dim) and lengths (B,) -> B hypotheses."""
    search = BeamSearch(model, len(encoded), encoded.device, beam)
    search.accept(encoded, lengths)
    search.finish()
    return search.hypotheses()
