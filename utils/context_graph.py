"""A graph of phrases that a beam search prefers (contextual biasing): an Aho-Corasick automaton
with a bonus at every token.

Aho and Corasick, "Efficient string matching", 1975. The bonuses are those of sherpa-onnx, so that a
search here finds what it finds on a device.
"""

from collections import deque
from collections.abc import Iterable, Sequence

ROOT = 0  # the state in which nothing of a phrase has been said


class ContextGraph:
    """The bonuses of phrases, token by token.

    A token that goes on with a phrase adds its boost. Where the phrase is not completed all of that
    is taken back, but for what its end has in common with the beginning of another one. A completed
    phrase keeps its bonus, and the next token begins afresh, so that a phrase that goes on behind
    the end of a shorter one is never completed.

    Where phrases share a beginning and not the boost, the higher one counts for the tokens that
    they share; those of the phrases added before keep the sums that they had.

    Args:
      phrases: the tokens of each, and what each token of it adds to a hypothesis' log-probability.
    """

    def __init__(self, phrases: Iterable[tuple[Sequence[int], float]]):
        self.arcs: list[dict[int, int]] = [{}]
        self.boosts = [0.0]  # of the last token on the way to a state
        self.sums = [0.0]  # of all tokens on the way there
        self.ends = [False]
        for tokens, boost in phrases:
            self._add(tokens, boost)
        self.fails = [ROOT] * len(self.arcs)  # the longest other beginning that ends the same way
        self.outputs: list[int | None] = [None] * len(self.arcs)  # a phrase that ends on the way
        self._link()

    def _add(self, tokens: Sequence[int], boost: float) -> None:
        state = ROOT
        for token in tokens:
            following = self.arcs[state].get(token)
            if following is None:
                following = self.arcs[state][token] = len(self.arcs)
                self.arcs.append({})
                self.boosts.append(boost)
                self.sums.append(0.0)
                self.ends.append(False)
            self.boosts[following] = max(boost, self.boosts[following])
            self.sums[following] = self.sums[state] + self.boosts[following]
            state = following
        if state != ROOT:
            self.ends[state] = True

    def _link(self) -> None:
        """Fills in the failure links and the phrases that end within others, breadth first."""
        waiting = deque(self.arcs[ROOT].values())
        while waiting:
            state = waiting.popleft()
            for token, following in self.arcs[state].items():
                fail = self.fails[following] = self._fall(self.fails[state], token)
                self.outputs[following] = fail if self.ends[fail] else self.outputs[fail]
                waiting.append(following)

    def _fall(self, state: int, token: int) -> int:
        """The state behind the token, from the first state on the failure links that knows it."""
        while token not in self.arcs[state] and state != ROOT:
            state = self.fails[state]
        return self.arcs[state].get(token, ROOT)

    def step(self, state: int, token: int) -> tuple[float, int]:
        """The change of a hypothesis' score by a token in this state, and the next state."""
        following = self.arcs[state].get(token)
        if following is None:
            following = self._fall(self.fails[state], token)
            change = self.sums[following] - self.sums[state]
        else:
            change = self.boosts[following]
        ended = following if self.ends[following] else self.outputs[following]
        if ended is None:
            return change, following
        return change + self.sums[ended] - self.sums[following], ROOT

    def finish(self, state: int) -> float:
        """The change of a hypothesis' score when its utterance ends in this state: the bonus of a
        phrase that is not completed is taken back."""
        return -self.sums[state]
