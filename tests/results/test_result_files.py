"""Results, records and searches are read as values and written back to the byte."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from todm.results.decode_results import RunResults, read_results
from todm.results.records import Record, RunJob, RunPlan
from todm.results.search_results import SearchResults
from utils.errors import UserError
from utils.files import read_json, write_json_atomic


def kind_of(content: dict) -> type | None:
    """The kind of value that a JSON file holds, by its keys."""
    if "results" in content:
        return Record if "variant" in content else RunResults
    return SearchResults if "candidates" in content else None


COMMITTED = {
    path: kind
    for path in sorted((ROOT / "results").rglob("*.json"))
    if (kind := kind_of(read_json(path)))
}
DECODED = ROOT / "results" / "mini.json"


def test_every_kind_of_file_is_among_the_committed_ones():
    kinds = list(COMMITTED.values())
    assert COMMITTED[DECODED] is RunResults
    assert kinds.count(Record) >= 50 and kinds.count(SearchResults) >= 2


@pytest.mark.parametrize("kind", [Record, RunResults, SearchResults])
def test_a_committed_file_is_written_back_to_the_byte(kind, tmp_path):
    for path in (path for path, other in COMMITTED.items() if other is kind):
        write_json_atomic(tmp_path / "copy.json", kind.from_dict(read_json(path)).as_dict())
        assert (tmp_path / "copy.json").read_bytes() == path.read_bytes(), path


def test_infinite_rates_survive(tmp_path):
    """WER is infinite where the references have no words."""
    content = read_json(DECODED)
    content["results"][0]["wer"] = float("inf")
    RunResults.from_dict(content).write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json").rows[0].wer == float("inf")
    assert read_json(tmp_path / "results.json") == content


def test_a_missing_file_names_the_stage(tmp_path):
    with pytest.raises(UserError, match="stage 6 makes it: ./run.sh --stage 6"):
        read_results(tmp_path / "results.json")


def without(*keys: str):
    """A change of results that deletes a key of the first row, or of the whole."""

    def change(content: dict) -> None:
        for key in keys:
            inner = content if key in content else content["results"][0]
            del inner[key]

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (without("corpus"), "lack 'corpus'"),
        (without("split"), "lack 'split'"),
        (without("architecture"), "lacks 'architecture'"),
        (lambda content: content.update(results=[]), "no row"),
        (lambda content: content.update(largest="nonsense"), "damaged"),
        (lambda content: content["results"][0].update(utterance_errors="1 x"), "damaged"),
        (lambda content: content.update(utterances=None), "damaged"),
    ],
)
def test_damaged_results_are_told_with_their_file(change, message, tmp_path):
    content = read_json(DECODED)
    change(content)
    path = tmp_path / "results.json"
    write_json_atomic(path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"variant": "supernet"}'])
def test_a_damaged_record_is_told_with_its_file(text, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(UserError, match="record.json"):
        Record.read(path)


def test_a_job_is_read_back(tmp_path):
    plan = RunPlan("Adam-seed1", "Adam", "train.lr=1", "dev", 2, {"train.lr": 1.0}, "python")
    job = RunJob("conf/mini.yaml", ("a=1", "b=2"), ("h0f0 -",), "records/Adam.json", plan)
    job.write(tmp_path / "run.json")
    assert RunJob.read(tmp_path / "run.json") == job
    assert list(json.loads((tmp_path / "run.json").read_text())) == [
        "conf",
        "overrides",
        "nets",
        "record",
        "facts",
    ]


def test_reading_results_imports_neither_torch_nor_numpy():
    """The end of run.sh and a device read them."""
    folder = ROOT / "egs/librispeech/todm/results"
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    imports = "; ".join(f"import todm.results.{name}" for name in names)
    code = (
        f"import sys; {imports}; print('heavy:', {{'torch', 'numpy', 'lhotse'}} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert printed.stdout.strip() == "heavy: set()" and "records" in names, printed.stderr
