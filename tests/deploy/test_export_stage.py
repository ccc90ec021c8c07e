"""Stage 10, end to end on the tiny experiment and a causal one, and its parts by hand."""

import copy
import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import run_sh, tiny_arguments
from tests.deploy.export_facts import facts
from tests.helpers import tiny_config, tiny_model
from tests.recognizers import tokenizer
from todm.config.load import load
from todm.deploy import deploy_report
from todm.deploy.benchmark_rounds import algorithmic_latency_ms
from todm.deploy.checks import Checks
from todm.deploy.client_check import ClientCheck
from todm.deploy.export import chosen_entries, export, write_subnet
from todm.deploy.exports import Exports
from todm.deploy.findings import KeptFindings
from todm.deploy.graph_check import GraphCheck
from todm.deploy.quantize import quantizable, session
from todm.deploy.split_audio import audio_batches, load_cuts
from todm.recipe.stage_main import stage_main
from todm.recipe.stages import STAGES, runner
from todm.results.export_results import ExportFacts, ExportResults
from todm.results.subnets import SubnetEntry, read_subnets, write_subnets
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from todm.supernet.exported import load_model
from todm.training.experiment import Experiment, load_experiment
from utils.errors import UserError

QUICK = ["export.benchmark_rounds=1", "export.benchmark_seconds=3"]
GRAPHS = [
    f"{part}.{end}" for part in ("encoder", "decoder", "joiner") for end in ("onnx", "int8.onnx")
]
OTHERS = [
    "README.md",
    "bpe.model",
    "bpe.vocab",
    "checked.json",
    "conf.yaml",
    "export.json",
    "model.safetensors",
    "tokens.txt",
]
STREAMING = ["streaming-encoder.int8.onnx", "streaming-encoder.onnx"]
PNG = b"\x89PNG"


def strict_json(path: Path) -> dict:
    """Without NaN, which other readers of JSON refuse."""
    return json.loads(
        path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path}")
    )


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory) -> tuple[list[str], Path, str]:
    """Arguments, experiment and output of stage 10 on a copy of the tiny experiment."""
    exp = shutil.copytree(tiny_run[0] / "exp", tmp_path_factory.mktemp("export") / "exp")
    arguments = [*tiny_arguments(tiny_run[0]), f"exp={exp}"]
    return arguments, exp, run_sh("--stage", "10", "--stop-stage", "10", *arguments, *QUICK).stdout


@pytest.fixture(scope="module")
def streaming(tiny_run, tmp_path_factory) -> tuple[list[str], Path, str]:
    """The same of a causal model with a tail, trained on the modified lattice, of which one subnet
    is exported: the middle one of three is the largest within 75 %."""
    exp = tmp_path_factory.mktemp("streaming") / "exp"
    arguments = [
        *tiny_arguments(tiny_run[0]),
        f"exp={exp}",
        "model.direction=causal",
        "decode.methods=[greedy]",
        "export.budget=0.75",
        "model.tail_frames=24",
        "loss.rnnt_type=modified",
        "loss.delay_penalty=0.01",
    ]
    run_sh("--stage", "4", "--stop-stage", "6", *arguments)
    return arguments, exp, run_sh("--stage", "10", "--stop-stage", "10", *arguments, *QUICK).stdout


def subnets(exp: Path) -> dict[str, SubnetEntry]:
    """The entries of subnets.json by name, but for the baselines."""
    return {entry.name: entry for entry in read_subnets(exp / "subnets.json")}


def test_every_subnet_has_a_folder_with_all_files(exported):
    _, exp, _ = exported
    names = sorted(subnets(exp))
    assert len(names) == 3
    assert sorted(p.name for p in (exp / "export").iterdir()) == sorted(
        [*names, "report.md", "results.json", "wer-against-rtf.png"]
    )
    for name in names:
        assert sorted(p.name for p in (exp / "export" / name).iterdir()) == sorted(GRAPHS + OTHERS)
        assert (
            strict_json(exp / "export" / name / "export.json")["longest_seconds"]
            == load_experiment(exp, None, None, torch.device("cpu")).longest
        )


def test_the_files_are_of_the_subnet_whose_name_they_have(exported):
    """Its graph computes what the supernet computes with this subnet, and its safetensors too."""
    _, exp, _ = exported
    trained = load_experiment(exp, "range", 4, torch.device("cpu"))
    features, lengths = (
        torch.randn(2, 90, 80, generator=torch.Generator().manual_seed(0)) * 3 - 8,
        torch.tensor([90, 41]),
    )
    for name, entry in subnets(exp).items():
        with torch.no_grad():
            encoded, _ = trained.model.encoder(features, lengths, entry.subnet)
            expected = trained.model.joiner.encoder_proj(encoded).numpy()
            _, alone, _, facts = load_model(exp / "export" / name, torch.device("cpu"))
            stored = alone.joiner.encoder_proj(alone.encoder(features, lengths)[0]).numpy()
        got, got_lengths = session(exp / f"export/{name}/encoder.onnx").run(
            None, {"x": features.numpy(), "x_lens": lengths.numpy()}
        )
        assert got_lengths.tolist() == [21, 9] and facts.entry == entry
        for i, length in enumerate([21, 9]):
            np.testing.assert_allclose(got[i, :length], expected[i, :length], atol=1e-4)
            np.testing.assert_allclose(stored[i, :length], expected[i, :length], atol=1e-5)


def test_results_say_that_the_client_agrees_with_torch(exported):
    _, exp, _ = exported
    results, in_torch = (
        strict_json(exp / "export/results.json"),
        json.loads((exp / "results.json").read_text())["results"],
    )
    assert results["differences"] == [] and results["updates"] == 12
    fp32 = [
        (r["name"], r["split"], r["method"]) for r in results["rows"] if r["precision"] == "fp32"
    ]
    int8 = [
        (r["name"], r["split"], r["method"]) for r in results["rows"] if r["precision"] == "int8"
    ]
    names, splits = list(subnets(exp)), ["dev", "test"]
    assert sorted(fp32) == sorted(
        (n, s, m)
        for n in names
        for s, m in [("dev", "greedy"), ("dev", "beam"), ("test", "greedy")]
    )
    assert sorted(int8) == sorted((n, s, "greedy") for n in names for s in splits)
    utterances = {
        s: len(json.loads((exp / "results.json").read_text())["utterances"][s]["words"].split())
        for s in splits
    }
    for row in results["rows"]:
        assert (
            row["utterances"] == utterances[row["split"]] == 4
            and row["mode"] == "offline"
            and row["role"] == row["split"]
        )
        assert row["wer"] == pytest.approx(
            100 * (row["substitutions"] + row["insertions"] + row["deletions"]) / row["words"],
            abs=1e-3,
        )
        (beside,) = [
            r for r in in_torch if all(r[k] == row[k] for k in ("name", "split", "method"))
        ]
        if row["precision"] == "fp32":
            assert row["equal"] == row["utterances"] and row["torch_wer"] == row["wer"]
            # The WERs may differ: stage 6 reads stored features, which are compressed.
            assert row["words"] == beside["words"]
        assert (
            results["torch_results"][f"{row['name']}/{row['split']}/{row['method']}"]
            == beside["wer"]
        )
    assert all(
        0 <= errors["offline"] < 1e-4 for errors in results["graph_errors"].values()
    ) and sorted(results["graph_errors"]) == sorted(names)
    assert {(b["name"], b["precision"]) for b in results["benchmark"]} == {
        (n, p) for n in names for p in ("fp32", "int8")
    }
    for b in results["benchmark"]:
        assert (
            b["real_time_factor"] > 0
            and b["latency_ms"] > 0
            and 0 < b["model_mib"] <= b["peak_mib"] < 1000
            and b["rounds"] == 1
        )
        parts = [
            f"{part}.{'onnx' if b['precision'] == 'fp32' else 'int8.onnx'}"
            for part in ("encoder", "decoder", "joiner")
        ]
        assert b["bytes"] == sum(
            (exp / "export" / b["name"] / file).stat().st_size for file in [*parts, "tokens.txt"]
        )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_report_and_the_picture_are_there(exported):
    _, exp, output = exported
    text, results = (exp / "export/report.md").read_text(), strict_json(exp / "export/results.json")
    assert text in output and (exp / "export/wer-against-rtf.png").read_bytes().startswith(PNG)
    page = (exp / "report.html").read_text(encoding="utf-8")
    assert "Exported nets in stock sherpa-onnx" in page and "Not of the results above" not in page
    titles, _, *rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    table = {(row[0], row[2]): dict(zip(titles, row)) for row in rows}
    assert set(table) == {
        (name, precision) for name in subnets(exp) for precision in ("fp32", "int8")
    }
    for (name, precision), row in table.items():
        for split in ("dev", "test"):
            (found,) = [
                r
                for r in results["rows"]
                if (r["name"], r["precision"], r["split"], r["method"])
                == (name, precision, split, "greedy")
            ]
            assert row[f"WER % {split}"] == f"{found['wer']:.2f}"
            assert (
                row[f"torch WER % {split}"]
                == f"{results['torch_results'][f'{name}/{split}/greedy']:.2f}"
            )
    for method, split in (("greedy", "dev"), ("beam", "dev"), ("greedy", "test")):
        assert f"- offline, {method}, {split}: 12 of 12 (100.00 %)" in text


def test_a_card_names_size_wer_and_licence(exported):
    _, exp, _ = exported
    results = strict_json(exp / "export/results.json")
    for name, entry in subnets(exp).items():
        text = (exp / "export" / name / "README.md").read_text()
        for key in ("encoder_params", "total_params", "macs_per_second"):
            assert f"| {getattr(entry, key):,} |" in text
        table = {
            cells(line)[0]: cells(line)[1:] for line in text.splitlines() if line.startswith("|")
        }
        for i, precision in enumerate(("fp32", "int8")):
            (b,) = [
                b for b in results["benchmark"] if (b["name"], b["precision"]) == (name, precision)
            ]
            (row,) = [
                r
                for r in results["rows"]
                if (r["name"], r["precision"], r["split"], r["method"])
                == (name, precision, "test", "greedy")
            ]
            assert (
                table["size on disk, MB"][i] == f"{b['bytes'] / 1e6:.2f}"
                and table["WER % test, in sherpa-onnx"][i] == f"{row['wer']:.2f}"
            )
        assert (
            "Licence: Apache-2.0" in text
            and "bidirectional" in text
            and str(entry.subnet) in text
            and "treaming" not in text
        )
        facts = strict_json(exp / "export" / name / "export.json")
        assert ExportFacts.from_dict(facts).as_dict() == facts
        assert facts["architecture"] == str(entry.subnet) and {
            r["name"] for r in facts["rows"] + facts["benchmark"]
        } == {name}


def test_running_it_again_is_skipped(exported, monkeypatch, caplog):
    arguments, exp, _ = exported
    monkeypatch.setattr(
        sys, "argv", ["export", *arguments, "export.benchmark_rounds=3"]
    )  # more rounds change nothing about the files
    monkeypatch.setattr("todm.recipe.stage_main.setup_logging", lambda: None)
    with caplog.at_level(logging.INFO):
        stage_main(10, lambda *_: pytest.fail("it ran again"), "")
    assert "stage 10 (export): finished already, skipped" in caplog.text
    changed = load("mini", [*arguments, "export.chunk_frames=16"])
    assert runner(changed, []).stale_reasons(STAGES[10]) == ["export.chunk_frames was 32, is 16"]
    assert "export.budget was None, is '0.5'" in runner(
        load("mini", [*arguments, "export.budget=0.5"]), []
    ).stale_reasons(STAGES[10])


def test_the_checks_notice_wrong_graphs(exported, tmp_path, caplog):
    """The graphs of two subnets are exchanged: outputs and hypotheses are no longer torch's."""
    arguments, exp, _ = exported
    config, entries = load("mini", arguments), list(subnets(exp).values())
    root = shutil.copytree(exp / "export", tmp_path / "export")
    first, second = (root / entry.name / "encoder.onnx" for entry in entries[:2])
    content = first.read_bytes(), second.read_bytes()
    experiment = load_experiment(exp, "range", 4, torch.device("cpu"))
    exports = Exports(config, experiment, entries, root)
    graphs, clients = GraphCheck(exports), ClientCheck(exports)
    assert graphs.difference(entries[0], "offline") < 1e-4 and not caplog.text
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    for entry in entries[:2]:
        assert (
            graphs.difference(entry, "offline") > 1e-2
            and f"{entry.name}, offline: the graph's outputs differ" in caplog.text
        )
        decoded = clients.decode(entry, "offline", "fp32", "greedy", "dev", "dev")
        assert decoded.row.equal == 4 - len(decoded.differences) < 4
        assert all(d.torch != d.client and d.id and d.reference for d in decoded.differences)


def test_what_is_finished_is_not_made_again_after_a_kill(exported):
    """Until something changes that the files or findings depend on."""
    arguments, exp, _ = exported
    experiment, entries = (
        load_experiment(exp, "range", 4, torch.device("cpu")),
        list(subnets(exp).values()),
    )

    def finished(*overrides: str, experiment: Experiment = experiment) -> list[bool]:
        config = load("mini", [*arguments, *overrides])
        kept = KeptFindings(Exports(config, experiment, entries, exp / "export"))
        return [kept.finished(entry) is not None for entry in entries]

    assert finished() == finished("export.benchmark_rounds=2") == [True] * 3
    assert finished("export.budget=1k") == finished("export.subnets=[]") == [True] * 3
    for override in (
        "export.chunk_frames=16",
        "export.int8_tolerance=0.5",
        "export.methods=[beam]",
        "decode.beam=2",
        "data.test=[dev2]",
    ):
        assert finished(override) == [False] * 3
    assert finished(experiment=replace(experiment, update=13)) == [False] * 3
    assert finished(experiment=replace(experiment, weights="update 12")) == [False] * 3


def test_other_weights_of_as_many_updates_are_exported_anew(exported):
    """Trained again with another seed, say: update and kind of weights are what they were."""
    arguments, exp, _ = exported
    experiment = load_experiment(exp, "range", 4, torch.device("cpu"))
    other = copy.deepcopy(experiment.model)
    with torch.no_grad():
        other.encoder.norm.weight.mul_(1.5)
    kept = KeptFindings(
        Exports(
            load("mini", arguments),
            replace(experiment, model=other),
            list(subnets(exp).values()),
            exp / "export",
        )
    )
    assert [kept.finished(entry) for entry in subnets(exp).values()] == [None] * 3


def test_damaged_findings_are_not_finished(exported, tmp_path):
    arguments, exp, _ = exported
    root, entries = (
        shutil.copytree(exp / "export", tmp_path / "export"),
        list(subnets(exp).values()),
    )
    experiment = load_experiment(exp, "range", 4, torch.device("cpu"))
    kept = KeptFindings(Exports(load("mini", arguments), experiment, entries, root))
    path = root / entries[0].name / "checked.json"
    whole = path.read_text()
    for left in ("", whole[:100], "[]", whole.replace('"wer"', '"other"')):
        path.write_text(left)
        assert kept.finished(entries[0]) is None
    path.write_text(whole)
    assert kept.finished(entries[0]) is not None


def test_a_folder_that_lacks_a_graph_is_not_finished(exported, tmp_path):
    arguments, exp, _ = exported
    root = shutil.copytree(exp / "export", tmp_path / "export")
    kept = KeptFindings(
        Exports(
            load("mini", arguments),
            load_experiment(exp, "range", 4, torch.device("cpu")),
            list(subnets(exp).values()),
            root,
        )
    )
    for entry, name in zip(
        subnets(exp).values(), ("encoder.onnx", "encoder.int8.onnx", "tokens.txt")
    ):
        assert kept.finished(entry)
        (root / entry.name / name).unlink()
        assert kept.finished(entry) is None


def test_a_budget_exports_the_best_subnet_within_it(streaming):
    _, exp, _ = streaming
    entries = list(subnets(exp).values())
    largest, middle, smallest = (entry.encoder_params for entry in entries)
    assert smallest < middle < 0.75 * largest
    folder = exp / "export"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [entries[1].name, "report.md", "results.json", "wer-against-rtf.png"]
    )
    assert strict_json(folder / entries[1].name / "export.json")["encoder_params"] == middle
    assert {r["name"] for r in strict_json(folder / "results.json")["rows"]} == {entries[1].name}


def test_a_causal_model_is_exported_for_streaming_too(streaming):
    _, exp, _ = streaming
    name = list(subnets(exp))[1]
    folder = exp / "export" / name
    assert sorted(p.name for p in folder.iterdir()) == sorted(GRAPHS + OTHERS + STREAMING)
    metadata = session(folder / "streaming-encoder.int8.onnx").get_modelmeta().custom_metadata_map
    assert (
        metadata["model_type"] == "lstm"
        and metadata["T"] == "35"
        and metadata["decode_chunk_len"] == "32"
    )
    results, text, card = (
        strict_json(exp / "export/results.json"),
        (exp / "export/report.md").read_text(),
        (folder / "README.md").read_text(),
    )
    assert {(r["mode"], r["precision"]) for r in results["rows"]} == {
        (m, p) for m in ("offline", "streaming") for p in ("fp32", "int8")
    }
    assert (
        set(results["graph_errors"][name]) == {"offline", "streaming"}
        and max(results["graph_errors"][name].values()) < 1e-4
    )
    for b in results["benchmark"]:
        assert (b.get("algorithmic_ms") == 362.5) == (b["mode"] == "streaming")
    assert f"| {name} | streaming | int8    |" in text
    assert (
        "at most 362.5 ms later" in card
        and "--encoder=streaming-encoder.int8.onnx" in card
        and "causal" in card
        and "320 ms" in card
    )


@pytest.mark.parametrize("mode", ["offline", "streaming"])
def test_of_a_causal_model_every_hypothesis_is_torchs(streaming, mode):
    _, exp, _ = streaming
    results = strict_json(exp / "export/results.json")
    rows = [r for r in results["rows"] if (r["mode"], r["precision"]) == (mode, "fp32")]
    assert len(rows) == 3
    assert [r["equal"] for r in rows] == [r["utterances"] for r in rows], [
        d for d in results["differences"] if d["mode"] == mode
    ]


def test_layers_that_cost_too_much_in_int8_stay_in_fp32(streaming, tmp_path, caplog):
    """No result is good enough: all of the streaming encoder's products with weights stay, ranked
    on real chunks."""
    arguments, exp, _ = streaming
    root = shutil.copytree(exp / "export", tmp_path / "export")
    entry = list(subnets(exp).values())[1]
    checks = Checks(
        Exports(
            load("mini", arguments),
            load_experiment(exp, "range", 4, torch.device("cpu")),
            [entry],
            root,
        )
    )
    with caplog.at_level(logging.INFO):
        kept = checks.quantize(entry, "streaming", -1.0)
    folder = root / entry.name
    products, left = (
        sorted(quantizable(folder / name))
        for name in ("streaming-encoder.onnx", "streaming-encoder.int8.onnx")
    )
    assert sorted(name for name, _ in kept) == products == left
    errors = [error for _, error in kept]
    assert errors == sorted(errors, reverse=True) and 0 < errors[0] < 1
    assert f"{len(kept)} of {len(kept)} layers stay in fp32" in caplog.text


def test_audio_that_is_gone_is_named(tiny_run, monkeypatch):
    """Features are enough for all stages before; what then is missing is a user's mistake, too."""

    def moved(config, splits):
        cuts = load_cuts(config, splits)
        for cut in cuts:
            cut.recording.sources[0].source = "/moved/away.flac"
        return cuts

    monkeypatch.setattr("todm.deploy.split_audio.load_cuts", moved)
    with pytest.raises(UserError, match="/moved/away.flac"):
        list(audio_batches(load("mini", tiny_arguments(tiny_run[0])), "dev"))


def refused(arguments: list[str], monkeypatch, capsys) -> str:
    """What stage 10 says when it refuses with status 2; any other exception is a traceback."""
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    monkeypatch.setattr("todm.recipe.stage_main.setup_logging", lambda: None)
    with pytest.raises(SystemExit) as error:
        stage_main(10, export, "")
    assert error.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "argument, messages",
    [
        ("export.subnets=[nonsense]", ["no subnet 'nonsense'", "there are: 0.01M, "]),
        ("export.subnets=[h0-1f0-3 h0-1f0-3]", ["does not fit the model"]),
        ("export.subnets=[h0-2f0-3 - -]", ["does not fit the model", "h0-1f0-3 h0-1f0-3 h0-1f0-3"]),
        (
            "export.budget=1k",
            ["export.budget: no subnet fits 1k", "feasible: ", "encoder parameters"],
        ),
        ("export.budget=little", ["export.budget: 'little' is not a budget"]),
        ("export.chunk_frames=30", ["export.chunk_frames 30 is not a multiple of 4"]),
        ("export.methods=[greed]", ["export.methods", "greedy, beam"]),
    ],
)
def test_what_can_not_be_exported_is_refused(
    tiny_run, tmp_path, monkeypatch, capsys, argument, messages
):
    exp = shutil.copytree(tiny_run[0] / "exp", tmp_path / "exp")
    said = refused([*tiny_arguments(tiny_run[0]), f"exp={exp}", argument], monkeypatch, capsys)
    assert all(message in said for message in messages) and not (exp / "export").exists()


def test_the_shell_gets_status_2_and_no_traceback(tiny_run):
    result = run_sh(
        "--stage",
        "10",
        "--stop-stage",
        "10",
        *tiny_arguments(tiny_run[0]),
        "export.subnets=[nonsense]",
        check=False,
    )
    assert (
        result.returncode == 2
        and "no subnet 'nonsense'" in result.stdout
        and "Traceback" not in result.stdout
    )


@pytest.mark.parametrize(
    "missing, first", [("exp/.stamps/stage-6.json", 6), ("exp/results.json", 6), ("exp/.stamps", 4)]
)
def test_what_must_run_first_is_named(tiny_run, tmp_path, monkeypatch, capsys, missing, first):
    exp = shutil.copytree(tiny_run[0] / "exp", tmp_path / "exp")
    shutil.move(tmp_path / missing, tmp_path / "aside")
    said = refused([*tiny_arguments(tiny_run[0]), f"exp={exp}"], monkeypatch, capsys)
    assert f"Run it first: ./run.sh --stage {first} --stop-stage {first} " in said


def by_hand(
    tmp_path: Path, *overrides: str, scores: tuple = (None, None, None)
) -> list[SubnetEntry]:
    """chosen_entries of three subnets with these scores on dev, 100 %, about 80 % and 40 % of the
    largest."""
    config = tiny_config(f"exp={tmp_path}", *overrides)
    experiment = Experiment(
        config, tiny_model(config, tokenizer().vocab_size), tokenizer(), 0, 0.0, 0.0, "random"
    )
    texts = ["h0-2f0-3 h0-2f0-3 h0-2f0-3", "h0-2f0-1 h0-2f0-1 h0-2f0-1", "h0f0 - h0-1f0"]
    entries = [
        replace(
            describe_subnet(config, tokenizer().vocab_size, Subnet.parse(text), "by hand"),
            name=name,
            dev_score=score,
        )
        for name, text, score in zip("abc", texts, scores)
    ]
    write_subnets(
        tmp_path / "subnets.json", "uniform", entries, [replace(entries[0], name="baseline")]
    )
    return chosen_entries(config, experiment)


@pytest.mark.parametrize(
    "overrides, scores, names",
    [
        ([], (1.0, 2.0, 3.0), "abc"),  # baselines are not deployed
        (["export.subnets=[c,a]"], (None,) * 3, "ca"),
        (["export.subnets=[h0f0 - h0-1f0]"], (None,) * 3, "c"),  # by its architecture
        (["export.budget=1"], (None,) * 3, "a"),
        (["export.budget=0.9"], (None,) * 3, "b"),
        (["export.budget=0.9"], (1.0, 5.0, 4.0), "c"),  # the lowest WER on dev, not the largest
        (["export.budget=90%"], (1.0, 4.0, 5.0), "b"),
        (["export.budget=100M"], (3.0, 2.0, 4.0), "b"),
    ],
)
def test_subnets_are_chosen_by_name_architecture_or_budget(tmp_path, overrides, scores, names):
    assert "".join(entry.name for entry in by_hand(tmp_path, *overrides, scores=scores)) == names


def test_an_architecture_that_is_not_listed_is_described(tmp_path):
    (entry,) = by_hand(tmp_path, 'export.subnets=["h0,2f1,3 f2 h1"]')
    assert (
        str(entry.subnet) == "h0,2f1,3 f2 h1"
        and entry.encoder_params > 0
        and entry.how == "export.subnets"
    )


def test_two_architectures_of_equal_size_have_folders_of_their_own(tmp_path):
    names = [
        entry.name
        for entry in by_hand(tmp_path, "export.subnets=[h0f0 h0f0 -,h0f0 - h0f0,h1f0 - h0f0]")
    ]
    assert len(set(names)) == 3


def test_a_budget_that_no_subnet_meets_is_refused(tmp_path):
    with pytest.raises(UserError, match="export.budget: no subnet fits 0.1 "):
        by_hand(tmp_path, "export.budget=0.1")


def test_nothing_of_an_earlier_export_stays_in_a_folder(tmp_path):
    config = tiny_config()
    experiment = Experiment(
        config, tiny_model(config, tokenizer().vocab_size), tokenizer(), 0, 0.0, 0.0, "random"
    )
    entry = describe_subnet(config, tokenizer().vocab_size, Subnet.parse("f0 f1 f2-3"), "by hand")
    folder = tmp_path / "export/small"
    folder.mkdir(parents=True)
    for name in (*STREAMING, "encoder.onnx", "encoder.int8.onnx"):
        (folder / name).write_bytes(b"earlier")
    write_subnet(folder, config, experiment, entry)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        {*GRAPHS, *OTHERS} - {"README.md", "checked.json", "encoder.int8.onnx"}
    )
    assert (folder / "encoder.onnx").stat().st_size > 1000


@pytest.mark.parametrize("chunk, latency", [(32, 10 * (32 + 3) + 12.5), (4, 82.5), (64, 682.5)])
def test_algorithmic_latency_by_hand(chunk, latency):
    assert algorithmic_latency_ms(chunk) == latency


def report_of(values: dict[str, Any]) -> str:
    """The report of the content of export/results.json."""
    return deploy_report.report(ExportResults.from_dict(values))


def test_the_report_against_a_table_by_hand():
    text = report_of(facts())
    assert [cells(line) for line in text.splitlines() if line.startswith("|")][2:] == [
        # subnet, mode, weights, torch on dev and test, client on dev and test, RTF, ms, first
        # token, MiB, MB
        [
            "2M",
            "offline",
            "fp32",
            "9.87",
            "8.76",
            "10.00",
            "10.02",
            "0.0100",
            "20.0",
            "",
            "50",
            "1.00",
        ],
        [
            "2M",
            "offline",
            "int8",
            "9.87",
            "8.76",
            "10.10",
            "10.12",
            "0.0110",
            "20.5",
            "",
            "51",
            "1.23",
        ],
        [
            "2M",
            "streaming",
            "fp32",
            "9.87",
            "8.76",
            "11.00",
            "11.02",
            "0.0200",
            "21.0",
            "401",
            "52",
            "2.00",
        ],
        [
            "2M",
            "streaming",
            "int8",
            "9.87",
            "8.76",
            "11.10",
            "11.12",
            "0.0210",
            "21.5",
            "402",
            "53",
            "2.23",
        ],
        ["1M", "offline", "fp32", "", "7.65", "12.00", "12.02", "0.0300", "22.0", "", "54", "3.00"],
        ["1M", "offline", "int8", "", "7.65", "12.10", "12.12", "0.0310", "22.5", "", "55", "3.23"],
        [
            "1M",
            "streaming",
            "fp32",
            "",
            "7.65",
            "13.00",
            "13.02",
            "0.0400",
            "23.0",
            "403",
            "56",
            "4.00",
        ],
        [
            "1M",
            "streaming",
            "int8",
            "",
            "7.65",
            "13.10",
            "13.12",
            "0.0410",
            "23.5",
            "404",
            "57",
            "4.23",
        ],
    ]
    assert (
        "- 2M, streaming: `/project/MatMul` (3.2% of the output alone), `/ffn/MatMul` (1.0% of "
        "the output alone)" in text
    )
    assert "- 2M, offline:" not in text and "- 1M, streaming:" not in text
    for part in (
        "made up",
        "all of them",
        "77 updates",
        "3 processes each",
        "12.3 s",
        "an abacus",
        "abc123",
        "`./run.sh --stage 10`",
    ):
        assert part in text


def test_agreement_by_hand():
    lines = deploy_report.agreement(ExportResults.from_dict(facts()))
    assert [line for line in lines if line.startswith("- ") and "different" not in line] == [
        "- offline, greedy, dev: 8 of 8 (100.00 %)",
        "- offline, beam, dev: 8 of 8 (100.00 %)",
        "- offline, greedy, test: 12 of 12 (100.00 %)",
        "- streaming, greedy, dev: 8 of 8 (100.00 %)",
        "- streaming, beam, dev: 8 of 8 (100.00 %)",
        "- streaming, greedy, test: 11 of 12 (91.67 %)",
    ]
    assert [line for line in lines if "different" in line and line.startswith("- ")] == [
        "- different: 1M, streaming, greedy, 61-70968-0001: torch `A CAT SAT`, client `A CAP`"
    ]
    assert "offline: 3.0e-05, streaming: 5.0e-06" in lines[-1]


def test_without_layers_in_fp32_none_are_listed():
    none = {name: {"offline": [], "streaming": []} for name in ("2M", "1M")}
    assert "fp32 in the int8 files" not in report_of(facts() | {"int8_kept_in_fp32": none})


def test_the_report_names_the_search_that_its_wers_are_of():
    """export.methods=[beam]: greedy search did not run."""
    beam = facts()
    beam["rows"] = [row | {"method": "beam"} for row in beam["rows"] if row["method"] == "greedy"]
    text = report_of(beam | {"differences": []})
    assert "beam" in text and "greedy" not in text
