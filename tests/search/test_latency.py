import json
import logging
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import VOCAB, tiny_config, tiny_model
from todm.search import client_latency, measured_latency, timing, torch_latency
from todm.search.measured_latency import latency_table
from todm.search.torch_latency import measure
from todm.subnet import Subnet
from todm.supernet.latency_table import LatencyTable
from todm.supernet.search_space import SearchSpace
from utils.errors import UserError

SIZES = [(3, 1), (3, 2), (3, 3), (3, 4)]  # of the tiny space: its heads are not elastic
TABLE = LatencyTable(
    "this machine", "torch", 0.5, {(3, 1): 1.0, (3, 2): 1.25, (3, 3): 1.5, (3, 4): 2.0}
)
CHECK = [{"net": "the largest net", "table_ms": 6.5, "measured_ms": 6.25}]


def write(path, table: LatencyTable):
    path.write_text(json.dumps(table.as_dict() | {"check": CHECK}))
    return path


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(given) -> the table for the tiny space; its attribute ``calls`` holds the sizes of every
    measurement."""
    calls: list[list] = []

    def fake_measure(model, config, space, sizes):
        calls.append(sizes)
        return LatencyTable("this machine", "torch", 9.0, dict.fromkeys(sizes, 1.0)), CHECK

    def ask(given: str | None = None) -> LatencyTable:
        config = tiny_config()
        return latency_table(
            tmp_path / "latency.json", given, "torch", None, config, SearchSpace(config, VOCAB)
        )

    monkeypatch.setattr(torch_latency, "measure", fake_measure)
    monkeypatch.setattr(measured_latency, "machine", lambda: "this machine")
    ask.calls = calls
    return ask


def test_milliseconds_by_hand():
    """The fixed part, and nothing for blocks that are left out."""
    assert TABLE.milliseconds(Subnet.parse("h0-2f0 - h0-2f0-3")) == 0.5 + 1.0 + 2.0
    assert TABLE.milliseconds(Subnet.parse("h0-2f0 h0-2f0-2 h0-2f0-3")) == 0.5 + 1.0 + 1.5 + 2.0
    assert TABLE.milliseconds(Subnet.parse("- - -")) == 0.5
    with pytest.raises(KeyError, match=r"\(2, 1\)"):
        TABLE.milliseconds(Subnet.parse("h0-1f0 - h0-2f0"))


def test_a_table_survives_json():
    table = LatencyTable(
        "a phone", "sherpa-onnx", 0.5, {(3, 1): 1.0, (0, 12): 0.125, (10, 0): 0.375}
    )
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
        LatencyTable("another machine", "torch", 0.5, TABLE.blocks),
        LatencyTable("this machine", "torch", 0.5, dict.fromkeys(SIZES[:-1], 1.0)),
        LatencyTable("this machine", "sherpa-onnx", 0.5, TABLE.blocks),
    ],
)
def test_a_table_that_does_not_fit_is_measured_again(ask, tmp_path, unfit):
    path = write(tmp_path / "latency.json", unfit)
    assert ask().fixed == 9.0 and ask.calls == [SIZES]
    assert LatencyTable.from_dict(json.loads(path.read_text())).fixed == 9.0


def test_a_given_table_is_used_as_it_is(ask, tmp_path):
    """Of whatever machine, and before one of this machine."""
    phone = LatencyTable("a phone", "sherpa-onnx", 0.25, TABLE.blocks | {(1, 1): 0.1})
    write(tmp_path / "latency.json", TABLE)
    assert ask(str(write(tmp_path / "phone.json", phone))) == phone and ask.calls == []


def test_a_given_table_that_lacks_sizes_is_refused(ask, tmp_path):
    path = write(
        tmp_path / "phone.json",
        LatencyTable("this machine", "torch", 0.5, {(3, 1): 1.0, (3, 3): 1.0}),
    )
    with pytest.raises(UserError, match=r"phone.json lacks.*\[\(3, 2\), \(3, 4\)\]"):
        ask(str(path))
    assert ask.calls == []


def test_a_given_table_that_is_missing_is_refused(ask, tmp_path):
    with pytest.raises(UserError, match="no such file: .*phone.json"):
        ask(str(tmp_path / "phone.json"))
    assert ask.calls == []


@pytest.mark.parametrize(
    "table_ms, warned", [(1.14, False), (0.86, False), (1.16, True), (0.84, True)]
)
def test_a_table_that_misses_a_whole_net_is_warned_of(ask, monkeypatch, caplog, table_ms, warned):
    check = [{"net": "a middle net", "table_ms": table_ms, "measured_ms": 1.0}]
    monkeypatch.setattr(torch_latency, "measure", lambda *_: (TABLE, check))
    with caplog.at_level(logging.INFO):
        ask()
    (record,) = [r for r in caplog.records if "a middle net" in r.message]
    assert (record.levelno == logging.WARNING) == warned


def test_times_are_medians_in_turns_without_the_first_two(monkeypatch):
    """A clock that only the jobs move: their 1st and 2nd runs are slow, the others take 10, 30 and
    20 or thrice that."""
    clock, order = [0.0], []

    def job(name: str, factor: float):
        seconds = iter((500, 400, 10, 30, 20))

        def run() -> None:
            order.append(name)
            clock[0] += factor * next(seconds)

        return run

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(timing, "REPEATS", 5)
    monkeypatch.setattr(timing, "SECONDS", 4.0)
    assert timing.interleaved({"a": job("a", 1), "b": job("b", 3)}) == {
        "a": 20 * 1000 / 4,
        "b": 60 * 1000 / 4,
    }
    assert order == ["a", "b"] * 5


def test_measuring_a_tiny_model(monkeypatch):
    """Every size of the space, on one thread; afterwards torch has its threads back."""
    threads, greedy_search = set(), torch_latency.greedy_search

    def search(*arguments):
        threads.add(torch.get_num_threads())
        return greedy_search(*arguments)

    monkeypatch.setattr(torch_latency, "greedy_search", search)
    monkeypatch.setattr(timing, "REPEATS", 3)
    monkeypatch.setattr(torch_latency, "SECONDS", 0.5)
    config, before = tiny_config(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        table, check = measure(tiny_model(config), config, SearchSpace(config, VOCAB), SIZES)
        assert torch.get_num_threads() == 2 and threads == {1}
    finally:
        torch.set_num_threads(before)
    assert table.machine == torch_latency.machine() and list(table.blocks) == SIZES
    assert table.fixed > 0 and all(ms > 0 for ms in table.blocks.values())
    assert [row["net"] for row in check] == ["the largest net", "a middle net", "the smallest net"]
    assert all(row["measured_ms"] > 0 for row in check)
    assert check[0]["table_ms"] == pytest.approx(table.fixed + 3 * table.blocks[3, 4], abs=1e-4)
    assert check[2]["table_ms"] == pytest.approx(table.fixed + 2 * table.blocks[3, 1], abs=1e-4)


def test_measuring_in_the_client(monkeypatch):
    """A clock by which a net takes 2 ms and 0.5 ms per chunk and block: that is what the table must
    say."""

    def clocked(jobs):
        return {key: 2.0 + 0.5 * sum(chunks for _, chunks in nets[key].sizes) for key in jobs}

    nets = {}
    config = tiny_config()
    space = SearchSpace(config, VOCAB)
    monkeypatch.setattr(
        client_latency, "_clients", lambda model, config, given, root: nets.update(given) or given
    )
    monkeypatch.setattr(client_latency, "interleaved", clocked)
    table, check = client_latency.measure(tiny_model(config), config, space, SIZES)
    assert table.engine == "sherpa-onnx" and table.fixed == pytest.approx(2.0)
    assert table.blocks == pytest.approx({(h, c): 0.5 * c for h, c in SIZES})
    assert [(row["table_ms"], row["measured_ms"]) for row in check] == [
        (8.0, 8.0),
        (check[1]["measured_ms"],) * 2,
        (3.0, 3.0),
    ]


@pytest.mark.slow
def test_the_client_is_what_is_timed(monkeypatch):
    monkeypatch.setattr(timing, "REPEATS", 3)
    monkeypatch.setattr(client_latency, "SECONDS", 0.5)
    config = tiny_config()
    table, check = client_latency.measure(
        tiny_model(config), config, SearchSpace(config, VOCAB), SIZES[:1] + SIZES[-1:]
    )
    assert set(table.blocks) == {SIZES[0], SIZES[-1]} and len(check) == 3
    assert all(row["measured_ms"] > 0 for row in check) and table.fixed >= 0
