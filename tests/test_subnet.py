import dataclasses
import random

import pytest

from todm.subnet import BlockChoice, Subnet, is_leading


def random_subnet(rng: random.Random) -> Subnet:
    def some(count: int) -> tuple[int, ...]:
        return tuple(i for i in range(count) if rng.random() < 0.5)

    return Subnet(tuple(BlockChoice(some(4), some(12)) for _ in range(3)), rng.random() < 0.5)


def test_text_by_hand():
    subnet = Subnet(
        (
            BlockChoice((0, 1, 2, 3), (0, 2, 5, 6)),
            BlockChoice((), (1,)),
            BlockChoice((), ()),
            BlockChoice((7,), ()),
        )
    )
    assert str(subnet) == "h0-3f0,2,5-6 f1 - h7"
    assert Subnet.parse("h0-3f0,2,5-6 f1 - h7") == subnet
    causal = dataclasses.replace(subnet, causal=True)
    assert str(causal) == "causal h0-3f0,2,5-6 f1 - h7" and Subnet.parse(str(causal)) == causal


def test_parse_inverts_str_for_arbitrary_sets():
    rng = random.Random(0)
    for subnet in (random_subnet(rng) for _ in range(200)):
        assert Subnet.parse(str(subnet)) == subnet


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "h",
        "h0f",
        "f0h0",
        "h0h1",
        "hf1",
        "h0-",
        "h,1",
        "h1,0",
        "h0,0",
        "h-1",
        "h3-0f1",
        "f0--1",
        "h0-3-5",
        "h0 + f1",
        "causal",
        "h0 causal",
        "causal causal h0",
    ],
)
def test_bad_text_is_refused(text):
    with pytest.raises(ValueError, match="not a|must be"):
        Subnet.parse(text)


@pytest.mark.parametrize("indices", [(1, 0), (0, 0), (-1, 0)])
def test_indices_must_increase(indices):
    with pytest.raises(ValueError, match="increasing"):
        BlockChoice((), indices)


@pytest.mark.parametrize(
    "small, large, expected",
    [
        ("h0f0 -", "h0-1f0-3 h0f0", True),
        ("h1f0,2 f3", "h0-1f0-3 h0f3", True),
        ("h0f0 f1", "h0f0 -", False),
        ("h0f0-2", "h0f0,2", False),
        ("h1f0", "h0f0", False),
        ("h0f0", "h0f0 h0f0", False),
        ("causal h0f0", "h0f0", True),
        ("h0f0", "causal h0f0", False),
    ],
)
def test_within(small, large, expected):
    assert Subnet.parse(small).within(Subnet.parse(large)) == expected


def test_packed_keeps_the_sizes():
    subnet = Subnet.parse("causal h1,3f0,2,5-6 - f7")
    assert subnet.sizes == ((2, 4), (0, 0), (0, 1))
    assert (
        subnet.packed() == Subnet.parse("h0-1f0-3 - f0") == Subnet.leading([(2, 4), (0, 0), (0, 1)])
    )


def test_subnets_are_values():
    a, b = Subnet.parse("h0f0"), Subnet.parse("h0f0")
    assert a == b and len({a, b}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.blocks = ()


@pytest.mark.parametrize("text, dropped", [("-", True), ("f0", False), ("h0", False)])
def test_a_block_is_dropped_with_both_modules(text, dropped):
    assert Subnet.parse(text).blocks[0].dropped is dropped


@pytest.mark.parametrize(
    "indices, leading",
    [((), True), ((0,), True), ((0, 1, 2), True), ((1,), False), ((0, 2), False)],
)
def test_leading_slices_are_told_from_others(indices, leading):
    assert is_leading(indices) is leading
