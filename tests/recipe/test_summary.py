"""What stands at the end of ./run.sh."""

import gzip
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, tiny_arguments
from tests.tables.made_up import made_entry, made_results, made_row
from todm.config.load import load
from todm.recipe.summary import closing, next_commands, results_or_none, rounded_up
from todm.results.decode_results import DecodeRow, RunResults
from todm.results.subnets import write_subnets
from utils.files import read_json


def row(
    name: str, params: int, split: str, errors: int, wer: float, method: str = "greedy"
) -> DecodeRow:
    return made_row(made_entry("h0f0", params, name=name), split, errors, method, wer)


def family(exp: Path) -> RunResults:
    """results.json and subnets.json of three nets, the middle one of which is best on dev, and a
    baseline that is better still."""
    nets = [
        ("1.00M", 1_000_000, 9),
        ("0.62M", 615_400, 5),
        ("0.30M", 300_000, 12),
        ("0.62M-random", 615_400, 1),
    ]
    rows = [
        row(name, params, split, errors, errors / 2 + (split == "test"), method)
        for method in ("greedy", "beam")
        for name, params, errors in nets
        for split in ("dev", "test")
    ]
    entries = [made_entry("h0f0", params, name=name) for name, params, _ in nets]
    write_subnets(exp / "subnets.json", "evolution", entries[:3], entries[3:])
    results = made_results(rows)
    results.write(exp / "results.json")
    return results


def lines_of(commands) -> list[list[str]]:
    return [shlex.split(command.line) for command in commands]


def test_it_names_the_best_and_the_smallest_net_and_the_page(tmp_path):
    config = load("mini", [f"exp={tmp_path}", f"data.dir={tmp_path}-data"])
    family(tmp_path)
    (tmp_path / "report.html").write_text("")
    text = closing(config, "conf/mini.yaml")
    assert "\033" not in text  # no terminal here
    assert f"mini: 3 recognisers out of one training, in {tmp_path}" in text
    assert (
        "best      0.62M: WER 2.50 % on dev, 3.50 % on test" in text
        and "smallest  0.30M: WER 6.00 % on dev, 7.00 % on test" in text
    )
    assert f"{tmp_path}/report.html" in text and "--stage 9 " not in text
    assert (
        f"./transcribe.sh {tmp_path} speech.wav" in text
        and f"./transcribe.sh {tmp_path} --budget 620k speech.wav" in text
    )
    assert "./run.sh --stage 10 --stop-stage 10\n" in text
    assert "\033[1m" in closing(config, "conf/mini.yaml", colour=True)


def test_nothing_before_stage_6(tmp_path):
    config = load("mini", [f"exp={tmp_path}"])
    assert closing(config, "conf/mini.yaml") == ""
    (tmp_path / "results.json").write_text('{"results": [')
    assert closing(config, "conf/mini.yaml") == ""


def test_what_is_made_is_not_asked_for_again(tmp_path):
    config = load("mini", [f"exp={tmp_path}"])
    family(tmp_path)
    assert ["./run.sh", "--stage", "9", "--stop-stage", "9"] in lines_of(
        next_commands(config, "conf/mini.yaml", results_or_none(tmp_path))
    )
    (tmp_path / "report.html").write_text("")
    (tmp_path / "export" / "0.30M").mkdir(parents=True)
    (tmp_path / "export" / "0.30M" / "tokens.txt").write_text("")
    (tmp_path / "export" / "results.json").write_text("{}")
    text = closing(config, "conf/mini.yaml")
    assert (
        "--stage 9 " not in text
        and "--stage 10" not in text
        and f"{tmp_path}/export  (0.30M)" in text
    )


def test_commands_carry_the_conf_and_survive_a_shell(tmp_path):
    """Spaces and quotes in paths; the search's own keys come after the user's."""
    exp, data = tmp_path / "my 'exp'", tmp_path / "my data"
    audio = tmp_path / "a b.flac"
    audio.write_text("")
    config = load("mini", [f"data.dir={data}"])
    config.exp = str(exp)
    family(exp)
    (data / "cuts").mkdir(parents=True)
    with gzip.open(data / "cuts/dev.jsonl.gz", "wt") as file:
        file.write(json.dumps({"recording": {"sources": [{"source": str(audio)}]}}) + "\n")
    conf = shlex.join(["conf/mini.yaml", f"exp={exp}"])
    lines = lines_of(next_commands(config, conf, results_or_none(exp)))
    assert ["./transcribe.sh", str(exp), str(audio)] in lines and [
        "./transcribe.sh",
        str(exp),
        "--budget",
        "620k",
        str(audio),
    ] in lines
    assert [
        "./run.sh",
        "--stage",
        "5",
        "--stop-stage",
        "9",
        "--conf",
        "conf/mini.yaml",
        f"exp={exp}",
        "select.method=evolution",
        "search.budgets=[620k]",
    ] in lines
    assert [
        "./run.sh",
        "--stage",
        "10",
        "--stop-stage",
        "10",
        "--conf",
        "conf/mini.yaml",
        f"exp={exp}",
    ] in lines


@pytest.mark.parametrize(
    "overrides",
    [
        ["select.method=orthosoftmax"],
        ["model.architecture=h0-3f0-7 - h0-3f0-7 h0-3f0-7 h0-3f0-7 h0-3f0-7"],
        ["tables.budgets=[0.3]"],
    ],
)
def test_no_search_is_offered_that_would_train_again_or_be_refused(tmp_path, overrides):
    config = load("mini", [f"exp={tmp_path}", *overrides])
    assert not any(
        "select.method=evolution" in line
        for line in lines_of(next_commands(config, "conf/mini.yaml", family(tmp_path)))
    )


def test_a_budget_is_in_the_unit_that_is_understood(tmp_path):
    config = load("mini", [f"exp={tmp_path}", f"data.dir={tmp_path}-data", "search.cost=macs"])
    lines = lines_of(next_commands(config, "conf/mini.yaml", family(tmp_path)))
    assert ["./transcribe.sh", str(tmp_path), "--subnet", "0.62M", "speech.wav"] in lines
    assert any("search.cost=encoder_params" in line for line in lines)


def test_one_net_streaming_without_dev_words(tmp_path):
    config = load(
        "mini", [f"exp={tmp_path}", f"data.dir={tmp_path}-data", "model.direction=causal"]
    )
    made_results([row("1.00M", 1_000_000, "dev", 3, float("inf"))]).write(tmp_path / "results.json")
    text = closing(config, "conf/mini.yaml")
    assert (
        "one recogniser" in text
        and "1.00M: WER infinite (no words in the reference) on dev" in text
    )
    assert f"./transcribe.sh {tmp_path} --streaming speech.wav" in text and "smaller" not in text


@pytest.mark.parametrize(
    "parameters, text",
    [
        (862_432, "870k"),
        (1_370_848, "1.4M"),
        (9_100, "9.1k"),
        (9_999_999, "10M"),
        (60_000_000, "60M"),
        (600_000, "600k"),
        (7, "7"),
    ],
)
def test_rounded_up(parameters, text):
    assert rounded_up(parameters) == text


def test_it_needs_no_torch(tiny_run):
    """And names the audio of the corpus, so that the command can be copied."""
    code = (
        "import sys; from todm.config.load import load; from todm.recipe.summary import closing\n"
        "print(closing(load('mini', sys.argv[1:]), 'conf/mini.yaml'))\n"
        "print('heavy:', {'torch', 'lhotse', 'plotly', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *tiny_arguments(tiny_run[0])],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "heavy: set()" in result.stdout, result.stderr + result.stdout
    (line,) = [
        line
        for line in result.stdout.splitlines()
        if line.startswith("    ./transcribe.sh") and "--" not in line
    ]
    assert Path(shlex.split(line)[2]).is_file() and shlex.split(line)[1] == str(tiny_run[0] / "exp")
    names = {r["name"] for r in read_json(tiny_run[0] / "exp/results.json")["results"]}
    assert f"{len(names)} recognisers" in result.stdout
