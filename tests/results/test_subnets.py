"""subnets.json: read as it was written, its names made distinct, and damage told in a sentence."""

import json

import pytest

from todm.results.subnets import SubnetEntry, read_subnets, write_subnets
from todm.subnet import Subnet
from utils.errors import UserError

ENTRY = SubnetEntry("0.01M", Subnet.parse("h0f0-1 -"), 9000, 12000, 500_000, "by hand")


def test_equal_names_are_made_distinct_and_what_is_written_is_read(tmp_path):
    path = tmp_path / "subnets.json"
    written = write_subnets(path, "uniform", [ENTRY, ENTRY], [ENTRY])
    assert [entry.name for entry in written] == ["0.01M", "0.01M-2", "0.01M-3"]
    assert read_subnets(path) == written[:2] and read_subnets(path, baselines=True) == written
    content = json.loads(path.read_text())
    assert content["method"] == "uniform" and content["baselines"][0]["architecture"] == "h0f0-1 -"
    assert "budget" not in content["subnets"][0] and content["subnets"][0]["dev_score"] is None


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"method": "uniform", "subn', "Unterminated string"),
        ("[]", "TypeError"),
        ("{}", "subnets"),
        ('{"subnets": []}', "has no subnet"),
        ('{"subnets": [{"name": "x"}]}', "'x' lacks 'architecture'"),
        (json.dumps({"subnets": [ENTRY.as_dict() | {"encoder_params": "x"}]}), "'x'"),
        (json.dumps({"subnets": [ENTRY.as_dict() | {"architecture": "h"}]}), "not a block"),
    ],
)
def test_damage_is_a_sentence_that_names_the_stage(tmp_path, text, reason):
    path = tmp_path / "subnets.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"{path} .*{reason}.*--stage 5 --stop-stage 5 --force"):
        read_subnets(path)
