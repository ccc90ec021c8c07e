import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.stage_runner import StageRunner
from utils.stage_table import Stage, StageTable


@dataclass
class Part:
    size: int = 1
    speed: int = 1


@dataclass
class Toy:
    first: Part = field(default_factory=Part)
    second: Part = field(default_factory=Part)
    third: Part = field(default_factory=Part)


STAGES = StageTable(
    (
        Stage(
            0,
            "collect",
            ("first",),
            (),
            "nothing",
            "{data}/zero",
            "data",
            ("zero",),
            ("first.speed",),
        ),
        Stage(1, "cook", ("second.size",), (0,), "{data}/zero", "{exp}/one", "exp", ("one",)),
        Stage(2, "serve", ("third.size",), (1,), "{exp}/one", "{exp}/two", "exp", ("two",)),
    )
)


class Kitchen:
    """A runner of the toy stages, whose actions write their output and are recorded."""

    def __init__(self, folder: Path):
        self.folders, self.config, self.ran = (
            {"data": folder / "data", "exp": folder / "exp"},
            Toy(),
            [],
        )

    @property
    def runner(self) -> StageRunner:
        """A new one, as every stage script makes its own."""
        return StageRunner(STAGES, self.config, self.folders, ["mini", "first.size=1"])

    def output(self, number: int) -> Path:
        stage = STAGES[number]
        return self.folders[stage.folder] / stage.outputs[0]

    def run(self, number: int, force: bool = False) -> bool:
        def action() -> None:
            self.output(number).parent.mkdir(parents=True, exist_ok=True)
            self.output(number).write_text("done")
            self.ran.append(number)

        return self.runner.run(number, action, force)


@pytest.fixture
def kitchen(tmp_path):
    """With all stages finished."""
    kitchen = Kitchen(tmp_path)
    assert [kitchen.run(number) for number in STAGES] == [True] * 3
    kitchen.ran.clear()
    return kitchen


def test_finished_stages_are_skipped(kitchen, caplog):
    with caplog.at_level(logging.INFO):
        assert not any(kitchen.run(number) for number in STAGES)
    assert kitchen.ran == [] and "stage 1 (cook): finished already" in caplog.text


def test_force_redoes_a_stage(kitchen):
    assert kitchen.run(1, force=True) and kitchen.ran == [1]


def test_a_stage_that_needs_no_inputs_runs_without_the_stage_before(tmp_path):
    """And runs again when that stage has run."""
    report = replace(STAGES[2], needs_inputs=lambda config: False)
    stages = StageTable((STAGES[0], STAGES[1], report))
    kitchen = Kitchen(tmp_path)

    def run() -> bool:
        runner = StageRunner(stages, kitchen.config, kitchen.folders, ["mini"])
        return runner.run(2, lambda: kitchen.output(2).touch())

    kitchen.folders["exp"].mkdir()
    assert run() and not run()
    kitchen.run(0)
    kitchen.run(1)
    assert run() and not run()


def test_a_changed_value_redoes_a_stage_and_says_so(kitchen, caplog):
    kitchen.config.second.size = 5
    with caplog.at_level(logging.INFO):
        assert kitchen.run(1)
    assert "second.size was 1, is 5" in caplog.text
    assert not kitchen.run(1)


@pytest.mark.parametrize("part, number", [("first", 0), ("second", 1)])
def test_passive_and_foreign_keys_redo_nothing(kitchen, part, number):
    getattr(kitchen.config, part).speed = 5
    assert not kitchen.run(number)


def test_a_missing_output_redoes_a_stage(kitchen):
    kitchen.output(1).unlink()
    assert kitchen.run(1) and kitchen.output(1).exists()


def test_a_rerun_upstream_redoes_what_follows(kitchen):
    kitchen.run(0, force=True)
    with pytest.raises(UserError, match=r"stage 0 has run again since.*\n.*--stage 1 "):
        kitchen.run(2)
    assert kitchen.run(1) and kitchen.run(2) and kitchen.ran == [0, 1, 2]


def test_missing_input_names_the_stage_to_run(tmp_path):
    with pytest.raises(UserError) as error:
        Kitchen(tmp_path).run(1)
    assert "stage 1 (cook) reads what stage 0 (collect) makes" in str(error.value)
    assert "./run.sh --stage 0 --stop-stage 0 --conf mini first.size=1" in str(error.value)


def test_of_several_missing_stages_the_earliest_is_named(tmp_path):
    with pytest.raises(UserError, match="--stage 0 --stop-stage 0"):
        Kitchen(tmp_path).run(2)


def test_a_change_further_up_is_noticed(kitchen):
    """Stage 2 reads stage 1's result, which was made from a stage 0 that this conf no longer asks
    for."""
    kitchen.config.first.size = 5
    with pytest.raises(UserError, match="first.size was 1, is 5"):
        kitchen.run(2)


def test_an_upstream_output_that_is_gone_is_named(kitchen):
    kitchen.output(0).unlink()
    with pytest.raises(UserError, match=r"data/zero is missing"):
        kitchen.run(1, force=True)


def fail() -> None:
    raise RuntimeError("burnt")


def test_a_failed_stage_is_not_finished(kitchen):
    """Not even where it was before."""
    with pytest.raises(RuntimeError, match="burnt"):
        kitchen.runner.run(1, fail, force=True)
    assert kitchen.runner.stale_reasons(STAGES[1]) == ["it has not finished yet"]
    with pytest.raises(UserError, match="--stage 1 "):
        kitchen.run(2)
    assert kitchen.run(1)


# ---- the table


@dataclass
class Meal:
    first: Part = field(default_factory=Part)
    second: Part = field(default_factory=Part)
    third: Part = field(default_factory=Part)


MEALS = StageTable(
    (
        Stage(0, "collect", ("first",), (), "", "", "data", (), passive_keys=("first.speed",)),
        Stage(1, "cook", ("second",), (0,), "", "", "data", (), content_keys=("second.speed",)),
        Stage(2, "serve", ("third",), (1,), "", "", "exp", (), continue_keys=("third.speed",)),
        Stage(3, "wash", ("second",), (2, 0), "", "", "exp", ()),
    )
)


def test_what_a_stage_comes_from():
    assert MEALS.upstream(3) == [0, 1, 2] and MEALS.upstream(0) == []
    assert MEALS.all_values([0, 2], Meal()) == {"first.size": 1, "third.size": 1, "third.speed": 1}


@pytest.mark.parametrize(
    "changed, reasons",
    [
        ({}, []),
        ({"first.speed": 5}, []),  # changes nothing about the result
        ({"first.size": 5}, ["first.size was 1, is 5"]),
        ({"second.speed": 5}, []),  # what changes is seen in what was written
        ({"third.speed": 5}, []),  # goes on with the new value
        (
            {"second.size": 2, "third.size": 3},
            ["second.size was 1, is 2", "third.size was 1, is 3"],
        ),
    ],
)
def test_what_can_be_gone_on_from(changed, reasons):
    now = Meal()
    for key, value in changed.items():
        part, name = key.split(".")
        setattr(getattr(now, part), name, value)
    assert MEALS.changes_before(2, Meal(), now) == reasons


def test_a_key_that_is_newer_than_what_was_saved_had_its_default():
    assert MEALS[2].changes({"third.size": 1}, Meal(third=Part(speed=2))) == [
        "third.speed was 1, is 2"
    ]
    assert MEALS[2].changes({"third.size": 1}, Meal()) == []


def test_a_stage_with_nothing_to_do_says_why(kitchen, caplog, monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(STAGES, 1, replace(STAGES[1], idle=lambda config: "the kitchen is closed"))
    with caplog.at_level(logging.INFO):
        assert not kitchen.run(1, force=True)
    assert "stage 1 (cook): nothing to do: the kitchen is closed" in caplog.text


def test_force_leaves_a_mark_that_stays(kitchen):
    """Also over a run that fails, and until the next force."""
    assert kitchen.runner.forced([0, 1]) == []
    kitchen.run(1, force=True)
    (mark,) = kitchen.runner.forced([0, 1])
    kitchen.output(1).unlink()
    assert kitchen.run(1) and kitchen.runner.forced([0, 1]) == [mark]
    with pytest.raises(RuntimeError, match="burnt"):
        kitchen.runner.run(1, fail, force=True)
    (other,) = kitchen.runner.forced([0, 1])
    assert other != mark and kitchen.run(1) and kitchen.runner.forced([0, 1]) == [other]


@pytest.mark.parametrize("content", ["", "{", "null", "[]"])
def test_a_damaged_stamp_is_none(kitchen, content):
    kitchen.runner.stamp_path(STAGES[1]).write_text(content)
    assert kitchen.run(1)


def test_commands_can_be_pasted(tmp_path):
    import shlex

    runner = StageRunner(
        STAGES, Toy(), {"data": tmp_path, "exp": tmp_path}, ["my conf.yaml", "name=it's"]
    )
    assert shlex.split(runner.command(2)) == [
        "./run.sh",
        "--stage",
        "2",
        "--stop-stage",
        "2",
        "--conf",
        "my conf.yaml",
        "name=it's",
    ]


# ---- damage


def test_a_damaged_output_is_named_moved_aside_and_made_again(kitchen, caplog):
    """Nothing after the stage is redone where it writes the same again."""
    kitchen.output(1).write_text("dome")
    with pytest.raises(UserError, match=f"{kitchen.output(1)} is damaged.*\n.*--stage 1 "):
        kitchen.run(2)
    with caplog.at_level(logging.INFO):
        assert [kitchen.run(number) for number in STAGES] == [False, True, False]
    assert kitchen.output(1).read_text() == "done"
    assert f"runs again: {kitchen.output(1)} is damaged" in caplog.text
    (kept,) = (kitchen.folders["exp"] / "damaged").rglob("one")
    assert kept.read_text() == "dome"


def test_a_folder_in_the_place_of_an_output_is_moved_aside(kitchen):
    kitchen.output(1).unlink()
    kitchen.output(1).mkdir()
    assert kitchen.run(1) and kitchen.output(1).read_text() == "done"


def test_a_stage_may_judge_its_damaged_files_itself(kitchen):
    stages = StageTable((STAGES[0], replace(STAGES[1], judged=("one",)), STAGES[2]))
    kitchen.output(1).write_text("dome")
    seen = []
    runner = StageRunner(stages, kitchen.config, kitchen.folders, ["mini"])
    runner.run(1, lambda: seen.append(kitchen.output(1).read_text()))
    assert seen == ["dome"]


def test_what_a_later_stage_writes_again_is_no_damage(kitchen):
    stages = StageTable((STAGES[0], STAGES[1], replace(STAGES[2], rewrites=("one",))))
    runner = StageRunner(stages, kitchen.config, kitchen.folders, ["mini"])
    runner.run(2, lambda: [kitchen.output(n).write_text("new") for n in (1, 2)], force=True)
    assert not kitchen.run(1)


@pytest.mark.parametrize(
    "stamp",
    ['{"run": "a"}', '{"run": "a", "conf": {}, "after": {}, "files": {"one": [1]}}', "[]", ""],
)
def test_a_damaged_stamp_means_that_a_stage_has_not_finished(kitchen, stamp):
    kitchen.runner.stamp_path(STAGES[1]).write_text(stamp)
    assert kitchen.run(1)


def test_stamps_of_earlier_versions_name_no_files(kitchen):
    path = kitchen.runner.stamp_path(STAGES[1])
    stamp = json.loads(path.read_text())
    assert stamp.pop("files")
    path.write_text(json.dumps(stamp))
    kitchen.output(1).write_text("dome")
    assert not kitchen.run(1)
