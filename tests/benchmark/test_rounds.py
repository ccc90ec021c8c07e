"""The order of measurements, the sides that drop out, and when rounds end."""

from itertools import count

from todm.benchmark.rounds import in_turns, turns


def test_the_first_side_begins_in_every_other_round():
    assert turns(["new", "old"], 0) == ["new", "old"]
    assert turns(["new", "old"], 1) == ["old", "new"]
    assert turns(["new", "old"], 2) == ["new", "old"]
    assert turns(["new"], 1) == ["new"]


def measured(sides, least, most, seconds, costs=None, until=None):
    """The order of turns, and the rounds.

    Args:
      costs: the seconds that a turn of each side takes; 1 each by default.
      until: the turns that a side can do; others for ever.
    """
    order: list[str] = []
    now = [0.0]

    def once(side):
        if until and order.count(side) >= until.get(side, 1000):
            return None
        order.append(side)
        now[0] += (costs or {}).get(side, 1.0)
        return order.count(side)

    rounds = in_turns(sides, once, least, most, seconds, clock=lambda: now[0])
    return order, rounds


def test_sides_have_turns_in_swapped_order():
    order, rounds = measured(["new", "old"], 1, 3, 1000)
    assert order == ["new", "old", "old", "new", "new", "old"]
    assert rounds == [{"new": n, "old": n} for n in (1, 2, 3)]


def test_rounds_end_before_they_take_too_long():
    # 5 s a round: a third one would end at 15 s
    assert len(measured(["new", "old"], 1, 9, 14, {"new": 2, "old": 3})[1]) == 2
    assert len(measured(["new", "old"], 1, 9, 15, {"new": 2, "old": 3})[1]) == 3


def test_the_least_number_of_rounds_is_measured_however_long_it_takes():
    assert len(measured(["new"], 3, 9, 0.5)[1]) == 3


def test_a_side_that_can_not_go_on_has_no_turn_any_more():
    order, rounds = measured(["new", "old"], 1, 4, 1000, until={"old": 1})
    assert order == ["new", "old", "new", "new", "new"]
    assert rounds == [{"new": 1, "old": 1}, {"new": 2}, {"new": 3}, {"new": 4}]


def test_without_any_side_there_is_no_round():
    assert measured(["new"], 3, 9, 1000, until={"new": 0}) == ([], [])
    numbers = count()
    assert in_turns([], lambda side: next(numbers), 3, 9, 1000) == []
    assert next(numbers) == 0
