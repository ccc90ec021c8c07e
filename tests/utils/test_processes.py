"""Signals are passed on to a child, and nothing outlives its parent; a folder has one writer at a
time."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until
from utils.locks import HELD, LOCK, FolderBusy, FolderLock, held_by_parent
from utils.processes import in_fresh_processes

# Not from conftest, which imports torch: every process that is spawned below would do so again.
ROOT = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-c"]
WAITING = (
    "import signal, sys, time, pathlib\n{handler}\npathlib.Path({ready!r}).touch()\ntime.sleep(60)"
)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def call_of(inner: str, environment: dict | None = None, grace: float = 120) -> str:
    """A program that runs another in a fork, and exits with its status."""
    return (
        "import sys; from utils.processes import run_fork; "
        f"sys.exit(run_fork(lambda: exec({inner!r}, {{}}), {environment or {}}, grace={grace}))"
    )


def outer(inner: str, grace: float = 120) -> subprocess.Popen:
    """Such a program as a process."""
    command = [*PYTHON, call_of(inner, grace=grace)]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


@pytest.mark.parametrize(
    "code, status",
    [
        ("pass", 0),
        ("import sys; sys.exit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("1 / 0", 1),
        ("import os, sys; sys.exit(int(os.environ['ANSWER']) + ('PATH' in os.environ))", 43),
        ("import os, sys; sys.exit(os.getsid(0) == os.getpid())", 1),
    ],
)
def test_the_exit_status_is_a_shells(code, status):
    """With what was added to the environment, and in a session of its own."""
    program = call_of(code, {"ANSWER": "42"})
    assert subprocess.run([*PYTHON, program], cwd=ROOT).returncode == status


def test_a_fork_need_not_import_what_its_parent_has():
    inner = "import sys; sys.exit(5 if 'wave' in sys.modules else 6)"
    for before, status in (("import wave; ", 5), ("", 6)):
        assert subprocess.run([*PYTHON, before + call_of(inner)], cwd=ROOT).returncode == status


def test_a_fork_leaves_nothing_of_its_own_behind():
    """Workers that outlive it are killed, and what it has done to its memory is gone."""
    inner = (
        "import os, sys, time\nsys.path.append('mine')\nif not (pid := os.fork()): time.sleep(60)\n"
        "print(pid, flush=True)"
    )
    program = (
        call_of(inner).replace("sys.exit(run_fork", "(run_fork") + "; sys.exit('mine' in sys.path)"
    )
    found = subprocess.run([*PYTHON, program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert found.returncode == 0 and until(lambda: not alive(int(found.stdout)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_child_which_may_finish(tmp_path, number):
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    handler = (
        f"def save(n, f): time.sleep(0.3); pathlib.Path({str(saved)!r}).touch(); "
        f"sys.exit(5)\nsignal.signal({int(number)}, save)"
    )
    process = outer(WAITING.format(handler=handler, ready=str(ready)))
    assert until(ready.exists)
    process.send_signal(number)
    assert process.wait(timeout=300) == 128 + number and saved.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_the_fork_is_not_lost(number):
    """Where an exception is printed and forgotten; the child has begun when it comes."""
    hook = f"lambda: os.kill(os.getpid(), {int(number)})"
    program = f"import os; os.register_at_fork(after_in_parent={hook})\n" + call_of(
        "import time; time.sleep(900)"
    )
    found = subprocess.run(
        [*PYTHON, program], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=300
    )
    assert found.returncode == 128 + number and found.stderr == ""


SLOW_FORK = """
import ctypes
libc = ctypes.CDLL(None)
for _ in range(200_000):
    assert libc.__register_atfork(None, None, libc.sched_yield, None) == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the hook is glibc's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_not_lost_before_python_is_ready_in_the_child(number):
    """A new child forgets signals that come before; here this takes it a twentieth of a second."""
    hook = f"lambda: os.kill(os.getpid(), {int(number)})"
    program = f"{SLOW_FORK}\nimport os; os.register_at_fork(after_in_parent={hook})\n" + call_of(
        "import time; time.sleep(900)"
    )
    found = subprocess.run([*PYTHON, program], cwd=ROOT, timeout=3000)
    assert found.returncode == 128 + number


def test_a_child_that_does_not_stop_is_killed_in_the_end(tmp_path):
    ready = tmp_path / "ready"
    process = outer(
        WAITING.format(handler="signal.signal(signal.SIGTERM, signal.SIG_IGN)", ready=str(ready)),
        grace=0.5,
    )
    assert until(ready.exists)
    process.terminate()
    assert process.wait(timeout=300) == 128 + signal.SIGTERM


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells children that their parent was killed"
)
def test_a_killed_parent_takes_its_child_and_its_workers_with_it(tmp_path):
    """The child gets SIGTERM; workers of a pool in it, which wait for work, do not stay behind."""
    pids = tmp_path / "pids"
    inner = (
        "import os, time, pathlib\nfrom concurrent.futures import ProcessPoolExecutor\nfrom "
        "utils.processes import end_with_parent\n"
        "with ProcessPoolExecutor(2, initializer=end_with_parent) as pool:\n"
        "    list(pool.map(abs, range(4)))\n"
        f"    pathlib.Path({str(pids)!r}).write_text(' '.join(map(str, [os.getpid(), "
        "*pool._processes])))\n"
        "    time.sleep(60)"
    )
    process = outer(inner)
    assert until(lambda: pids.exists() and len(pids.read_text().split()) == 3)
    family = [int(pid) for pid in pids.read_text().split()]
    assert all(map(alive, family))
    process.kill()
    process.wait()
    assert until(lambda: not any(map(alive, family)))


def pid_and_square(number: int) -> tuple[int, int]:
    return os.getpid(), number**2


def fail_at_two(number: int) -> int:
    if number == 2:
        raise ValueError("two is too many")
    return number


def end_at_two(number: int) -> int:
    if number == 2:
        os._exit(1)
    return number


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_every_task_has_a_process_of_its_own(method):
    found = list(
        in_fresh_processes(pid_and_square, range(6), 2, multiprocessing.get_context(method))
    )
    assert [square for _, square in found] == [0, 1, 4, 9, 16, 25]
    assert len({pid for pid, _ in found} | {os.getpid()}) == 7


@pytest.mark.parametrize(
    "function, error",
    [(fail_at_two, "two is too many"), (end_at_two, "ended before it had a result")],
)
def test_a_tasks_error_is_raised_and_what_came_before_it_is_there(function, error):
    seen = []
    with pytest.raises((ValueError, RuntimeError), match=error):
        for number in in_fresh_processes(
            function, range(50), 2, multiprocessing.get_context("fork")
        ):
            seen.append(number)
    assert seen == [0, 1] and not multiprocessing.active_children()


@pytest.mark.slow
def test_fresh_processes_end_again_and_again():
    """A pool of the standard library hangs here now and then where its owner handles SIGTERM."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        for _ in range(30):
            assert list(
                in_fresh_processes(abs, range(3), 2, multiprocessing.get_context("fork"))
            ) == [0, 1, 2]
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- locks


def holder(folder: Path, exclusive: bool) -> subprocess.Popen:
    """Another process that holds a folder until it is ended; it has it when this returns."""
    code = (
        f"import sys, time; from pathlib import Path; from utils.locks import FolderLock\n"
        f"lock = FolderLock(Path({str(folder)!r}), './run.sh --of-another'); "
        f"lock.acquire({exclusive}); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([*PYTHON, code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize(
    "theirs, mine, free",
    [(True, True, False), (True, False, False), (False, True, False), (False, False, True)],
)
def test_one_writer_or_several_readers(tmp_path, theirs, mine, free):
    other = holder(tmp_path / "new", theirs)
    try:
        lock = FolderLock(tmp_path / "new", "me")
        if free:
            lock.acquire(mine)
        else:
            with pytest.raises(FolderBusy, match=f"process {other.pid} on .*--of-another"):
                lock.acquire(mine)
    finally:
        other.kill()
        other.wait()


def test_a_dead_holders_lock_is_void(tmp_path):
    other = holder(tmp_path, True)
    other.kill()
    other.wait()
    FolderLock(tmp_path, "me").acquire(exclusive=True)
    assert "of-another" not in (tmp_path / LOCK).read_text()


def test_a_lock_changes_between_reading_and_writing(tmp_path):
    mine, other = FolderLock(tmp_path, "me"), FolderLock(tmp_path, "other")
    mine.acquire(exclusive=True)
    mine.acquire(exclusive=False)
    other.acquire(exclusive=False)
    with pytest.raises(FolderBusy):
        mine.acquire(exclusive=True)
    other.release()
    mine.acquire(exclusive=True)


def test_a_child_that_inherits_a_lock_keeps_it_when_its_parent_dies(tmp_path):
    """What still writes still holds the folder, and is named."""
    child_ready = tmp_path / "ready"
    inner = (
        "import os, signal, time\nfrom pathlib import Path\nfrom utils.locks import "
        "FolderLock\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"lock = FolderLock(Path({str(tmp_path / 'exp')!r}), 'the "
        f"child')\nlock.acquire(True)\nPath({str(child_ready)!r}).write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    code = (
        "import sys; from pathlib import Path; from utils.locks import FolderLock, "
        "held_by_parent; from utils.processes import run_fork\n"
        f"lock = FolderLock(Path({str(tmp_path / 'exp')!r}), 'the parent'); lock.acquire(True)\n"
        f"run_fork(lambda: exec({inner!r}, {{}}), held_by_parent([lock]))"
    )
    parent = subprocess.Popen([*PYTHON, code], cwd=ROOT)
    assert until(lambda: child_ready.exists() and child_ready.read_text())
    child = int(child_ready.read_text())
    try:
        parent.kill()
        parent.wait()
        with pytest.raises(FolderBusy, match=f"process {child} on .*the child"):
            FolderLock(tmp_path / "exp", "me").acquire(exclusive=True)
    finally:
        os.kill(child, signal.SIGKILL)
    assert until(lambda: not alive(child))
    FolderLock(tmp_path / "exp", "me").acquire(exclusive=True)


def test_what_a_parent_holds_is_not_asked_for_again(tmp_path, monkeypatch):
    parent = FolderLock(tmp_path, "parent")
    parent.acquire(exclusive=True)
    monkeypatch.setenv(HELD, held_by_parent([parent])[HELD])
    child = FolderLock(tmp_path, "child")
    child.acquire(exclusive=True)
    assert child.descriptor is None  # the parent's open file is what holds it


def test_damaged_notes_of_holders_do_no_harm(tmp_path):
    other = holder(tmp_path, True)
    try:
        (tmp_path / LOCK).write_text('{"pid": "x"}\nnonsense\n[1]\n')
        with pytest.raises(FolderBusy, match="in use by another process"):
            FolderLock(tmp_path, "me").acquire(exclusive=True)
    finally:
        other.kill()
        other.wait()


def test_deleted_notes_of_holders_free_nothing(tmp_path):
    """Whoever takes .lock for a leftover and deletes it would let two trainings into one folder."""
    other = holder(tmp_path, True)
    try:
        (tmp_path / LOCK).unlink()
        with pytest.raises(FolderBusy, match="in use by another process"):
            FolderLock(tmp_path, "me").acquire(exclusive=True)
    finally:
        other.kill()
        other.wait()
    FolderLock(tmp_path, "me").acquire(exclusive=True)


def test_a_stop_reaches_sessions_below_the_child(tmp_path):
    """As torchrun's ranks have them: Ctrl-Z stopped the launcher, and the training went on."""
    ready = tmp_path / "ready"
    rank = (
        f"import os, pathlib, time; pathlib.Path({str(ready)!r}).write_text(str(os.getpid())); "
        "time.sleep(60)"
    )
    launcher = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}], "
        "start_new_session=True)"
    )
    parent = subprocess.Popen([*PYTHON, call_of(launcher)], cwd=ROOT)
    assert until(lambda: ready.exists() and ready.read_text())
    pid = int(ready.read_text())

    def stopped(which: int) -> bool:
        return Path(f"/proc/{which}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    try:
        parent.send_signal(signal.SIGTSTP)
        assert until(lambda: stopped(pid) and stopped(parent.pid))
        parent.send_signal(signal.SIGCONT)
        assert until(lambda: not stopped(pid))
    finally:
        os.kill(pid, signal.SIGKILL)
        parent.kill()
        parent.wait()
