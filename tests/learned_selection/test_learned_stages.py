"""Learned selection through run.sh: a transducer with components, which is stopped in step 2 and
goes on, and a CTC model with modules."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, run_sh, tiny_arguments
from tests.tables.made_up import run_job
from todm.config.load import load
from todm.recipe.stages import STAGES, runner
from todm.subnet import Subnet
from todm.supernet.cost import CostModel
from todm.supernet.exported import load_model
from todm.tables.record_run import record
from utils.checkpoint import list_checkpoints, load_checkpoint

FULL = "h0-1f0-3 h0-1f0-3 h0-1f0-3"
BUDGETS = {"1.0": 1.0, "0.8": 0.8, "0.6": 0.6}
COMMON = ["search.budgets=[0.6,0.8,1.0]", "learn.iterations=3", "train.updates=30"]
TRANSDUCER = ["select.method=orthosoftmax", "learn.granularity=component", *COMMON]
CTC = [
    "select.method=simple-topk",
    "learn.granularity=module",
    "loss.objective=ctc",
    "loss.ctc_weight=1",
    "method.distill=none",
    *COMMON,
]


def arguments(tiny_run: tuple[Path, str], folder: Path, *overrides: str) -> list[str]:
    """The tiny experiment's data, another experiment folder."""
    return [*tiny_arguments(tiny_run[0]), f"exp={folder / 'exp'}", *overrides]


def stages(first: int, last: int) -> list[str]:
    return ["--stage", str(first), "--stop-stage", str(last)]


def order_at(folder: Path, update: int) -> list[int]:
    return load_checkpoint(dict(list_checkpoints(folder / "exp/checkpoints"))[update])["selector"][
        "order"
    ].tolist()


@pytest.fixture(scope="module")
def transducer(tiny_run, tmp_path_factory) -> tuple[Path, list[str]]:
    """A folder with an experiment of stages 4 to 6, and what run.sh printed: stopped after 20
    updates, then gone on."""
    folder = tmp_path_factory.mktemp("transducer")
    calls = [(stages(4, 4), "train.updates=20"), (stages(4, 6), "train.updates=30")]
    return folder, [
        run_sh(*which, *arguments(tiny_run, folder, *TRANSDUCER, updates)).stdout
        for which, updates in calls
    ]


@pytest.fixture(scope="module")
def ctc(tiny_run, tmp_path_factory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("ctc")
    return folder, [run_sh(*stages(4, 6), *arguments(tiny_run, folder, *CTC)).stdout]


def check_subnets(
    tiny_run: tuple[Path, str], folder: Path, method: str, how: str, *overrides: str
) -> list[Subnet]:
    """subnets.json against the budgets; returns its nets."""
    config, found = (
        load("conf/mini.yaml", arguments(tiny_run, folder, *overrides)),
        json.loads((folder / "exp/subnets.json").read_text()),
    )
    assert (
        found["method"] == method
        and found["baselines"] == []
        and [e["budget"] for e in found["subnets"]] == list(BUDGETS)
    )
    nets = [Subnet.parse(e["architecture"]) for e in found["subnets"]]
    costs = CostModel(config, 60)
    full = costs.cost(Subnet.parse(FULL))
    assert str(nets[0]) == FULL and all(
        small.within(large) and small != large for large, small in zip(nets, nets[1:])
    )
    for entry, net in zip(found["subnets"], nets):
        counted = costs.cost(net)
        assert (
            entry["cost"] == entry["encoder_params"] == counted.encoder_params
            and entry["total_params"] == counted.total_params
        )
        assert entry["limit"] == pytest.approx(BUDGETS[entry["budget"]] * full.encoder_params)
        assert (
            counted.encoder_params <= entry["limit"]
            and entry["how"] == how
            and entry["cost_unit"] == "encoder parameters"
        )
    assert len({e["name"] for e in found["subnets"]}) == 3
    return nets


def check_outputs(folder: Path, updates: list[int], units: int) -> None:
    """Scores of step 1, pictures, and results of every net, set and search."""
    lines = [
        json.loads(line)
        for line in (folder / "exp/selection/scores.jsonl").read_text().splitlines()
    ]
    assert [line["update"] for line in lines] == updates and all(
        len(line["scores"]) == units for line in lines
    )
    for name in ("scores", "masks"):
        assert (folder / f"exp/selection/{name}.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((folder / "exp/results.json").read_text())
    assert results["updates"] == 30
    rows = {(r["budget"], r["role"], r["method"]): r for r in results["results"]}
    assert set(rows) == {
        (b, role, m) for b in BUDGETS for role in ("dev", "test") for m in ("greedy", "beam")
    }
    assert len(results["results"]) == len(rows)
    for row in rows.values():
        errors = row["substitutions"] + row["insertions"] + row["deletions"]
        assert row["utterances"] == 4 and errors > 0
        assert row["wer"] == pytest.approx(100 * errors / row["words"], abs=0.01)


def test_a_transducer_with_components(tiny_run, transducer):
    folder, printed = transducer
    nets = check_subnets(
        tiny_run, folder, "orthosoftmax", "orthosoftmax (component-wise)", *TRANSDUCER
    )
    check_outputs(folder, [4, 8], 3 * (2 + 4))
    assert "update 12: the masks are frozen" in printed[0] and all(
        str(net) in printed[0] for net in nets
    )


def test_a_training_that_goes_on_in_step_2_keeps_its_masks(transducer):
    """60 % of 20 updates are 12, of 30 they are 18: what is frozen stays."""
    folder, printed = transducer
    assert "going on from update 20" in printed[1] and "frozen" not in printed[1]
    assert min(order_at(folder, 8)) == -1 and sorted(order_at(folder, 12)) == list(range(18))
    assert order_at(folder, 12) == order_at(folder, 20) == order_at(folder, 30)
    frozen = dict(
        part.strip().split(": ")
        for line in printed[0].splitlines()
        if "masks are frozen" in line
        for part in line.split("frozen: ")[1].split(";")
    )
    assert frozen == {
        e["budget"]: e["architecture"]
        for e in json.loads((folder / "exp/subnets.json").read_text())["subnets"]
    }


def test_finished_stages_of_a_learned_selection_are_up_to_date(tiny_run, transducer):
    def reasons(number: int, *overrides: str) -> list[str]:
        made = arguments(tiny_run, transducer[0], *TRANSDUCER, *overrides)
        return runner(load("conf/mini.yaml", made), ["conf"]).stale_reasons(STAGES[number])

    assert [reasons(number) for number in (4, 5, 6)] == [[], [], []]
    assert reasons(4, "learn.penalty=2") == ["learn.penalty was 1.0, is 2.0"]
    assert reasons(4, "select.method=evolution") == ["select.learned was 'orthosoftmax', is None"]


def test_other_selection_of_a_supernet_trained_for_its_masks_is_refused(tiny_run, transducer):
    """Stage 4 would train another supernet: this one's has learnt its own nets alone. Stage 5 says
    so and changes nothing."""
    folder, _ = transducer
    before = {path: path.stat().st_mtime_ns for path in (folder / "exp").rglob("*")}
    result = run_sh(
        *stages(5, 5),
        *arguments(tiny_run, folder, *TRANSDUCER, "select.method=uniform"),
        check=False,
    )
    assert (
        result.returncode == 2
        and "select.learned was 'orthosoftmax', is None" in result.stdout
        and "--stage 4 --stop-stage 4" in result.stdout
    )
    assert "Traceback" not in result.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "exp").rglob("*")} == before


def test_a_ctc_model_with_modules(tiny_run, ctc):
    folder, printed = ctc
    nets = check_subnets(tiny_run, folder, "simple-topk", "simple-topk (module-wise)", *CTC)
    assert all(len(b.heads) in (0, 2) and len(b.ffn) in (0, 4) for net in nets for b in net.blocks)
    check_outputs(folder, [4, 8, 12, 16], 6)
    assert (
        "update 18: the masks are frozen" in printed[0] and "dev CTC loss per frame" in printed[0]
    )


def test_a_ctc_model_is_exported_like_any_other(tiny_run, ctc, tmp_path):
    """Stage 10 through run.sh: its modules' nets in sherpa-onnx say what torch says; transcribe.sh
    takes the exported folder."""
    folder, _ = ctc
    exp = shutil.copytree(folder / "exp", tmp_path / "exp")
    made = [
        *arguments(tiny_run, tmp_path, *CTC),
        "export.benchmark_rounds=1",
        "export.benchmark_seconds=3",
    ]
    printed = run_sh(*stages(10, 10), *made).stdout
    entries = json.loads((exp / "subnets.json").read_text())["subnets"]
    assert (
        len(entries) == 3
        and all(
            f"- offline, greedy, {split}: 12 of 12 (100.00 %)" in printed
            for split in ("dev", "test")
        )
        and "offline, beam" not in printed
    )
    for entry in entries:
        made = {p.name for p in (exp / "export" / entry["name"]).iterdir()}
        assert {"model.onnx", "model.int8.onnx", "tokens.txt", "README.md"} <= made and not made & {
            "encoder.onnx",
            "decoder.onnx",
            "joiner.onnx",
        }
    spoken = next((tiny_run[0] / "data").rglob("*.flac"))
    told = subprocess.run(
        [ROOT / "transcribe.sh", exp / "export" / entries[0]["name"], spoken, "--json"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TODM_VENV": str(Path(sys.prefix))},
    )
    assert json.loads(told.stdout)["seconds"] > 0
    assert (
        "finished already, skipped"
        in run_sh(
            *stages(10, 10), *arguments(tiny_run, tmp_path, *CTC), "export.benchmark_rounds=1"
        ).stdout
    )


def test_components_of_any_number_are_exported(tiny_run, transducer, tmp_path):
    """A transducer's smallest net, whose chunks are not the leading ones: sherpa-onnx says what
    torch says."""
    exp = shutil.copytree(transducer[0] / "exp", tmp_path / "exp")
    smallest = json.loads((exp / "subnets.json").read_text())["subnets"][-1]
    assert Subnet.parse(smallest["architecture"]) != Subnet.parse(smallest["architecture"]).packed()
    printed = run_sh(
        *stages(10, 10),
        *arguments(tiny_run, tmp_path, *TRANSDUCER),
        "export.benchmark_rounds=1",
        "export.benchmark_seconds=3",
        "export.budget=0.6",
        "export.methods=[greedy]",
    ).stdout
    assert all(
        f"- offline, greedy, {split}: 4 of 4 (100.00 %)" in printed for split in ("dev", "test")
    )
    assert {p.name for p in (exp / "export").iterdir() if p.is_dir()} == {smallest["name"]}
    config, model, _, _ = load_model(exp / "export" / smallest["name"], torch.device("cpu"))
    assert (
        model.full == Subnet.parse(smallest["architecture"]).packed()
        and config.select.method == "uniform"
    )


def test_the_record_of_a_run_has_its_own_nets(tiny_run, ctc, tmp_path):
    """As stage 8 wants it for table (d): named by budget, with curves and a picture of the
    scores."""
    folder, _ = ctc
    config = load("conf/mini.yaml", arguments(tiny_run, folder, *CTC, "decode.methods=[greedy]"))
    record(config, run_job(tmp_path / "records/run.json"))
    written = json.loads((tmp_path / "records/run.json").read_text())
    chosen = {
        e["budget"]: e["architecture"]
        for e in json.loads((folder / "exp/subnets.json").read_text())["subnets"]
    }
    assert [(r["budget"], r["architecture"], r["role"]) for r in written["results"]] == [
        (*net, role) for net in chosen.items() for role in ("dev", "test")
    ]
    assert (
        written["seed"] == 1
        and written["curves"]
        and (tmp_path / "run-scores.png").read_bytes().startswith(b"\x89PNG")
    )
