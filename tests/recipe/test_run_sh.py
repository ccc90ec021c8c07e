"""run.sh itself: its arguments, who may write where, what becomes of a training when run.sh is
stopped or killed, changed data."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_sh, tiny_arguments
from utils.checkpoint import list_checkpoints, load_checkpoint
from utils.written_files import describe_files

LONG = [
    "train.updates=100000",
    "train.save_every=2",
    "train.valid_every=100000",
    "train.keep_last=3",
]
LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="a parent's death by SIGKILL is noticed on Linux alone"
)


def experiment(tiny_run, tmp_path: Path, *overrides: str) -> list[str]:
    """Arguments for another experiment on the tiny run's data."""
    return [*tiny_arguments(tiny_run[0]), f"exp={tmp_path / 'exp'}", *overrides]


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [ROOT / "run.sh", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TODM_VENV": str(Path(sys.prefix))},
        start_new_session=True,
    )


def wait_for_checkpoint(exp: Path, process: subprocess.Popen, after: int = 0) -> int:
    """Wait until the training has saved a checkpoint later than ``after``; its update."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        found = list_checkpoints(exp / "checkpoints")
        if found and found[-1][0] > after:
            return found[-1][0]
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    raise AssertionError("no checkpoint came")


def processes_of(exp: Path) -> list[int]:
    """Every process whose command line names the experiment, but zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                str(exp) in (folder / "cmdline").read_text(errors="replace")
                and (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
                != "Z"
            ):
                found.append(int(folder.name))
        except OSError:
            pass  # it has just ended
    return found


def gone(exp: Path, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while processes_of(exp) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(exp)


@LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_training_ends_with_its_run_sh(tiny_run, tmp_path, number):
    """With two processes under torchrun; what a gentle signal ends has saved a checkpoint and goes
    on from it."""
    arguments = experiment(tiny_run, tmp_path, *LONG, "train.cpu_processes=2")
    exp = tmp_path / "exp"
    process = start("--stage", "4", "--stop-stage", "4", *arguments)
    try:
        wait_for_checkpoint(exp, process)
        busy = run_sh("--stage", "4", "--stop-stage", "4", *arguments, check=False)
        assert (
            busy.returncode == 2
            and f"in use by process {process.pid} " in busy.stdout
            and "Traceback" not in busy.stdout
        )
        os.kill(process.pid, number)
        output = process.communicate(timeout=300)[0]
        assert gone(exp)
    finally:
        process.kill()
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert not list(exp.rglob(".update-*"))  # no half checkpoint
    if number != signal.SIGKILL:
        assert "interrupted; the same command goes on from here" in output
    last = list_checkpoints(exp / "checkpoints")[-1][0]
    again = start("--stage", "4", "--stop-stage", "4", *arguments)
    wait_for_checkpoint(exp, again, last)
    os.kill(again.pid, signal.SIGTERM)
    assert f"going on from update {last} " in again.communicate(timeout=300)[0]


def test_data_in_use_are_not_made_anew(tiny_run, tmp_path):
    """While one experiment trains on them; another may. The data are a copy: those of the tiny
    experiment may be in use by tests beside this one."""
    data = tmp_path / "data"
    # without .lock, which may name readers of the original
    without = shutil.ignore_patterns(".lock")
    shutil.copytree(tiny_run[0] / "data", data, symlinks=True, ignore=without)
    mine = f"data.dir={data}"
    arguments = experiment(tiny_run, tmp_path, *LONG, "train.cpu_processes=1", mine)
    process = start("--stage", "4", "--stop-stage", "4", *arguments)
    try:
        wait_for_checkpoint(tmp_path / "exp", process)
        busy = run_sh("--stage", "1", "--stop-stage", "1", "--force", *arguments, check=False)
        assert busy.returncode == 2 and f"{data} is in use by process {process.pid} " in busy.stdout
        other = run_sh(
            "--stage",
            "4",
            "--stop-stage",
            "4",
            *experiment(
                tiny_run, tmp_path / "other", "train.updates=2", "train.cpu_processes=1", mine
            ),
        )
        assert "trained 2 updates" in other.stdout
    finally:
        process.terminate()
        process.communicate(timeout=300)


def test_a_finished_run_takes_no_time(tiny_run):
    """Nothing heavy is imported to say that there is nothing to do."""
    code = (
        "import sys; sys.argv = ['run_stages', *sys.argv[1:]]\n"
        "from todm.recipe import run_stages\n"
        "try: run_stages.main()\n"
        "finally: print('heavy:', sorted({'torch', 'lhotse', 'numpy'} & sys.modules.keys()))"
    )
    scripts = re.findall(r"^  (\d+=\S+)", (ROOT / "run.sh").read_text(), re.M)
    assert len(scripts) == 11
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            *(f"--script={s}" for s in scripts),
            "--",
            *tiny_arguments(tiny_run[0]),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and "heavy: []" in result.stdout
    assert (
        result.stderr.count("finished already, skipped") == 8
        and result.stderr.count("nothing to do") == 2
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--stage=11", "--stop-stage=11"], "there are stages 0 to 10"),
        (["--stage=5", "--stop-stage=4"], "--stage 5 is after --stop-stage 4"),
        (["--stage="], "--stage needs a number"),
        (["--world-size=0"], "--world-size must be at least 1"),
        (["--no-such"], "unknown option '--no-such'"),
        (["train.updates"], "key=value"),
    ],
)
def test_wrong_arguments_are_answered_by_a_sentence(arguments, message):
    result = run_sh(*arguments, check=False)
    assert result.returncode == 2 and message in result.stdout and "Traceback" not in result.stdout


def test_equals_signs_and_plain_sh_are_understood(tiny_run):
    result = subprocess.run(
        [
            "sh",
            str(ROOT / "run.sh"),
            "--stage=3",
            "--stop-stage=3",
            "--conf=mini",
            *tiny_arguments(tiny_run[0]),
        ],
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TODM_VENV": sys.prefix},
    )
    assert result.returncode == 0 and "stage 3 (BPE): finished already" in result.stdout


def test_the_stage_to_run_first_is_named_so_that_it_can_be_pasted(tmp_path):
    result = run_sh(
        "--stage", "2", "--stop-stage", "2", *tiny_arguments(tmp_path / "a folder"), check=False
    )
    command = result.stdout.partition("Run it first: ")[2].strip()
    assert f"'data.dir={tmp_path / 'a folder' / 'data'}'" in command


# ---- changed data and tokens (several runs of a tiny recipe; one copy of the data for all)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """The folder of a tiny experiment of one update, trained, a copy of it, and its arguments."""
    folder = tmp_path_factory.mktemp("changing")
    arguments = [
        *tiny_arguments(folder),
        "train.updates=1",
        "train.cpu_processes=1",
        "train.valid_every=1",
    ]
    run_sh("--stop-stage", "4", *arguments)
    copy = tmp_path_factory.mktemp("copy") / "changing"
    shutil.copytree(folder, copy, symlinks=True)
    return folder, copy, arguments


@pytest.fixture
def changing(trained_once) -> list[str]:
    """Arguments of that experiment, as it was when it had been trained: copies keep their times.
    Each test changes something of it."""
    folder, copy, arguments = trained_once
    shutil.rmtree(folder)
    shutil.copytree(copy, folder, symlinks=True)
    return arguments


def folder_of(arguments: list[str], key: str = "exp") -> Path:
    return Path(next(a.partition("=")[2] for a in reversed(arguments) if a.startswith(f"{key}=")))


def earlier(arguments: list[str]) -> int:
    return len(list((folder_of(arguments) / "earlier").glob("*")))


def test_other_tokens_begin_a_new_training(changing):
    """Also of another number: the old weights would not even fit."""
    for change in ("bpe.model_type=bpe", "bpe.vocab_size=50"):
        before = earlier(changing)
        output = run_sh("--stage", "3", "--stop-stage", "4", *changing, change).stdout
        assert (
            f"a new training, because {change.partition('=')[0]} was" in output
            and "trained 1 updates" in output
        )
        assert earlier(changing) == before + 1
    state = load_checkpoint(list_checkpoints(folder_of(changing) / "checkpoints")[-1][1])
    assert state["model"]["predictor.embedding.weight"].shape[0] == 50


@pytest.mark.parametrize(
    "change, reason",
    [
        (["data.max_seconds=3"], "data.max_seconds was 20.0, is 3.0"),
        (["data.speed_perturb=true"], "data.speed_perturb was False, is True"),
        (["--force"], "the data were made anew with --force"),
    ],
)
def test_other_data_begin_a_new_training(changing, change, reason):
    run_sh("--stage", "1", "--stop-stage", "3", *changing, *change)
    change = [c for c in change if c != "--force"]
    output = run_sh("--stage", "4", "--stop-stage", "4", *changing, *change).stdout
    assert "a new training" in output and reason in output and earlier(changing) == 1


def test_another_test_set_keeps_the_training(changing):
    """Utterances of test are no part of what a training is made from; those of train are the same
    as before."""
    root = folder_of(changing, "data.dir") / "corpus" / "LibriSpeech"
    (root / "test2").symlink_to("test")
    output = run_sh(
        "--stage", "0", "--stop-stage", "4", *changing, f"data.root={root}", check=False
    ).stdout
    assert "a new training" in output and earlier(changing) == 1  # another root: other data
    output = run_sh(
        "--stage", "0", "--stop-stage", "4", *changing, f"data.root={root}", "data.test=[test2]"
    ).stdout
    assert "stage 4 (train the supernet): runs again: stage 3 has run again since" in output
    assert (
        "going on from update 1" in output
        and "a new training" not in output
        and earlier(changing) == 1
    )


def test_fewer_updates_than_were_trained_are_a_new_training(tiny_run, tmp_path):
    arguments = experiment(
        tiny_run, tmp_path, "train.cpu_processes=1", "train.save_every=1", "train.valid_every=10"
    )
    run_sh("--stage", "4", "--stop-stage", "4", *arguments, "train.updates=2")
    assert (
        "going on from update 2"
        in run_sh("--stage", "4", "--stop-stage", "4", *arguments, "train.updates=3").stdout
    )
    output = run_sh("--stage", "4", "--stop-stage", "4", *arguments, "train.updates=1").stdout
    assert "a new training, because train.updates is 1" in output and earlier(arguments) == 1
    assert [u for u, _ in list_checkpoints(folder_of(arguments) / "checkpoints")] == [1]


def test_less_memory_goes_on(tiny_run, tmp_path):
    """A training that ran out of memory is told to lower data.max_duration: it must not lose what
    it has learnt by it."""
    arguments = experiment(tiny_run, tmp_path, "train.cpu_processes=1", "train.valid_every=10")
    run_sh("--stage", "4", "--stop-stage", "4", *arguments, "train.updates=2")
    output = run_sh(
        "--stage", "4", "--stop-stage", "4", *arguments, "train.updates=3", "data.max_duration=6"
    ).stdout
    assert (
        "going on from update 2" in output
        and "trained 3 updates" in output
        and not earlier(arguments)
    )


def test_weights_of_decoding_do_not_ask_for_another_ladder(tiny_run, tmp_path):
    """A uniform ladder is the same with whatever weights; a search is not."""
    from todm.config.load import load
    from todm.recipe.stages import STAGES

    arguments = tiny_arguments(tiny_run[0])
    ladder, search = (
        load("mini", [*arguments, f"select.method={m}"]) for m in ("uniform", "evolution")
    )
    for config, same in ((ladder, True), (search, False)):
        last = load(
            "mini", [*arguments, f"select.method={config.select.method}", "decode.weights=last"]
        )
        assert (STAGES[5].values(config) == STAGES[5].values(last)) == same


def test_scores_of_an_old_dev_set_are_not_used_again(changing, tmp_path):
    """The same name, other utterances: the cache of the search begins anew."""
    search = [
        "select.method=evolution",
        "search.population=4",
        "search.generations=1",
        "search.proxy_seconds=5",
        "search.finalists=1",
        "search.budgets=[1.0]",
        "search.baselines=false",
    ]
    run_sh("--stage", "5", "--stop-stage", "5", *changing, *search)
    assert (
        "scores of an earlier run"
        in run_sh("--stage", "5", "--stop-stage", "5", "--force", *changing, *search).stdout
    )
    cuts = folder_of(changing, "data.dir") / "cuts" / "dev.jsonl.gz"
    import gzip

    lines = gzip.open(cuts, "rt").read().splitlines()
    with gzip.open(cuts, "wt") as file:
        file.write("\n".join(lines[1:]) + "\n")
    data = folder_of(changing, "data.dir")
    stamp = data / ".stamps" / "stage-3.json"  # which knows what the stage has written
    content = json.loads(stamp.read_text())
    content["files"] |= describe_files(data, ["cuts/dev.jsonl.gz"])
    stamp.write_text(json.dumps(content))
    output = run_sh("--stage", "5", "--stop-stage", "5", "--force", *changing, *search).stdout
    assert "scores of an earlier run" not in output
    key = json.loads((folder_of(changing) / "search" / "scores.jsonl").read_text().splitlines()[0])
    assert key["utterances"] and key["model"]
