"""Intervals and paired tests, against values by hand, scipy's bootstrap and exact enumeration."""

import itertools

import numpy as np
import pytest
from scipy.stats import bootstrap

from utils.statistics import paired_difference, wer_interval

TEN_WORDS = np.full(8, 10)
EACH = [f"u{i}" for i in range(8)]  # every utterance its own group


def constant(*per_seed: int) -> np.ndarray:
    """So many errors in every utterance of 10 words, with every seed."""
    return np.array([[n] * 8 for n in per_seed])


def test_rate_is_all_errors_over_all_words_averaged_over_seeds():
    """Seed 1: 6 of 20 words, seed 2: 3 of 20."""
    rate = wer_interval(np.array([[1, 0, 5], [2, 1, 0]]), np.array([4, 6, 10]), ["a", "b", "a"])
    assert rate.wer == pytest.approx(22.5)
    assert rate.low <= rate.wer <= rate.high


def test_interval_of_one_seed_is_the_percentile_bootstrap_over_speakers():
    rng = np.random.default_rng(3)
    words, speakers = rng.integers(3, 30, 200), [f"s{n}" for n in rng.integers(0, 25, 200)]
    errors = rng.binomial(words, rng.beta(1, 6, 200))
    rate = wer_interval(errors[None], words, speakers)
    names = sorted(set(speakers))
    per_speaker = [
        np.array([sum(x[i] for i, s in enumerate(speakers) if s == name) for name in names])
        for x in (errors, words)
    ]
    reference = bootstrap(
        per_speaker,
        lambda e, w, axis: 100 * e.sum(axis) / w.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20000,
        rng=1,
    ).confidence_interval
    tolerance = 0.05 * (reference.high - reference.low)
    assert rate.low == pytest.approx(reference.low, abs=tolerance) and rate.high == pytest.approx(
        reference.high, abs=tolerance
    )
    assert rate.low < rate.wer < rate.high


def test_errors_that_cluster_by_speaker_widen_the_interval_by_speaker():
    """10 speakers of 9 utterances that are all wrong or all right: as sure as 10 utterances, so 3
    times as wide as 90."""
    errors = np.repeat([0, 4, 0, 4, 0, 4, 0, 4, 0, 4], 9)[None]
    words, speakers = np.full(90, 10), np.repeat(list("abcdefghij"), 9).tolist()
    by_speaker = wer_interval(errors, words, speakers)
    alone = wer_interval(errors, words, [str(i) for i in range(90)])
    assert by_speaker.wer == alone.wer == pytest.approx(20)
    assert (by_speaker.high - by_speaker.low) / (alone.high - alone.low) == pytest.approx(
        3, rel=0.2
    )


def test_order_of_utterances_does_not_matter():
    rng = np.random.default_rng(0)
    errors, words, speakers = (
        rng.integers(0, 5, (2, 30)),
        rng.integers(5, 20, 30),
        rng.choice(list("abcdef"), 30),
    )
    order = rng.permutation(30)
    assert wer_interval(errors, words, speakers) == wer_interval(
        errors[:, order], words[order], speakers[order]
    )


def test_equal_utterances_leave_nothing_to_doubt():
    rate = wer_interval(constant(2), TEN_WORDS, EACH)
    assert (rate.wer, rate.low, rate.high) == (20, 20, 20)


def test_interval_holds_the_luck_of_a_seed():
    """Of two seeds with 10 and 50 %, both are drawn in half of the draws and the same one twice in
    a quarter each."""
    rate = wer_interval(constant(1, 5), TEN_WORDS, EACH)
    assert (rate.wer, rate.low, rate.high) == (30, 10, 50)


def test_second_seed_that_differs_widens_a_real_interval():
    rng = np.random.default_rng(5)
    words = rng.integers(5, 20, 60)
    good, bad = rng.binomial(words, 0.1), rng.binomial(words, 0.4)
    names = [str(i) for i in range(60)]
    both, first, second = (
        wer_interval(np.stack(e), words, names) for e in ([good, bad], [good], [bad])
    )
    assert both.high - both.low > 1.5 * max(first.high - first.low, second.high - second.low)


def test_difference_by_hand():
    """A: 3 and 2 errors of 20 words, B: 5 and 5; B - A is the same with the other sign, and
    relative to A."""
    a, b = np.array([[2, 0, 1], [1, 1, 0]]), np.array([[3, 1, 1], [2, 1, 2]])
    words, groups = np.array([4, 6, 10]), ["x", "y", "z"]
    ab, ba = paired_difference(a, b, words, groups), paired_difference(b, a, words, groups)
    assert (
        ab.absolute == pytest.approx(-12.5) and ab.relative == pytest.approx(-50) and ab.seeds_agree
    )
    assert (
        ba.absolute == pytest.approx(12.5) and ba.relative == pytest.approx(100) and ba.seeds_agree
    )
    assert ab.low <= -12.5 <= ab.high and (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low))


def test_difference_resamples_both_systems_alike():
    """A has one error less in every utterance, whose WER runs from 10 to 80 %: the difference is
    certain, A is not."""
    b = np.arange(1, 9)[None]
    difference, rate = (
        paired_difference(b - 1, b, TEN_WORDS, EACH),
        wer_interval(b - 1, TEN_WORDS, EACH),
    )
    assert (difference.absolute, difference.low, difference.high) == pytest.approx((-10, -10, -10))
    assert rate.high - rate.low > 20


@pytest.mark.parametrize(
    "a, b, agree",
    [
        ((1, 2), (3, 4), True),
        ((3, 4), (1, 2), True),
        ((1, 4), (3, 3), False),
        ((1, 3), (3, 3), False),
        ((1,), (3,), True),
    ],
)
def test_seeds_agree_on_the_sign(a, b, agree):
    assert paired_difference(constant(*a), constant(*b), TEN_WORDS, EACH).seeds_agree is agree


def test_difference_interval_holds_the_luck_of_a_seed():
    """10 % better with one seed, 30 % worse with the other: neither is excluded, although the
    utterances leave no doubt."""
    found = paired_difference(constant(2, 6), constant(3, 3), TEN_WORDS, EACH)
    assert (found.absolute, found.low, found.high) == pytest.approx((10, -10, 30))
    assert found.p < 0.01 and not found.seeds_agree


def test_identical_systems_do_not_differ():
    errors = np.random.default_rng(0).integers(0, 5, (2, 8))
    found = paired_difference(errors, errors.copy(), TEN_WORDS, EACH)
    assert (found.absolute, found.low, found.high, found.relative, found.p) == (0, 0, 0, 0, 1)


def test_systems_without_errors():
    found = paired_difference(constant(0), constant(0), TEN_WORDS, EACH)
    assert (found.absolute, found.p) == (0, 1) and np.isnan(found.relative)


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("draw", range(4))
def test_p_is_the_share_of_sign_flips_as_far_from_zero(seeds, draw):
    """All 2 ** 8 ways to swap the two systems within utterances, counted in whole numbers."""
    rng = np.random.default_rng(draw)
    a, b = rng.integers(0, 5, (seeds, 8)), rng.integers(0, 6, (seeds, 8))
    gaps = (a.sum(0) - b.sum(0)).tolist()
    sums = [
        abs(sum(s * g for s, g in zip(signs, gaps)))
        for signs in itertools.product((1, -1), repeat=8)
    ]
    exact = sum(s >= abs(sum(gaps)) for s in sums) / len(sums)
    assert paired_difference(a, b, TEN_WORDS, EACH).p == pytest.approx(exact)


def test_p_is_tiny_where_one_system_wins_every_utterance():
    rng = np.random.default_rng(0)
    b = rng.integers(1, 6, (2, 60))
    found = paired_difference(b - 1, b, np.full(60, 10), [str(i) for i in range(60)])
    assert found.p < 0.001 and found.high < 0 and found.seeds_agree
