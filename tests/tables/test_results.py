"""The tables that the repository shows are those that its records give."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from todm.config.keys import CONFS
from todm.config.load import load
from todm.tables.evidence import Evidence
from todm.tables.runs import Records
from todm.tables.table_report import kept_search, make_csv, make_tables

RESULTS = {
    path.stem: ROOT / (load(path).tables.records or "none")
    for path in sorted((CONFS / "tables").glob("*.yaml"))
}
SHOWN = [name for name, folder in RESULTS.items() if (folder / "tables.md").is_file()]


def without_resampling(text: str) -> str:
    """A table without what another version of numpy or scipy may draw differently: intervals, p,
    padding."""
    return re.sub(r"[ -]+", " ", re.sub(r"\[[^]]*\]|p \d\.\d+\*?", "", text))


def with_kept_pictures(text: str, folder: Path) -> str:
    """A table without the pictures that the repository does not keep: it has one for each table."""
    pictures = re.compile(r"!\[[^]]*\]\(([^)]*)\)\n")
    return pictures.sub(lambda m: m[0] if (folder / m[1]).is_file() else "", text)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_tables_are_made_from_the_records(name):
    folder, config = RESULTS[name], load(f"conf/tables/{name}.yaml")
    evidence = Evidence(Records(folder / "records").all(), config.tables.seeds[0])
    made = with_kept_pictures(make_tables(config, evidence, kept_search(folder)), folder)
    shown = (folder / "tables.md").read_text()
    assert without_resampling(made) == without_resampling(shown)
    assert make_csv(evidence) == (folder / "runs.csv").read_text()


@pytest.mark.parametrize("name", SHOWN)
def test_wer_of_a_record_is_that_of_its_utterances(name):
    for record in Records(RESULTS[name] / "records").all():
        for row in record.rows:
            words = sum(record.utterances[row.split].words)
            assert words == row.words and sum(row.utterance_errors) == row.errors
            assert row.wer == pytest.approx(100 * row.errors / words, abs=1e-3)
