"""Greedy and modified beam search for a stateless transducer, batched.

Both follow what sherpa-onnx does on a device: at most one symbol per frame (greedy: by default), <unk> counts as blank,
and the best beam is chosen by score per token.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from egs.librispeech.todm.transducer import Transducer
from utils.tokens import BLANK, UNK


@dataclass(frozen=True)
class Hypothesis:
    """A decoded utterance: token ids, and the encoder frame at which each was emitted."""

    tokens: list[int]
    frames: list[int]


@torch.no_grad()
def greedy_search(model: Transducer, encoded: Tensor, lengths: Tensor, max_symbols: int = 1) -> list[Hypothesis]:
    """The best symbol at every node: encoder output (B, T', dim) and lengths (B,) -> B hypotheses.

    ``max_symbols`` is the most that one frame may emit; a device's client allows 1.
    """
    batch, device = len(encoded), encoded.device
    projected = model.joiner.encoder_proj(encoded)
    context = model.predictor.start(batch, device)
    predicted = model.joiner.predictor_proj(model.predictor(context)[:, 0])
    hypotheses = [Hypothesis([], []) for _ in range(batch)]
    for t in range(int(lengths.max())):
        active = t < lengths
        for _ in range(max_symbols):
            symbol = model.joiner(projected[:, t], predicted).argmax(-1)
            active = active & (symbol != BLANK) & (symbol != UNK)
            if not active.any():
                break
            for i in active.nonzero()[:, 0].tolist():
                hypotheses[i].tokens.append(int(symbol[i]))
                hypotheses[i].frames.append(t)
            context = torch.where(active[:, None], torch.cat([context[:, 1:], symbol[:, None]], dim=1), context)
            predicted = model.joiner.predictor_proj(model.predictor(context)[:, 0])
    return hypotheses


@torch.no_grad()
def modified_beam_search(model: Transducer, encoded: Tensor, lengths: Tensor, beam: int) -> list[Hypothesis]:
    """Beam search with at most one symbol per frame; equal token sequences are merged by adding probabilities."""
    batch, device = len(encoded), encoded.device
    projected = model.joiner.encoder_proj(encoded)
    order = model.predictor.context_size
    start = tuple(model.predictor.start(1, device)[0].tolist())
    # Per utterance: token sequence (with its first context) -> (log-probability, frames of its tokens).
    beams: list[dict[tuple, tuple[float, list[int]]]] = [{start: (0.0, [])} for _ in range(batch)]
    for t in range(int(lengths.max())):
        active = [i for i in range(batch) if t < lengths[i]]
        rows = [(i, tokens) for i in active for tokens in beams[i]]
        context = torch.tensor([tokens[-order:] for _, tokens in rows], device=device)
        predicted = model.joiner.predictor_proj(model.predictor(context)[:, 0])
        frame = projected[torch.tensor([i for i, _ in rows], device=device), t]
        log_probs = model.joiner(frame, predicted).float().log_softmax(-1)
        scores = log_probs + torch.tensor([beams[i][tokens][0] for i, tokens in rows], device=device)[:, None]
        first = 0
        for i in active:
            sequences = list(beams[i])
            mine = scores[first : first + len(sequences)]
            first += len(sequences)
            best, index = mine.flatten().topk(min(beam, mine.numel()))
            beams[i] = _extend(beams[i], sequences, best.tolist(), index.tolist(), model.vocab_size, t)
    results = []
    for candidates in beams:
        tokens, (_, frames) = max(candidates.items(), key=lambda item: item[1][0] / len(item[0]))
        results.append(Hypothesis(list(tokens[order:]), frames))
    return results


def _extend(old: dict, sequences: list[tuple], scores: list[float], index: list[int], vocab_size: int, t: int) -> dict:
    new: dict[tuple, tuple[float, list[int]]] = {}
    for score, flat in zip(scores, index):
        source, symbol = sequences[flat // vocab_size], flat % vocab_size
        frames = old[source][1]
        if symbol not in (BLANK, UNK):
            source, frames = source + (symbol,), frames + [t]
        if source in new:  # candidates come best first, so the frames of the more likely alignment stay
            score, frames = float(np.logaddexp(new[source][0], score)), new[source][1]
        new[source] = (score, frames)
    return new
