"""Lists of subnets that were made to write elsewhere or to fill the memory."""

import json

import pytest

from todm.results.subnets import read_subnets
from todm.subnet import MOST_PARTS, Subnet
from utils.errors import UserError

ENTRY = {"encoder_params": 1, "total_params": 1, "macs_per_second": 1, "how": "x"}


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", "..", "a/b", "a\0b"])
def test_a_subnet_whose_name_would_be_a_path(tmp_path, name):
    """Stages 6 and 10 call files and folders by it."""
    entry = ENTRY | {"name": name, "architecture": "h0f0"}
    (tmp_path / "subnets.json").write_text(json.dumps({"subnets": [entry]}))
    with pytest.raises(UserError, match="names folders"):
        read_subnets(tmp_path / "subnets.json")


@pytest.mark.parametrize("text", ["h0-999999999999", "h0-99999f0-99999 " * 1000])
def test_a_subnet_of_more_parts_than_any_net_has(text):
    with pytest.raises(ValueError, match="is not a list of indices|more than"):
        Subnet.parse(text)
    assert len(Subnet.parse(f"h0-{MOST_PARTS - 1}").blocks[0].heads) == MOST_PARTS
