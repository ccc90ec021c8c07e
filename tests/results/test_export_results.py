"""Files of stage 10, read and written again, also those of earlier versions, and damaged ones."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deploy.export_facts import OFFLINE, STREAMING, facts
from todm.results.export_results import ExportFacts, ExportResults, Findings, read_file
from todm.results.export_rows import BenchmarkRow, ClientRow, Figures, Variant
from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet
from utils.errors import UserError

ENTRY = SubnetEntry("2M", Subnet.parse("h0,2f1,3 f2 h1"), 3, 4, 5, "by hand", 12.5)


@pytest.mark.parametrize("nets", [OFFLINE, STREAMING])
def test_results_are_written_as_they_were_read(tmp_path, nets):
    values = facts(nets)
    ExportResults.from_dict(values).write(tmp_path)
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert json.loads(text) == values
    assert text == json.dumps(values, indent=1, ensure_ascii=False) + "\n"  # keys in order, too
    assert ExportResults.read(tmp_path) == ExportResults.from_dict(values)


@pytest.mark.parametrize("name", ["mini-export", "mini-streaming-export"])
def test_published_results_are_read(name):
    """They are of earlier versions."""
    values = json.loads((ROOT / f"results/{name}.json").read_text(encoding="utf-8"))
    results = ExportResults.from_dict(values)
    assert results.pieces is None and results.splits == ["dev", "test"]
    assert json.dumps(results.as_dict()) == json.dumps(values)


def test_rows_are_found_by_what_they_are_of():
    results = ExportResults.from_dict(facts())
    row = results.row(Variant("1M", "streaming", "int8"), "test")
    assert (row.method, row.wer, row.equal) == ("greedy", 10 + 3 + 0.1 + 0.02, None)
    assert results.row(Variant("2M", "offline", "fp32"), "dev").method == "greedy"  # not beam
    assert results.torch_wer("2M", "test", "greedy") == 8.76
    assert results.torch_wer("1M", "dev", "greedy") is None


def test_the_part_of_one_subnet(tmp_path):
    results = ExportResults.from_dict(facts())
    given = ExportFacts(ENTRY, 17.5, results.measured("2M"))
    given.write(tmp_path)
    values = json.loads((tmp_path / "export.json").read_text(encoding="utf-8"))
    assert list(values) == [
        *("name", "architecture", "encoder_params", "total_params", "macs_per_second"),
        *("dev_score", "how", "longest_seconds", "rows", "benchmark", "graph_errors"),
        *("int8_kept_in_fp32", "corpus", "weights", "updates", "commit", "machine"),
    ]
    assert values["rows"] == [row for row in facts()["rows"] if row["name"] == "2M"]
    assert values["benchmark"] == [row for row in facts()["benchmark"] if row["name"] == "2M"]
    assert values["int8_kept_in_fp32"] == facts()["int8_kept_in_fp32"]["2M"]
    assert ExportFacts.read(tmp_path) == given


def test_facts_before_anything_was_measured(tmp_path):
    ExportFacts(ENTRY, None).write(tmp_path)
    assert ExportFacts.read(tmp_path) == ExportFacts(ENTRY, None, None)
    (tmp_path / "export.json").write_text(json.dumps(ENTRY.as_dict()))
    assert ExportFacts.read(tmp_path) == ExportFacts(ENTRY, None, None)


def test_findings_are_written_as_they_were_read():
    values = {
        "key": {"model": "abc", "export.methods": ["greedy"]},
        **{key: facts()[key] for key in ("rows", "differences")},
        **{key: facts()[key]["2M"] for key in ("graph_errors", "int8_kept_in_fp32")},
    }
    assert json.dumps(Findings.from_dict(values).as_dict()) == json.dumps(values)


@pytest.mark.parametrize("mode, keys", [("offline", 0), ("streaming", 2)])
def test_keys_of_streaming_stand_in_rows_of_streaming_alone(mode, keys):
    """There even without a value: a model may recognise nothing."""
    row = BenchmarkRow("x", mode, "fp32", 1, 0.1, None, 1.0, 1.0, 1.0, 1.0, (0.1, 0.2), 3, 9.9)
    assert len({"first_token_ms", "algorithmic_ms"} & row.as_dict().keys()) == keys
    assert BenchmarkRow.from_dict(row.as_dict()) == row


def test_figures_without_a_first_token():
    values = {"real_time_factor": 0.1, "latency_ms": 2.0, "load_seconds": 3.0}
    figures = Figures.from_dict(values | {"model_mib": 4.0, "peak_mib": 5.0})
    assert figures == Figures(0.1, None, 2.0, 3.0, 4.0, 5.0)
    with pytest.raises(UserError, match="Figures.*peak_mib"):
        Figures.from_dict(values | {"model_mib": 4.0})


@pytest.mark.parametrize("left", ["", "[]", "null", '{"rows": [', "{}", '{"rows": [1]}'])
def test_damaged_files_are_named(tmp_path, left):
    path = tmp_path / "results.json"
    path.write_text(left)
    with pytest.raises(UserError, match=f"{path} is damaged: .*export it again"):
        ExportResults.read(tmp_path)
    (tmp_path / "export.json").write_text(left)
    with pytest.raises(UserError, match="export.json is damaged"):
        ExportFacts.read(tmp_path)


@pytest.mark.parametrize("values", [[], None, {}, {"rows": [1]}, facts() | {"rows": 3}])
@pytest.mark.parametrize("kind", [ExportResults, ExportFacts, Findings])
def test_damaged_values_are_a_users_error(kind, values):
    with pytest.raises(UserError, match="lacks? |damaged"):
        kind.from_dict(values)


def test_a_row_that_lacks_a_key_is_damaged(tmp_path):
    values = facts()
    del values["rows"][3]["words"]
    with pytest.raises(UserError, match="ClientRow.*words"):
        ExportResults.from_dict(values)
    assert ClientRow.from_dict(facts()["rows"][3] | {"newer": 1}).words == 80


def test_a_file_that_is_missing_stays_an_error_of_the_file_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        ExportResults.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_file(Path(tmp_path / "none"), Findings.from_dict)
