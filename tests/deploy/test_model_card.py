"""Model cards and the table of exported subnets, against whole texts."""

from pathlib import Path

import pytest

from tests.deploy.export_facts import OFFLINE, STREAMING, facts
from tests.helpers import tiny_config
from todm.deploy import deploy_report, model_card
from todm.results.export_results import ExportResults
from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet

EXPECTED = Path(__file__).parent / "expected"
ENTRY = SubnetEntry("2M", Subnet.parse("h0,2f1,3 f2 h1"), 1234567, 2345678, 34567890, "by hand")
CTC = ["loss.objective=ctc", "loss.ctc_weight=1"]
CAUSAL = "model.direction=causal"


def card(nets: list[tuple[str, str]], *overrides: str, **changes) -> str:
    """The card of the larger subnet of a conf with ``overrides``, some facts being others."""
    results = ExportResults.from_dict(facts(nets) | changes)
    return model_card.card(ENTRY, results, tiny_config("export.chunk_frames=32", *overrides))


@pytest.mark.parametrize(
    "kind, nets, overrides",
    [("offline", OFFLINE, []), ("streaming", STREAMING, [CAUSAL]), ("ctc", OFFLINE, CTC)],
)
def test_a_card_is_what_it_was(kind, nets, overrides):
    assert card(nets, *overrides) == (EXPECTED / f"card-{kind}.md").read_text(encoding="utf-8")


def test_a_causal_ctc_model_is_not_said_to_stream():
    text = card(OFFLINE, CAUSAL, *CTC)
    assert "A causal MH-SSM CTC model" in text and "treaming" not in text


def test_where_nothing_is_recognised_no_first_token_has_a_latency():
    silent = [row | {"first_token_ms": None} for row in facts()["benchmark"][2:3]]
    changed = [*facts()["benchmark"][:2], *silent, *facts()["benchmark"][3:]]
    (line,) = [
        line
        for line in card(STREAMING, CAUSAL, benchmark=changed).splitlines()
        if line.startswith("| first token after, ms")
    ]
    assert [cell.strip() for cell in line.strip("|").split("|")][1:] == ["", "", "", "402"]


def test_results_without_the_number_of_pieces_have_that_of_the_conf():
    """Those of earlier versions."""
    asked = tiny_config().bpe.vocab_size
    assert asked != facts()["pieces"]
    assert f"BPE of {asked} pieces" in card(OFFLINE, pieces=None)


def test_the_report_is_what_it_was():
    text = deploy_report.report(ExportResults.from_dict(facts()))
    assert text == (EXPECTED / "report-streaming.md").read_text(encoding="utf-8")
