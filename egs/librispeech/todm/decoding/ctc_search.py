"""Greedy and prefix beam search on the output of a CTC layer, without a language model; greedy also
piece by piece.

<unk> and <sos/eos> count as blank in both: they are never part of the output, and a token on both
sides of one is two tokens.
"""

import heapq
import math
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from todm.decoding.transducer_search import Hypothesis, with_nbest
from utils.tokens import BLANK, SOS_EOS, UNK

SPECIAL = [BLANK, SOS_EOS, UNK]
FIRST_TOKEN = max(SPECIAL) + 1

# Tokens -> log-probability of all alignments so far that end in blank, and of all that end in the
# last token.
Prefixes = dict[tuple[int, ...], tuple[float, float]]


class CtcGreedySearch:
    """The most probable alignment, collapsed; carried on from one piece to the next."""

    def __init__(self, batch: int):
        self.results = [Hypothesis([], []) for _ in range(batch)]
        self.frames = 0
        self.last = torch.full((batch,), BLANK)

    @torch.no_grad()
    def accept(self, log_probs: Tensor, lengths: Tensor) -> None:
        """The next frames: log-probabilities (B, T, V), of which the first ``lengths`` (B,) are
        real."""
        best, lengths = log_probs.argmax(-1).cpu(), lengths.cpu()
        known = torch.cat([self.last[:, None], best], dim=1)
        real = torch.arange(best.shape[1]) < lengths[:, None]
        emitted = (best >= FIRST_TOKEN) & (best != known[:, :-1]) & real
        for result, symbols, where in zip(self.results, best, emitted):
            result.tokens.extend(symbols[where].tolist())
            result.frames.extend((self.frames + where.nonzero()[:, 0]).tolist())
        self.last = known.gather(1, lengths[:, None])[:, 0]
        self.frames += best.shape[1]

    def hypotheses(self) -> list[Hypothesis]:
        """The hypotheses of all utterances so far, in the order of the batch."""
        return self.results


def ctc_greedy_search(log_probs: Tensor, lengths: Tensor) -> list[Hypothesis]:
    """Whole utterances: log-probabilities (B, T, V) and lengths (B,) -> B hypotheses."""
    search = CtcGreedySearch(len(log_probs))
    search.accept(log_probs, lengths)
    return search.hypotheses()


@torch.no_grad()
def ctc_prefix_beam_search(
    log_probs: Tensor, lengths: Tensor, beam: int, nbest: int = 0
) -> list[Hypothesis]:
    """The output whose alignments are together the most probable: log-probabilities (B, T, V) and
    lengths (B,) -> B hypotheses, each with the ``nbest`` best ones.

    Frames are those of its most probable alignment. With a ``beam`` of at least the number of
    possible outputs the result is exact.
    """
    hypotheses = []
    for frames, length in zip(log_probs, lengths.tolist()):
        merged = _merge_special(frames[:length])
        best_first = islice(ctc_prefixes(frames[:length], beam).items(), max(nbest, 1))
        ranked = [
            Hypothesis(list(tokens), _align(merged, list(tokens)), score=score)
            for tokens, score in best_first
        ]
        hypotheses.append(with_nbest(ranked, nbest))
    return hypotheses


@torch.no_grad()
def ctc_prefixes(log_probs: Tensor, beam: int) -> dict[tuple[int, ...], float]:
    """The ``beam`` most probable outputs of one utterance: (T, V) -> tokens and their
    log-probability, best first.

    A prefix is extended by the ``beam + 1`` best tokens of a frame alone. That loses nothing:
    whatever it would become with a worse one,
    ``beam`` of these (all but a repeat of its last token, which needs a blank before it) lead to a
    prefix at least as probable.
    """
    merged = _merge_special(log_probs)
    best_tokens = (
        FIRST_TOKEN
        + merged[:, FIRST_TOKEN:].topk(min(beam + 1, merged.shape[1] - FIRST_TOKEN)).indices
    )
    prefixes: Prefixes = {(): (0.0, -math.inf)}
    for frame, tokens in zip(merged.tolist(), best_tokens.tolist()):
        prefixes = _advance(prefixes, frame, tokens, beam)
    return {prefix: _log_add(*scores) for prefix, scores in prefixes.items()}


def _merge_special(log_probs: Tensor) -> Tensor:
    """(T, V) -> the same in double precision on the CPU, with <unk>'s and <sos/eos>'s probability
    added to blank's."""
    merged = log_probs.double().cpu().clone()
    merged[:, BLANK] = merged[:, SPECIAL].logsumexp(-1)
    return merged


def _advance(prefixes: Prefixes, frame: list[float], tokens: list[int], beam: int) -> Prefixes:
    """One frame further: its log-probabilities (V,), and the tokens that may be appended. The best
    ``beam``, best first."""
    # total, prefix, token to append, and the two scores as of Prefixes
    candidates: list[tuple[float, tuple[int, ...], tuple[int, ...], tuple[float, float]]] = []
    present: dict[tuple[int, ...], set[int]] = {}
    for prefix, (blank, token) in prefixes.items():
        stay_blank, stay_token = _log_add(blank, token) + frame[BLANK], -math.inf
        if prefix:
            stay_token = (
                _log_add(token, _before_append(prefixes, prefix[:-1], prefix[-1]))
                + frame[prefix[-1]]
            )
            present.setdefault(prefix[:-1], set()).add(prefix[-1])
        candidates.append((_log_add(stay_blank, stay_token), prefix, (), (stay_blank, stay_token)))
    for prefix, (blank, token) in prefixes.items():
        total, last, there = _log_add(blank, token), prefix[-1:], present.get(prefix, ())
        for symbol in tokens:
            if symbol not in there:  # one that is there has got this share above
                score = (blank if last == (symbol,) else total) + frame[symbol]
                if score > -math.inf:
                    candidates.append((score, prefix, (symbol,), (-math.inf, score)))
    best = heapq.nlargest(beam, candidates, key=lambda candidate: candidate[0])
    return {prefix + appended: scores for _, prefix, appended, scores in best}


def _before_append(prefixes: Prefixes, prefix: tuple[int, ...], symbol: int) -> float:
    """Log-probability of the alignments of a prefix to which a symbol can be appended: to repeat
    its last token, those with a blank."""
    blank, token = prefixes.get(prefix, (-math.inf, -math.inf))
    return blank if prefix[-1:] == (symbol,) else _log_add(blank, token)


def _log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b)); much faster on two floats than NumPy's."""
    high, low = (a, b) if a > b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _align(merged: Tensor, tokens: list[int]) -> list[int]:
    """The frame at which every token begins on the most probable alignment: (T, V) as of
    :func:`_merge_special`."""
    states = np.full(2 * len(tokens) + 1, BLANK)
    states[1::2] = tokens
    emission = merged.numpy()[:, states]
    may_skip = np.zeros(len(states), dtype=bool)  # the blank between two different tokens
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    score = np.where(np.arange(len(states)) == 0, 0.0, -np.inf)
    steps = np.zeros(emission.shape, dtype=int)
    for t in range(len(emission)):
        padded = np.concatenate([[-np.inf, -np.inf], score])
        options = np.stack([score, padded[1:-1], np.where(may_skip, padded[:-2], -np.inf)])
        steps[t] = options.argmax(0)
        score = options.max(0) + emission[t]
    state = len(states) - 1 - int(bool(tokens) and score[-2] > score[-1])
    path = np.zeros(len(emission), dtype=int)
    for t in reversed(range(len(emission))):
        path[t] = state
        state -= steps[t, state]
    return np.searchsorted(path, 1 + 2 * np.arange(len(tokens))).tolist()
