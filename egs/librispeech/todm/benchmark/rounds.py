"""The order in which things are measured: rounds in which each side has a turn."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def turns(sides: Sequence[str], number: int) -> list[str]:
    """The sides in the order of a round: the first one begins in the rounds 0, 2, ..., the last one
    in the others, so that a drift of the machine's speed meets all alike."""
    return list(sides) if number % 2 == 0 else list(reversed(sides))


def in_turns(
    sides: Sequence[str],
    once: Callable[[str], T | None],
    least: int,
    most: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, T]]:
    """Measures sides in rounds, until there are ``most`` or another one would last too long.

    Args:
      once: measures a side once; None: it can not, and has no turn any more.
      least: the rounds that there are at least.
      seconds: that all rounds may take together, if there are ``least``.
    Returns:
      What was measured in every round, by side; rounds without anything are left out.
    """
    rounds: list[dict[str, T]] = []
    begin = last = clock()
    for number in range(most):
        taken: dict[str, T] = {}
        for side in turns(sides, number):
            got = once(side)
            if got is None:
                sides = [other for other in sides if other != side]
            else:
                taken[side] = got
        if taken:
            rounds.append(taken)
        now = clock()
        longer = now - begin + (now - last) > seconds
        last = now
        if not sides or (number + 1 >= least and longer):
            break
    return rounds
