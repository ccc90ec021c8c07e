"""The short form of the hostile inputs, and that its judge finds what it looks for."""

from tests.torture import hostile
from tests.torture.trials import Setting
from tests.torture.watched import Worker


def test_hostile_inputs_are_taken_or_refused(tmp_path):
    found = list(hostile.trials(Setting(tmp_path, short=True)))
    lost = [f"{trial.what}: {trial.found}" for trial in found if not trial.survived]
    assert not lost, "\n".join(lost)
    assert len(found) > 60


def test_a_traceback_is_found(tmp_path):
    with Worker(tmp_path / "log") as worker:
        outcome = worker.ask("no such kind")
    assert not outcome.held and "traceback: KeyError" in outcome.said
