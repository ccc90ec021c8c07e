"""The certainty of word error rates: bootstrap intervals over speakers or utterances and seeds, and
paired tests.

Systems are arrays of word errors, (seeds, utterances), over the same utterances in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test

RESAMPLES = 5000


@dataclass(frozen=True)
class Rate:
    """A word error rate in percent, over all seeds, with its 95 % interval."""

    wer: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The difference between two systems, A against B.

    Attributes:
      absolute: the WER of A minus the WER of B, in percent.
      low, high: its 95 % interval.
      relative: the same in percent of B's WER.
      p: the probability of a difference as large if A and B were exchangeable in every utterance.
      seeds_agree: whether the difference has the same sign with every seed.
    """

    absolute: float
    low: float
    high: float
    relative: float
    p: float
    seeds_agree: bool


def wer_interval(
    errors: np.ndarray, words: np.ndarray, groups: Sequence[str], seed: int = 0
) -> Rate:
    """The WER with its bootstrap interval over groups (speakers, or utterances where each is its
    own group) and over seeds.

    Args:
      errors: word errors, (S, N).
      words: words of the references, (N,).
      groups: labels, (N,).
      seed: of the draws.
    """
    by_group, group_words = _sum_groups(errors, words, groups)
    rates = _resample(by_group, group_words, np.random.default_rng(seed))
    low, high = np.percentile(rates, [2.5, 97.5])
    return Rate(100 * errors.mean(0).sum() / words.sum(), float(low), float(high))


def paired_difference(
    a: np.ndarray, b: np.ndarray, words: np.ndarray, groups: Sequence[str], seed: int = 0
) -> Difference:
    """The difference A minus B: a bootstrap that resamples both alike, and a permutation test over
    utterances.

    The test swaps A and B within utterances (errors averaged over seeds): it knows of utterances,
    not of the luck of a training; that is in the interval, which resamples the seeds too, and in
    ``seeds_agree``.

    Args:
      a, b: word errors, (S, N), with the same seeds.
      words, groups, seed: as in :func:`wer_interval`.
    """
    by_group, group_words = _sum_groups(a.astype(float) - b, words, groups)
    low, high = np.percentile(
        _resample(by_group, group_words, np.random.default_rng(seed)), [2.5, 97.5]
    )
    absolute = 100 * (a.mean(0).sum() - b.mean(0).sum()) / words.sum()
    base = 100 * b.mean(0).sum() / words.sum()
    if np.array_equal(a.mean(0), b.mean(0)):
        p = 1.0
    else:

        def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
            return (x - y).sum(axis)

        p = float(
            permutation_test(
                (a.mean(0), b.mean(0)),
                statistic,
                permutation_type="samples",
                vectorized=True,
                n_resamples=RESAMPLES,
                rng=np.random.default_rng(seed),
            ).pvalue
        )
    signs = np.sign(a.sum(1) - b.sum(1))
    return Difference(
        float(absolute),
        float(low),
        float(high),
        float(100 * absolute / base) if base else float("nan"),
        p,
        bool((signs == signs[0]).all()),
    )


def _sum_groups(
    errors: np.ndarray, words: np.ndarray, groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The sums over the utterances of every group: errors (S, G) and words (G,)."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    count = len(names)
    return np.stack([np.bincount(index, row, count) for row in errors]), np.bincount(
        index, words, count
    )


def _resample(errors: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The WER in RESAMPLES draws of groups and, independently, of seeds; errors (S, G), words
    (G,)."""
    seeds, groups = errors.shape
    drawn = rng.integers(groups, size=(RESAMPLES, groups))
    weights = (
        np.stack(
            [
                np.bincount(row, minlength=seeds)
                for row in rng.integers(seeds, size=(RESAMPLES, seeds))
            ]
        )
        / seeds
    )
    per_seed = errors[:, drawn].sum(-1)  # (S, RESAMPLES)
    return 100 * (weights.T * per_seed).sum(0) / words[drawn].sum(-1)
