"""A first signal asks, a second one ends; what was ignored stays ignored."""

import os
import signal
import threading

import pytest

from utils.interrupts import SIGNALS, Stopped, gentle_stops, leave_group


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def harmless():
    """Handlers that do nothing, so that a test that fails does not end pytest."""
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "first, second", [(signal.SIGINT, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM)]
)
def test_the_first_asks_and_the_second_ends(first, second):
    with pytest.raises(KeyboardInterrupt) as caught:
        with gentle_stops(echo=-1.0) as request:
            assert not request and request.signal is None
            send(first)
            assert request and request.signal == first
            send(second)
    assert (
        isinstance(caught.value, Stopped)
        and caught.value.signal == second
        and type(caught.value.signal) is int
    )


def test_an_echo_of_the_first_is_no_second():
    """A terminal sends to the whole group, and the launcher passes its own on."""
    with gentle_stops(echo=60.0) as request:
        for _ in range(3):
            send(signal.SIGINT)
    assert request.signal == signal.SIGINT


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError), gentle_stops():
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
        raise ValueError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_what_was_ignored_stays_so():
    """A background job's SIGINT, and nohup's SIGHUP."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with gentle_stops() as request:
        send(signal.SIGINT)
        send(signal.SIGHUP)
        assert not request and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        send(signal.SIGTERM)
        assert request.signal == signal.SIGTERM


def test_other_threads_can_use_it_without_signals():
    seen = []

    def work() -> None:
        with gentle_stops() as request:
            seen.append(bool(request))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_worker_leaves_the_group():
    child = os.fork()
    if child == 0:
        leave_group()
        os._exit(int(os.getpgid(0) != os.getpid()))
    assert os.waitpid(child, 0)[1] == 0
