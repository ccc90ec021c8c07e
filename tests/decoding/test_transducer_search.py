import functools
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import tiny_config, tiny_model
from todm.decoding.transducer_search import (
    BeamSearch,
    GreedySearch,
    Hypothesis,
    greedy_search,
    modified_beam_search,
)
from todm.model.transducer import Transducer
from utils.context_graph import ContextGraph
from utils.tokens import BLANK, UNK

LENGTHS = torch.tensor([14, 9, 3])


def make_model(vocab_size: int = 6, seed: int = 0) -> Transducer:
    """One whose joiner is decided enough to emit blanks, <unk> and tokens."""
    model = tiny_model(tiny_config(), vocab_size, seed).eval()
    with torch.no_grad():
        model.joiner.output.weight.mul_(6)
        model.joiner.output.bias[BLANK] += 0.5
    return model


def make_encoded(batch: int = 3, frames: int = 14, seed: int = 0) -> Tensor:
    return 2 * torch.randn(batch, frames, 16, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def plain_log_probs(model: Transducer, frame: Tensor, tokens: list[int]) -> Tensor:
    """(V,), after some tokens, from the weights alone: -1 embeds as zero."""
    context = ([-1, BLANK] + tokens)[-2:]
    weight, conv = model.predictor.embedding.weight, model.predictor.conv
    embedded = torch.stack(
        [weight[i] if i >= 0 else torch.zeros_like(weight[0]) for i in context], dim=1
    )
    predicted = nn.functional.relu(conv(embedded[None]))[0, :, 0]
    joiner = model.joiner
    return (
        joiner.output(torch.tanh(joiner.encoder_proj(frame) + joiner.predictor_proj(predicted)))
        .double()
        .log_softmax(-1)
    )


def plain_greedy(model: Transducer, encoded: Tensor) -> Hypothesis:
    tokens, frames = [], []
    for t, frame in enumerate(encoded):
        symbol = int(plain_log_probs(model, frame, tokens).argmax())
        if symbol not in (BLANK, UNK):
            tokens.append(symbol)
            frames.append(t)
    return Hypothesis(tokens, frames)


def every_alignment(model: Transducer, encoded: Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of every token sequence: of all its alignments with one symbol per frame
    together."""
    log_probs = functools.cache(
        lambda t, context: plain_log_probs(model, encoded[t], list(context)).tolist()
    )
    scores: dict[tuple[int, ...], list[float]] = {}
    for alignment in itertools.product(range(model.vocab_size), repeat=len(encoded)):
        tokens, score = [], 0.0
        for t, symbol in enumerate(alignment):
            score += log_probs(t, tuple(tokens[-2:]))[symbol]
            tokens += [symbol] * (symbol not in (BLANK, UNK))
        scores.setdefault(tuple(tokens), []).append(score)
    return {tokens: math.log(sum(map(math.exp, parts))) for tokens, parts in scores.items()}


class Scripted(nn.Module):
    """A joiner that knows the log-probabilities of every frame, whatever the context: encoder
    output is those."""

    def __init__(self):
        super().__init__()
        self.encoder_proj, self.predictor_proj = nn.Identity(), lambda x: x

    def forward(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        return encoder


@pytest.mark.parametrize("seed", range(5))
def test_greedy_against_a_loop(seed):
    model, encoded = make_model(seed=seed), make_encoded(seed=seed)
    got = greedy_search(model, encoded, LENGTHS)
    assert got == [
        plain_greedy(model, encoded[b, :length]) for b, length in enumerate(LENGTHS.tolist())
    ]


def test_the_loops_meet_every_kind_of_symbol():
    """Blank, <unk> and tokens are all best somewhere, or the tests here would say little."""
    best, tokens = set(), 0
    for seed in range(5):
        model, encoded = make_model(seed=seed), make_encoded(seed=seed)
        found = plain_greedy(model, encoded[0]).tokens
        tokens += len(found)
        best |= {
            int(plain_log_probs(model, frame, found[:2]).argmax())
            for frame in encoded.flatten(0, 1)
        }
    assert {BLANK, UNK} < best and 10 < tokens < 60


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(seed):
    model, encoded = make_model(seed=seed), make_encoded(seed=seed)
    assert modified_beam_search(model, encoded, LENGTHS, beam=1) == greedy_search(
        model, encoded, LENGTHS
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_the_best_of_all_alignments(seed):
    """By probability per token, the two of the first context counted, as sherpa-onnx ranks
    hypotheses."""
    model, encoded = make_model(vocab_size=5, seed=seed), make_encoded(1, 4, seed)
    (got,) = modified_beam_search(model, encoded, torch.tensor([4]), beam=1000)
    scores = every_alignment(model, encoded[0])
    assert sum(map(math.exp, scores.values())) == pytest.approx(1)
    assert tuple(got.tokens) == max(scores, key=lambda tokens: scores[tokens] / (len(tokens) + 2))


@pytest.mark.parametrize("seed", range(4))
def test_the_n_best_are_those_of_all_alignments(seed):
    model, encoded = make_model(vocab_size=5, seed=seed), make_encoded(1, 4, seed)
    search = BeamSearch(model, 1, torch.device("cpu"), 1000, nbest=7)
    search.accept(encoded, torch.tensor([4]))
    (best,) = search.hypotheses()
    scores = every_alignment(model, encoded[0])
    expected = sorted(scores, key=lambda tokens: -scores[tokens] / (len(tokens) + 2))[:7]
    assert [tuple(h.tokens) for h in best.nbest] == expected and best == best.nbest[0]
    assert [h.score for h in best.nbest] == pytest.approx([scores[t] for t in expected], abs=1e-4)


def test_n_best_lists_come_when_asked_for_and_hold_what_the_beam_has():
    model, encoded = make_model(), make_encoded()
    (best, *_) = modified_beam_search(model, encoded, LENGTHS, beam=3)
    assert best.nbest == [] and best.score < 0
    search = BeamSearch(model, 3, torch.device("cpu"), 3, nbest=50)
    search.accept(encoded, LENGTHS)
    assert [len(h.nbest) for h in search.hypotheses()] == [3, 3, 3]


def hotword_search(probs: list[list[float]], hotwords: ContextGraph, beam: int = 20) -> BeamSearch:
    """Beam search on given probabilities, as of :func:`scripted_search`."""
    model = make_model(vocab_size=5)
    model.joiner = Scripted()
    search = BeamSearch(model, 1, torch.device("cpu"), beam, hotwords=hotwords)
    search.accept(torch.tensor([probs]).log(), torch.tensor([len(probs)]))
    return search


def test_hotwords_in_a_beam_by_hand():
    """0.1 x 0.2 for 3 then 4 becomes e^(2 x 1) times as much; the 3 alone at the end has a bonus
    only until the utterance is over."""
    probs = [[0.9, 0, 0, 0.1, 0], [0.8, 0, 0, 0, 0.2]]
    search = hotword_search(probs, ContextGraph([((3, 4), 1.0)]))
    before = {tokens[2:]: partial.score for tokens, partial in search.beams[0].items()}
    assert math.exp(before[3, 4]) == pytest.approx(0.02 * math.e**2)
    assert math.exp(before[3,]) == pytest.approx(0.08 * math.e)
    assert math.exp(before[4,]) == pytest.approx(0.18)
    search.finish()
    after = {tokens[2:]: partial.score for tokens, partial in search.beams[0].items()}
    assert math.exp(after[3,]) == pytest.approx(0.08)
    assert after[3, 4] == before[3, 4] and after[()] == before[()]


def test_a_strong_hotword_wins_and_none_changes_nothing():
    probs = [[0.9, 0, 0, 0.1, 0], [0.8, 0, 0, 0, 0.2]]
    assert hotword_search(probs, ContextGraph([])).hypotheses()[0].tokens == []
    assert hotword_search(probs, ContextGraph([((3, 4), 4.0)])).hypotheses()[0].tokens == [3, 4]
    assert hotword_search(probs, ContextGraph([((4, 3), 4.0)])).hypotheses()[0].tokens == [4]


def test_the_bonus_comes_after_the_choice_of_the_beam():
    """As in sherpa-onnx: with a beam of one, the hotword's token is not among the best."""
    probs = [[0.9, 0, 0, 0.1, 0]]
    assert hotword_search(probs, ContextGraph([((3,), 9.0)]), beam=1).hypotheses()[0].tokens == []


def scripted_search(probs: list[list[float]], beam: int) -> Hypothesis:
    """Search on given probabilities of blank, <sos/eos>, <unk> and two tokens per frame."""
    model = make_model(vocab_size=5)
    model.joiner = Scripted()
    return modified_beam_search(
        model, torch.tensor([probs]).log(), torch.tensor([len(probs)]), beam
    )[0]


def test_alignments_of_equal_tokens_are_added():
    """Token 3 has 0.4 x 0.45 + 0.3 x 0.52 = 0.336 in two alignments, token 4 then 3 has 0.3 x
    0.45."""
    assert scripted_search([[0.3, 0, 0, 0.4, 0.3], [0.52, 0, 0, 0.48, 0]], beam=20).tokens == [3]


def test_merged_hypotheses_keep_the_frames_of_the_likelier_alignment():
    """Token 3 at frame 0 (0.6 x 0.8), rather than at frame 1 (0.4 x 0.2)."""
    assert scripted_search([[0.4, 0, 0, 0.6, 0], [0.8, 0, 0, 0.2, 0]], beam=4) == Hypothesis(
        [3], [0]
    )


def scripted_greedy(probs: list[list[float]], blank_penalty: float = 0.0) -> Hypothesis:
    """Greedy search on given probabilities, as of :func:`scripted_search`."""
    model = make_model(vocab_size=5)
    model.joiner = Scripted()
    search = GreedySearch(model, 1, torch.device("cpu"), blank_penalty=blank_penalty)
    search.accept(torch.tensor([probs]).log(), torch.tensor([len(probs)]))
    return search.hypotheses()[0]


def test_a_blank_penalty_by_hand():
    """Blank is three times as likely as token 3, and log 3 is 1.0986; <unk> is no token even where
    blank is ruled out. Probabilities are the net's, whatever the penalty."""
    probs = [[0.6, 0, 0.05, 0.2, 0.15], [0.1, 0, 0, 0, 0.9], [0.5, 0, 0.4, 0.1, 0]]
    assert scripted_greedy(probs, 1.09) == Hypothesis([4], [1])
    found = scripted_greedy(probs, 1.11)
    assert found == Hypothesis([3, 4], [0, 1])
    assert found.probabilities == pytest.approx([0.2, 0.9])


def test_a_blank_penalty_in_a_beam_by_hand():
    """A quarter of 0.8 is 0.2; the probabilities are those of 0.2 + 0.15 + 0.05."""
    model = make_model(vocab_size=5)
    model.joiner = Scripted()
    probs = torch.tensor([[[0.8, 0, 0, 0.15, 0.05]]]).log()
    search = BeamSearch(model, 1, torch.device("cpu"), 4, blank_penalty=math.log(4))
    search.accept(probs, torch.tensor([1]))
    scores = {tokens[2:]: math.exp(score) for tokens, (score, *_) in search.beams[0].items()}
    assert scores[()] == pytest.approx(0.5) and scores[3,] == pytest.approx(0.375)


@pytest.mark.parametrize(
    "search", [greedy_search, lambda *args: modified_beam_search(*args, beam=3)]
)
def test_an_utterance_gets_in_a_batch_what_it_gets_alone(search):
    model, encoded = make_model(), make_encoded()
    together = search(model, encoded, LENGTHS)
    for b, length in enumerate(LENGTHS.tolist()):
        assert search(model, encoded[b : b + 1, :length], LENGTHS[b : b + 1]) == [together[b]]
