import functools
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from todm.decoding.ctc_search import ctc_greedy_search, ctc_prefix_beam_search, ctc_prefixes
from todm.decoding.transducer_search import Hypothesis
from utils.tokens import BLANK, SOS_EOS, UNK

DROPPED = (BLANK, SOS_EOS, UNK)
A, B = 3, 4
EVERYTHING = 10_000
SEARCHES = {
    "greedy": ctc_greedy_search,
    "beam": lambda *args: ctc_prefix_beam_search(*args, beam=4),
}


def make_log_probs(
    frames: int, vocab_size: int, seed: int, scale: float = 1.5, batch: int = 1
) -> Tensor:
    """(batch, frames, vocab_size)"""
    scores = torch.randn(
        batch,
        frames,
        vocab_size,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    return (scale * scores).log_softmax(-1)


def make_shape(seed: int) -> tuple[int, int]:
    """Frames and symbols, the three that are dropped among them: few enough to try every
    alignment."""
    return [(1, 5), (2, 7), (3, 6), (4, 6), (5, 4), (5, 5)][seed % 6]


def scripted(symbols: list[int], vocab_size: int = 6) -> Tensor:
    """(1, T, V): one symbol per frame is by far the best."""
    return (8 * nn.functional.one_hot(torch.tensor([symbols]), vocab_size).float()).log_softmax(-1)


def make_speech(tokens: int = 60, vocab_size: int = 60, seed: int = 0) -> Tensor:
    """(5 x tokens, vocab_size): every token lasts two frames, with blank around it, in noise."""
    generator = torch.Generator().manual_seed(seed)
    spoken = torch.randint(A, vocab_size, (tokens,), generator=generator).tolist()
    symbols = torch.tensor(
        [symbol for token in spoken for symbol in (BLANK, token, token, BLANK, BLANK)]
    )
    noise = 1.5 * torch.randn(len(symbols), vocab_size, generator=generator)
    return (noise + 7 * nn.functional.one_hot(symbols, vocab_size)).log_softmax(-1)


def whole(search, log_probs: Tensor) -> Hypothesis:
    """Search in one utterance: (1, T, V) or (T, V)."""
    log_probs = log_probs.reshape(1, *log_probs.shape[-2:])
    return search(log_probs, torch.tensor([log_probs.shape[1]]))[0]


def wide(log_probs: Tensor, lengths: Tensor) -> list[Hypothesis]:
    return ctc_prefix_beam_search(log_probs, lengths, EVERYTHING)


def collapse(alignment: tuple[int, ...]) -> Hypothesis:
    starts = [
        (t, symbol) for t, symbol in enumerate(alignment) if t == 0 or alignment[t - 1] != symbol
    ]
    kept = [(t, symbol) for t, symbol in starts if symbol not in DROPPED]
    return Hypothesis([symbol for _, symbol in kept], [t for t, _ in kept])


@functools.cache
def all_alignments(frames: int, vocab_size: int) -> tuple[Tensor, list[Hypothesis]]:
    """Every alignment there is (N, T), and what each collapses to."""
    alignments = list(itertools.product(range(vocab_size), repeat=frames))
    return torch.tensor(alignments), [collapse(alignment) for alignment in alignments]


def alignment_probs(log_probs: Tensor) -> list[tuple[float, Hypothesis]]:
    """(T, V) -> the probability of every alignment, and what it collapses to."""
    alignments, outputs = all_alignments(*log_probs.shape)
    probs = log_probs.gather(1, alignments.T).sum(0).exp().tolist()
    return list(zip(probs, outputs))


def output_probs(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """(T, V) -> the probability of every output."""
    probs: dict[tuple[int, ...], float] = {}
    for prob, output in alignment_probs(log_probs):
        probs[tuple(output.tokens)] = probs.get(tuple(output.tokens), 0.0) + prob
    return probs


def likeliest_frames(log_probs: Tensor, tokens: list[int]) -> list[int]:
    """(T, V) -> where the tokens begin on their best alignment; those that differ in which of
    DROPPED they have are one."""
    probs: dict[tuple, float] = {}
    for alignment, (prob, output) in zip(
        all_alignments(*log_probs.shape)[0].tolist(), alignment_probs(log_probs)
    ):
        if output.tokens == tokens:
            key = tuple(BLANK if symbol in DROPPED else symbol for symbol in alignment)
            probs[key] = probs.get(key, 0.0) + prob
    return collapse(max(probs, key=probs.get)).frames


def loss_log_prob(log_probs: Tensor, tokens: tuple[int, ...]) -> float:
    """The tokens' log-probability as PyTorch's CTC loss has it, with all of DROPPED as blank: (T,
    V)."""
    merged = torch.cat([log_probs[:, :A].exp().sum(1, keepdim=True).log(), log_probs[:, A:]], dim=1)
    target = torch.tensor([tokens], dtype=torch.long) - 2
    lengths = torch.tensor([len(merged)]), torch.tensor([len(tokens)])
    return -float(nn.functional.ctc_loss(merged[:, None], target, *lengths, reduction="sum"))


def plain_prefix_search(log_probs: Tensor, beam: int) -> dict[tuple[int, ...], float]:
    """The textbook's search, in probabilities and with every symbol at every frame: (T, V) ->
    output -> probability."""
    prefixes = {(): (1.0, 0.0)}
    for frame in log_probs.exp().tolist():
        new: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, token) in prefixes.items():
            for symbol, prob in enumerate(frame):
                if symbol in DROPPED:
                    new.setdefault(prefix, [0.0, 0.0])[0] += (blank + token) * prob
                elif prefix[-1:] == (symbol,):
                    new.setdefault(prefix, [0.0, 0.0])[1] += token * prob
                    new.setdefault(prefix + (symbol,), [0.0, 0.0])[1] += blank * prob
                else:
                    new.setdefault(prefix + (symbol,), [0.0, 0.0])[1] += (blank + token) * prob
        prefixes = dict(sorted(new.items(), key=lambda item: -sum(item[1]))[:beam])
    return {prefix: sum(parts) for prefix, parts in prefixes.items()}


def test_greedy_by_hand():
    """Repeats are one token, blanks go, and a token's frame is the first of its run."""
    assert whole(ctc_greedy_search, scripted([0, 3, 3, 0, 0, 5, 4, 4, 0])) == Hypothesis(
        [3, 5, 4], [1, 5, 6]
    )
    assert whole(ctc_greedy_search, scripted([5, 5, 3])) == Hypothesis([5, 3], [0, 2])


@pytest.mark.parametrize("seed", range(12))
def test_greedy_is_the_best_alignment_collapsed(seed):
    log_probs = make_log_probs(*make_shape(seed), seed)[0]
    _, output = max(alignment_probs(log_probs), key=lambda item: item[0])
    assert whole(ctc_greedy_search, log_probs) == output


@pytest.mark.parametrize("search", [*SEARCHES.values(), wide], ids=[*SEARCHES, "wide"])
@pytest.mark.parametrize(
    "symbols, tokens, frames",
    [
        ([A, A], [A], [0]),
        ([A, BLANK, A], [A, A], [0, 2]),
        ([A, A, BLANK, BLANK, A, A], [A, A], [0, 4]),
        ([A, B, A], [A, B, A], [0, 1, 2]),
        ([UNK, A, UNK], [A], [1]),
        ([A, UNK, A], [A, A], [0, 2]),
        ([A, SOS_EOS, A, SOS_EOS, B], [A, A, B], [0, 2, 4]),
        ([UNK, SOS_EOS, BLANK], [], []),
        ([BLANK], [], []),
        ([], [], []),
    ],
)
def test_repeats_and_symbols_that_are_dropped(search, symbols, tokens, frames):
    log_probs = scripted(symbols) if symbols else torch.zeros(1, 0, 6)
    assert whole(search, log_probs) == Hypothesis(tokens, frames)


@pytest.mark.parametrize("seed", range(60))
def test_a_wide_beam_is_exact(seed):
    """The best of all outputs, the probability of each, and the frames of the best alignment."""
    log_probs = make_log_probs(*make_shape(seed), seed, scale=[0.5, 1.0, 2.0][seed % 3])[0]
    expected = output_probs(log_probs)
    prefixes = ctc_prefixes(log_probs, EVERYTHING)
    assert {tokens: math.exp(score) for tokens, score in prefixes.items()} == pytest.approx(
        expected
    )
    assert sum(map(math.exp, prefixes.values())) == pytest.approx(1)
    assert list(prefixes.values()) == sorted(prefixes.values(), reverse=True)
    got = whole(wide, log_probs)
    assert tuple(got.tokens) == max(expected, key=expected.get)
    assert got.frames == likeliest_frames(log_probs, got.tokens)


def test_the_n_best_are_the_most_probable_outputs():
    log_probs = make_log_probs(4, 6, seed=1)
    (best,) = ctc_prefix_beam_search(log_probs, torch.tensor([4]), EVERYTHING, nbest=5)
    expected = list(itertools.islice(ctc_prefixes(log_probs[0], EVERYTHING).items(), 5))
    assert [(tuple(h.tokens), h.score) for h in best.nbest] == expected
    assert [h.frames for h in best.nbest] == [
        likeliest_frames(log_probs[0], h.tokens) for h in best.nbest
    ]
    assert best == best.nbest[0] and whole(wide, log_probs[0]).nbest == []


def test_greedy_and_beam_differ_in_places():
    """Where the best alignment's output is not the best output, greedy's is less probable; else
    both agree."""
    differ = 0
    for seed in range(60):
        log_probs = make_log_probs(*make_shape(seed), seed, scale=1.0)[0]
        probs = output_probs(log_probs)
        greedy, beam = whole(ctc_greedy_search, log_probs), whole(wide, log_probs)
        differ += greedy.tokens != beam.tokens
        assert (
            greedy.tokens == beam.tokens or probs[tuple(greedy.tokens)] < probs[tuple(beam.tokens)]
        )
    assert 10 < differ < 50


def test_alignments_of_one_output_are_added():
    """Blank twice, 0.6 x 0.6, is the best alignment; token A has 0.4 x 0.4 + 2 x 0.4 x 0.6."""
    log_probs = torch.tensor([[[0.6, 0, 0, 0.4], [0.6, 0, 0, 0.4]]]).log()
    assert whole(ctc_greedy_search, log_probs) == Hypothesis([], [])
    assert whole(wide, log_probs).tokens == [A]
    assert ctc_prefixes(log_probs[0], EVERYTHING) == pytest.approx(
        {(A,): math.log(0.64), (): math.log(0.36)}
    )


def test_dropped_symbols_add_to_blank():
    """None of them alone, but all together outweigh the token that is best."""
    log_probs = torch.tensor([[[0.2, 0.2, 0.2, 0.4]]]).log()
    assert whole(ctc_greedy_search, log_probs) == Hypothesis([A], [0])
    assert whole(wide, log_probs) == Hypothesis([], [])


def test_frames_are_those_of_the_likeliest_alignment():
    """A begins at frame 1 with 0.6 x 0.95, at frame 0, where the search meets it first, with 0.4 x
    0.95 at most; B at 3, not at 2."""
    log_probs = torch.tensor(
        [[0.6, 0, 0, 0.4, 0], [0.05, 0, 0, 0.95, 0], [0.9, 0, 0, 0, 0.1], [0.1, 0, 0, 0, 0.9]]
    ).log()
    assert whole(wide, log_probs) == Hypothesis([A, B], [1, 3])


def test_frames_of_a_repeated_token():
    """A blank must lie between the two: better at frame 2 (0.6 x 0.45) than at 1 (0.4 x 0.55),
    though A is better in both."""
    log_probs = torch.tensor(
        [[0.1, 0, 0, 0.9], [0.4, 0, 0, 0.6], [0.45, 0, 0, 0.55], [0.1, 0, 0, 0.9]]
    ).log()
    assert whole(wide, log_probs) == Hypothesis([A, A], [0, 3])


def test_the_second_best_symbol_may_win():
    """After A, half of it with a blank: A again has 0.5 x 0.5, or 0.5 x 0.5 + 0.05 if merged, and B
    0.45."""
    log_probs = torch.tensor([[0, 0, 0, 1, 0], [0.5, 0, 0, 0.5, 0], [0.05, 0, 0, 0.5, 0.45]]).log()
    assert ctc_prefixes(log_probs, beam=1) == pytest.approx({(A, B): math.log(0.45)})


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(10))
def test_the_cut_to_the_best_symbols_loses_nothing(seed, beam):
    """Every symbol at every frame gives the same beam."""
    log_probs = make_log_probs(12, 11, seed, scale=[0.3, 1.0, 2.0][seed % 3])[0]
    got = {tokens: math.exp(score) for tokens, score in ctc_prefixes(log_probs, beam).items()}
    assert got == pytest.approx(plain_prefix_search(log_probs, beam), rel=1e-9, abs=0)


@pytest.mark.parametrize("seed", range(5))
def test_probabilities_against_the_loss(seed):
    log_probs = make_log_probs(6, 6, seed)[0]
    prefixes = ctc_prefixes(log_probs, EVERYTHING)
    assert len(prefixes) > 300
    for tokens, score in itertools.islice(prefixes.items(), 100):
        assert score == pytest.approx(loss_log_prob(log_probs, tokens))


def test_a_long_utterance():
    """A narrow beam finds an output better than greedy's, and adds most of its alignments: it never
    has more than all."""
    log_probs = make_speech()
    (tokens, score), *_ = ctc_prefixes(log_probs, beam=8).items()
    exact = loss_log_prob(log_probs.double(), tokens)
    assert exact - 2 < score < exact
    assert (
        loss_log_prob(log_probs.double(), tuple(whole(ctc_greedy_search, log_probs).tokens))
        < exact - 0.1
    )
    assert whole(lambda *args: ctc_prefix_beam_search(*args, beam=8), log_probs).tokens == list(
        tokens
    )


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_an_utterance_gets_in_a_batch_what_it_gets_alone(search):
    log_probs, lengths = (
        make_log_probs(30, 8, seed=0, batch=4).float(),
        torch.tensor([30, 17, 1, 0]),
    )
    together = search(log_probs, lengths)
    assert len(together) == 4 and len(together[1].tokens) > 3 and together[3] == Hypothesis([], [])
    for i, length in enumerate(lengths.tolist()):
        assert search(log_probs[i : i + 1, :length], lengths[i : i + 1]) == [together[i]]


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("seed", range(5))
def test_frames_increase_and_lie_within_the_length(search, seed):
    lengths = torch.tensor([40, 25, 8])
    for hypothesis, length in zip(
        search(make_log_probs(40, 7, seed, batch=3), lengths), lengths.tolist()
    ):
        assert hypothesis.tokens and len(hypothesis.frames) == len(hypothesis.tokens)
        assert hypothesis.frames == sorted(set(hypothesis.frames))
        assert 0 <= hypothesis.frames[0] and hypothesis.frames[-1] < length
        assert not set(hypothesis.tokens) & set(DROPPED)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_output_of_a_model_in_training_is_left_as_it_was(search):
    log_probs = make_log_probs(5, 6, seed=0)
    trained = log_probs.clone().requires_grad_()
    assert whole(search, trained) == whole(search, log_probs.clone())
    assert torch.equal(trained, log_probs)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_lower_precision(search, precision):
    assert whole(search, scripted([A, BLANK, A, UNK, B]).to(precision)) == Hypothesis(
        [A, A, B], [0, 2, 4]
    )


def test_impossible_symbols():
    """Probability zero in a frame for all but one."""
    log_probs = torch.full((1, 3, 6), -math.inf)
    log_probs[0, range(3), [A, BLANK, A]] = 0.0
    assert whole(wide, log_probs) == Hypothesis([A, A], [0, 2])
    assert ctc_prefixes(log_probs[0], EVERYTHING)[A, A] == 0.0
