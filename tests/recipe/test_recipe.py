"""The shell stages, end to end, on a tiny synthetic corpus."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, run_sh, tiny_arguments
from utils.checkpoint import list_checkpoints, load_checkpoint


def test_run_sh_ends_with_the_table_and_the_picture(tiny_run):
    folder, output = tiny_run
    rows = re.findall(r"^\| (\S+M\S*) +\| (greedy|beam) .*$", output, re.M)
    assert len(rows) == 6  # 3 subnets x 2 searches
    for picture in ("wer-against-parameters.png", "loss-against-updates.png"):
        assert (folder / "exp" / picture).read_bytes().startswith(b"\x89PNG")
    assert (
        f"exp={folder / 'exp'}" in output.splitlines()[-2]
        and "--stage 10" in output.splitlines()[-2]
    )  # the commands to go on with
    assert str(folder / "exp/report.html") in output and (folder / "exp/report.html").is_file()


def test_results_file_agrees_with_recogs(tiny_run):
    folder, _ = tiny_run
    results = json.loads((folder / "exp/results.json").read_text())
    assert results["updates"] == 12 and results["command"].startswith("./run.sh")
    for row in results["results"]:
        lines = (
            (folder / f"exp/decode/recogs-{row['split']}-{row['name']}-{row['method']}.txt")
            .read_text()
            .splitlines()
        )
        words = sum(len(re.findall(r"'([^']*)'", line)) for line in lines if "ref=" in line)
        assert words == row["words"] and len(lines) == 2 * row["utterances"]
        title = f"{row['split']}-{row['name']}-{row['method']}"
        analysis = (folder / f"exp/decode/errors-{title}.md").read_text()
        assert f"{row['wer']:.2f} % WER" in analysis and "By the place" in analysis


def test_finished_stages_are_skipped_and_a_changed_value_redoes(tiny_run):
    folder, _ = tiny_run
    again = run_sh("--stage", "0", "--stop-stage", "3", *tiny_arguments(folder)).stdout
    assert again.count("finished already, skipped") == 4
    stale = run_sh(
        "--stage",
        "4",
        "--stop-stage",
        "4",
        *tiny_arguments(folder),
        "bpe.vocab_size=50",
        check=False,
    )
    assert (
        stale.returncode == 2
        and "bpe.vocab_size was 60, is 50" in stale.stdout
        and "--stage 3" in stale.stdout
    )


def test_a_stage_without_input_names_the_stage_to_run(tmp_path):
    result = run_sh("--stage", "2", "--stop-stage", "2", *tiny_arguments(tmp_path), check=False)
    assert result.returncode == 2
    assert (
        "stage 0 (corpus)" in result.stdout and "./run.sh --stage 0 --stop-stage 0" in result.stdout
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["model.dmi=3"], "did you mean model.dim"),
        (["--conf", "conf/mnii.yaml"], "mini.yaml"),
        (["train.updates=many"], "train.updates"),
        (["--stagee", "3"], "unknown option"),
        (
            ["supernet.min_blocks=9", "model.blocks=3"],
            "supernet.min_blocks 9 is not between 1 and model.blocks 3",
        ),
    ],
)
def test_typing_mistakes_end_with_a_message(arguments, message):
    result = run_sh("--stage", "1", "--stop-stage", "1", *arguments, check=False)
    assert result.returncode == 2 and message in result.stdout and "Traceback" not in result.stdout


def test_help_lists_every_stage_and_conf():
    text = run_sh("--help").stdout
    assert all(re.search(rf"^ +{n}  ", text, re.M) for n in range(11))
    assert all(path.name in text for path in (ROOT / "egs/librispeech/todm/conf").glob("*.yaml"))


def train_command(folder: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "todm.training.train",
        *tiny_arguments(folder),
        "train.updates=40",
        "train.save_every=7",
    ]


def final_model(folder: Path) -> dict:
    return load_checkpoint(list_checkpoints(folder / "exp/checkpoints")[-1][1])["model"]


def test_a_killed_training_goes_on_to_the_same_result(tiny_run, tmp_path):
    """kill -9 in mid-epoch, the same command again: the weights are those of a run that was never
    killed."""
    data = (tiny_run[0] / "data").resolve()
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(data)
    command = [*train_command(tmp_path / "killed"), f"data.dir={data}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not list_checkpoints(tmp_path / "killed/exp/checkpoints"):
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = list_checkpoints(tmp_path / "killed/exp/checkpoints")[-1][0]
    assert reached < 40
    resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"going on from update {reached}" in resumed.stderr
    subprocess.run(
        [*train_command(tmp_path / "whole"), f"data.dir={data}"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    killed, whole = final_model(tmp_path / "killed"), final_model(tmp_path / "whole")
    for name, value in whole.items():
        torch.testing.assert_close(killed[name], value, rtol=1e-4, atol=1e-5)


def test_a_changed_model_starts_anew_and_keeps_the_earlier_training(tiny_run, tmp_path):
    (tmp_path / "data").symlink_to(tiny_run[0] / "data")
    arguments = [
        *tiny_arguments(tmp_path),
        f"data.dir={(tiny_run[0] / 'data').resolve()}",
        "train.updates=4",
    ]
    command = [sys.executable, "-m", "todm.training.train", *arguments]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    again = subprocess.run(
        [*command, "model.dim=28"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "model.dim was 24, is 28" in again.stderr
    assert len(list((tmp_path / "exp/earlier").glob("*/checkpoints/*.pt"))) == 1
