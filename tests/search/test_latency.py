import json
import logging
from dataclasses import replace

import pytest
import torch

from tests.helpers import VOCAB, tiny_config, tiny_model
from todm.search import client_latency, torch_latency
from todm.search.measured_latency import latency_table
from todm.search.timing import checked_nets, compare, interleaved
from todm.search.torch_latency import measure
from todm.subnet import Subnet
from todm.supernet.latency_table import LatencyTable
from todm.supernet.search_space import SearchSpace
from utils.errors import UserError
from utils.provenance import machine

SIZES = [(3, 1), (3, 2), (3, 3), (3, 4)]  # of the tiny space: its heads are not elastic
FULL_RATE = (1, 1, 1)  # of the tiny space's blocks
BLOCKS = {(1, 3, 1): 1.0, (1, 3, 2): 1.25, (1, 3, 3): 1.5, (1, 3, 4): 2.0}
TABLE = LatencyTable(machine(), "torch", FULL_RATE, 0.5, BLOCKS)
CHECK = [{"net": "the largest net", "table_ms": 6.5, "measured_ms": 6.25}]


def write(path, table: LatencyTable):
    path.write_text(json.dumps(table.as_dict() | {"check": CHECK}))
    return path


@pytest.fixture
def ask(tmp_path):
    """ask(given) -> the table for the tiny space; its attribute ``calls`` holds the sizes of every
    measurement."""
    calls: list[list] = []

    def fake_measure(model, config, space, sizes):
        calls.append(sizes)
        blocks = {(1, *size): 1.0 for size in sizes}
        return LatencyTable(machine(), "torch", FULL_RATE, 9.0, blocks), CHECK

    def ask(given: str | None = None, measure=fake_measure) -> LatencyTable:
        config, path = tiny_config(), tmp_path / "latency.json"
        space = SearchSpace(config, VOCAB)
        return latency_table(path, given, "torch", None, config, space, measure)

    ask.calls = calls
    return ask


def test_milliseconds_by_hand():
    """The fixed part, and nothing for blocks that are left out."""
    assert TABLE.milliseconds(Subnet.parse("h0-2f0 - h0-2f0-3")) == 0.5 + 1.0 + 2.0
    assert TABLE.milliseconds(Subnet.parse("h0-2f0 h0-2f0-2 h0-2f0-3")) == 0.5 + 1.0 + 1.5 + 2.0
    assert TABLE.milliseconds(Subnet.parse("- - -")) == 0.5
    with pytest.raises(KeyError, match=r"\(1, 2, 1\)"):
        TABLE.milliseconds(Subnet.parse("h0-1f0 - h0-2f0"))


def test_milliseconds_at_lower_rates_by_hand():
    """A block costs what it takes at its rate, and a group that stays its way there and back."""
    blocks = {(1, 3, 1): 4.0, (2, 3, 1): 2.0, (2, 3, 2): 3.0, (4, 3, 1): 1.0}
    table = LatencyTable("", "torch", (1, 2, 2, 4, 2), 0.5, blocks, {2: 0.25, 4: 0.125})
    a, b = "h0-2f0", "h0-2f0-1"
    assert table.milliseconds(Subnet.parse(f"{a} - - - -")) == 0.5 + 4
    assert table.milliseconds(Subnet.parse(f"{a} {a} {b} - -")) == 0.5 + 4 + 2 + 3 + 0.25
    assert table.milliseconds(Subnet.parse(f"- {a} - {a} {a}")) == 0.5 + 2 + 1 + 2 + 0.625


def test_a_table_survives_json():
    blocks = {(1, 3, 1): 1.0, (2, 0, 12): 0.125, (4, 10, 0): 0.375}
    table = LatencyTable("a phone", "sherpa-onnx", (1, 4, 2), 0.5, blocks, {2: 0.25, 4: 0.5})
    assert LatencyTable.from_dict(json.loads(json.dumps(table.as_dict()))) == table


def test_a_table_of_this_machine_is_reused(ask, tmp_path):
    write(tmp_path / "latency.json", TABLE)
    assert ask() == TABLE and ask.calls == []


def test_a_new_table_is_kept_for_the_next_search(ask, tmp_path):
    first = ask()
    assert first.fixed == 9.0 and ask.calls == [SIZES]
    assert ask() == first and len(ask.calls) == 1
    assert json.loads((tmp_path / "latency.json").read_text())["check"] == CHECK


@pytest.mark.parametrize(
    "unfit",
    [
        replace(TABLE, machine="another machine"),
        replace(TABLE, blocks=dict(list(BLOCKS.items())[:-1])),
        replace(TABLE, engine="sherpa-onnx"),
        replace(TABLE, rates=(1, 2, 1)),
    ],
)
def test_a_table_that_does_not_fit_is_measured_again(ask, tmp_path, unfit):
    path = write(tmp_path / "latency.json", unfit)
    assert ask().fixed == 9.0 and ask.calls == [SIZES]
    assert LatencyTable.from_dict(json.loads(path.read_text())).fixed == 9.0


def test_a_given_table_is_used_as_it_is(ask, tmp_path):
    """Of whatever machine, and before one of this machine."""
    phone = LatencyTable("a phone", "sherpa-onnx", FULL_RATE, 0.25, BLOCKS | {(1, 1, 1): 0.1})
    write(tmp_path / "latency.json", TABLE)
    assert ask(str(write(tmp_path / "phone.json", phone))) == phone and ask.calls == []


def test_a_given_table_that_lacks_sizes_is_refused(ask, tmp_path):
    path = write(tmp_path / "phone.json", replace(TABLE, blocks={(1, 3, 1): 1.0, (1, 3, 3): 1.0}))
    with pytest.raises(UserError, match=r"phone.json lacks.*\[\(1, 3, 2\), \(1, 3, 4\)\]"):
        ask(str(path))
    assert ask.calls == []


@pytest.mark.parametrize("rates, said", [([2, 2, 1], r"\[2, 2, 1\]"), (None, "does not say")])
def test_a_given_table_of_other_rates_is_refused(ask, tmp_path, rates, said):
    """Also one from before there were rates, which has none."""
    values = TABLE.as_dict() | {"rates": rates}
    if rates is None:
        values = {k: v for k, v in values.items() if k != "rates"}
        values["blocks"] = {"3,1": 1.0}
    (tmp_path / "phone.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=said + r".* model.rates here are \[1, 1, 1\]"):
        ask(str(tmp_path / "phone.json"))
    assert ask.calls == []


def test_a_given_table_that_is_missing_is_refused(ask, tmp_path):
    with pytest.raises(UserError, match="no such file: .*phone.json"):
        ask(str(tmp_path / "phone.json"))
    assert ask.calls == []


@pytest.mark.parametrize(
    "table_ms, warned", [(1.14, False), (0.86, False), (1.16, True), (0.84, True)]
)
def test_a_table_that_misses_a_whole_net_is_warned_of(ask, caplog, table_ms, warned):
    check = [{"net": "a middle net", "table_ms": table_ms, "measured_ms": 1.0}]
    with caplog.at_level(logging.INFO):
        ask(measure=lambda *_: (TABLE, check))
    (record,) = [r for r in caplog.records if "a middle net" in r.message]
    assert (record.levelno == logging.WARNING) == warned


def test_times_are_medians_in_turns_without_the_first_two():
    """A clock that only the jobs move: their 1st and 2nd runs are slow, the others take 10, 30 and
    20 or thrice that."""
    clock, order = [0.0], []

    def job(name: str, factor: float):
        seconds = iter((500, 400, 10, 30, 20))

        def run() -> None:
            order.append(name)
            clock[0] += factor * next(seconds)

        return run

    jobs = {"a": job("a", 1), "b": job("b", 3)}
    times = interleaved(jobs, seconds=4.0, repeats=5, clock=lambda: clock[0])
    assert times == {"a": 20 * 1000 / 4, "b": 60 * 1000 / 4}
    assert order == ["a", "b"] * 5


def test_measuring_a_tiny_model(monkeypatch):
    """Every size of the space, on one thread; afterwards torch has its threads back."""
    threads, greedy_search = set(), torch_latency.greedy_search

    def search(*arguments):
        threads.add(torch.get_num_threads())
        return greedy_search(*arguments)

    monkeypatch.setattr(torch_latency, "greedy_search", search)
    config, before = tiny_config(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        space = SearchSpace(config, VOCAB)
        table, check = measure(tiny_model(config), config, space, SIZES, 0.5, 3)
        assert torch.get_num_threads() == 2 and threads == {1}
    finally:
        torch.set_num_threads(before)
    assert table.machine == machine() and list(table.blocks) == list(BLOCKS)
    assert table.fixed > 0 and all(ms > 0 for ms in table.blocks.values())
    assert [row["net"] for row in check] == ["the largest net", "a middle net", "the smallest net"]
    assert all(row["measured_ms"] > 0 for row in check)
    assert check[0]["table_ms"] == pytest.approx(table.fixed + 3 * table.blocks[1, 3, 4], abs=1e-4)
    assert check[2]["table_ms"] == pytest.approx(table.fixed + 2 * table.blocks[1, 3, 1], abs=1e-4)


RATES = (1, 2, 4, 2)


def hand_milliseconds(net: Subnet) -> float:
    """2 ms, 0.5 ms per chunk and block at the full rate and 0.3 per chunk and block at a lower one,
    and 0.1 for every group at a lower rate."""
    chunks = [c for _, c in net.sizes]
    return 2.0 + 0.5 * chunks[0] + 0.3 * sum(chunks[1:]) + 0.1 * sum(c > 0 for c in chunks[1:])


def test_the_table_out_of_times_by_hand():
    """Nets that take so much have this table; in RATES every block at a lower rate is a group."""
    nets = client_latency.timed_nets(RATES, SIZES)
    assert len(nets) == len(set(nets)) == 3 * len(SIZES) + 2
    assert "- h0-2f0-1 - h0-2f0-1" in map(str, nets) and "- h0-2f0 - -" in map(str, nets)
    table = client_latency.table_of([hand_milliseconds(net) for net in nets], nets, RATES)
    assert table.engine == "sherpa-onnx" and table.rates == RATES
    for text in ("h0-2f0 h0-2f0-1 h0-2f0-2 h0-2f0-3", "h0-2f0-3 - - -", "- - h0-2f0-3 h0-2f0"):
        net = Subnet.parse(text)
        assert table.milliseconds(net) == pytest.approx(hand_milliseconds(net))


def test_at_the_full_rate_every_part_is_found():
    nets = client_latency.timed_nets(FULL_RATE, SIZES)
    assert [str(net) for net in nets[:2]] == ["h0-2f0 h0-2f0 h0-2f0", "h0-2f0 - -"]
    times = [2.0 + 0.5 * sum(c for _, c in net.sizes) for net in nets]
    table = client_latency.table_of(times, nets, FULL_RATE)
    assert table.fixed == pytest.approx(2.0) and table.groups == {}
    assert table.blocks == pytest.approx({(1, h, c): 0.5 * c for h, c in SIZES})
    whole = checked_nets(SearchSpace(tiny_config(), VOCAB))
    measured = {
        name: 2.0 + 0.5 * sum(chunks for _, chunks in net.sizes) for name, net in whole.items()
    }
    check = compare(table, whole, measured)
    assert [row["measured_ms"] for row in check[::2]] == [8.0, 3.0]
    assert all(row["table_ms"] == pytest.approx(row["measured_ms"]) for row in check)


def test_noise_makes_no_part_negative():
    """By the first two times a block takes 4 ms, and so the rest of the net -3."""
    nets = [Subnet.leading([size] * n + [(0, 0)] * (3 - n)) for size in SIZES[:2] for n in (1, 3)]
    table = client_latency.table_of([1.0, 9.0, 1.0, 0.5], nets, FULL_RATE)
    assert table.fixed >= 0 and min(table.blocks.values()) >= 0
    assert table.blocks[1, 3, 2] >= table.blocks[1, 3, 1]  # what keeps more never takes less


@pytest.mark.slow
@pytest.mark.parametrize("engine", [client_latency, torch_latency])
def test_blocks_at_lower_rates_are_timed_at_their_rate(engine):
    config = tiny_config("model.rates=[1,2,1]")
    space, sizes = SearchSpace(config, VOCAB), SIZES[:1] + SIZES[-1:]
    table, check = engine.measure(tiny_model(config), config, space, sizes, 0.5, 3)
    assert set(table.blocks) == {(rate, *size) for rate in (1, 2) for size in sizes}
    assert table.rates == (1, 2, 1) and set(table.groups) == {2} and len(check) == 3


@pytest.mark.slow
def test_the_client_is_what_is_timed():
    config = tiny_config()
    space, sizes = SearchSpace(config, VOCAB), SIZES[:1] + SIZES[-1:]
    table, check = client_latency.measure(tiny_model(config), config, space, sizes, 0.5, 3)
    assert set(table.blocks) == {(1, *sizes[0]), (1, *sizes[1])} and len(check) == 3
    assert all(row["measured_ms"] > 0 for row in check) and table.fixed >= 0
