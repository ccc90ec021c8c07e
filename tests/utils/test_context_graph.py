import itertools
import math
from collections.abc import Sequence

import pytest

from utils.context_graph import ROOT, ContextGraph

A, B, C, D, E, X = range(10, 16)


def walk(graph: ContextGraph, tokens: Sequence[int]) -> tuple[list[float], int]:
    """What every token adds, and the state behind the last."""
    state, added = ROOT, []
    for token in tokens:
        change, state = graph.step(state, token)
        added.append(change)
    return added, state


def total(graph: ContextGraph, tokens: Sequence[int]) -> float:
    """The bonus of a whole utterance."""
    added, state = walk(graph, tokens)
    return sum(added) + graph.finish(state)


def test_a_phrase_by_hand():
    """Every token adds 2; one that does not go on takes back what the phrase has added so far."""
    graph = ContextGraph([((A, B, C), 2.0)])
    assert walk(graph, [X, A, B, C, X]) == ([0, 2, 2, 2, 0], ROOT)
    assert walk(graph, [A, B, X])[0] == [2, 2, -4]
    assert walk(graph, [A, A, B])[0] == [2, 0, 2]  # a new beginning: 2 taken back, 2 added
    added, state = walk(graph, [A, B])
    assert added == [2, 2] and graph.finish(state) == -4


def test_a_completed_phrase_keeps_its_bonus_and_begins_again():
    graph = ContextGraph([((A, B), 1.5)])
    assert walk(graph, [A, B, A, B, B]) == ([1.5] * 4 + [0], ROOT)
    assert total(graph, [A, B, A]) == 3.0


def test_the_end_of_one_phrase_is_the_beginning_of_another():
    """A B C D is not completed, but its end B C is the beginning of B C E: 9 become 4, and 2 more
    for E."""
    graph = ContextGraph([((A, B, C, D), 3.0), ((B, C, E), 2.0)])
    added, state = walk(graph, [A, B, C, E])
    assert added == [3, 3, 3, 4 - 9 + 2] and state == ROOT
    assert total(graph, [A, B, C, E]) == 6 and total(graph, [A, B, C, D]) == 12
    assert total(graph, [A, B, C]) == 0


def test_a_failure_link_may_lead_over_several_phrases():
    """After A A A B comes A A B, then A B, then B; the third goes on with C."""
    graph = ContextGraph([((A, A, A, B, D), 1.0), ((A, A, B, E), 1.0), ((A, B, C), 1.0)])
    added, state = walk(graph, [A, A, A, B, C])
    assert added == [1, 1, 1, 1, 2 - 4 + 1] and state == ROOT
    assert total(graph, [A, A, A, B, X]) == 0


def test_a_prefix_of_another_ends_first():
    """A B is complete at B, after which A B C can not be: as sherpa-onnx has it."""
    graph = ContextGraph([((A, B, C), 2.0), ((A, B), 2.0)])
    assert walk(graph, [A, B, C]) == ([2, 2, 0], ROOT)


def test_a_phrase_within_another_ends_it():
    """B C ends inside A B C D: its 2 x 1 are kept of the 9 that had been added, and D begins
    afresh."""
    graph = ContextGraph([((A, B, C, D), 3.0), ((B, C), 1.0)])
    assert walk(graph, [A, B, C, D]) == ([3, 3, 3 + 2 - 9, 0], ROOT)


def test_the_higher_boost_counts_where_phrases_share_a_beginning():
    graph = ContextGraph([((A, B), 1.0), ((A, C), 3.0)])
    assert walk(graph, [A, C])[0] == [3, 3] and walk(graph, [A, X])[0] == [3, -3]
    assert walk(graph, [A, B])[0][0] == 3
    graph = ContextGraph([((A, C), 3.0), ((A, B), 1.0)])
    assert walk(graph, [A, B])[0] == [3, 1] and total(graph, [A, B]) == 4


def test_a_negative_boost_is_a_malus():
    graph = ContextGraph([((A, B), -1.0)])
    assert total(graph, [A, B]) == -2 and total(graph, [A, X]) == 0


def test_a_graph_of_nothing_adds_nothing():
    for graph in (ContextGraph([]), ContextGraph([((), 2.0)])):
        assert walk(graph, [A, B]) == ([0, 0], ROOT) and graph.finish(ROOT) == 0


def plain_total(phrases: list[tuple[int, ...]], tokens: Sequence[int]) -> float:
    """By reading from the left: whenever one of the phrases ends, the longest of those that end
    there counts, and everything before is over."""
    begin, bonus = 0, 0.0
    for end in range(1, len(tokens) + 1):
        said = tuple(tokens[begin:end])
        ending = [len(p) for p in phrases if said[-len(p) :] == p]
        if ending:
            bonus, begin = bonus + max(ending), end
    return bonus


@pytest.mark.parametrize(
    "phrases",
    [
        [(A, B, A), (B, B)],
        [(A, A, B, B), (A, B, A), (B, A, B, B)],
        [(A, B, A, B, C), (B, A, B, A), (C, C), (A, C)],
        [(C, A, B), (A, B), (B, C, A, A)],
    ],
)
def test_bonuses_of_all_utterances_against_a_plain_count(phrases):
    graph = ContextGraph([(phrase, 1.0) for phrase in phrases])
    counted = 0
    for tokens in itertools.product((A, B, C), repeat=7):
        expected = plain_total(phrases, tokens)
        counted += expected > 0
        assert math.isclose(total(graph, tokens), expected, abs_tol=1e-9), tokens
    assert counted > 100
