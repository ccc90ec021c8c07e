"""Made-up subnets for the tests of tables."""

from typing import Any

from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet


def made_entry(net: str, encoder_params: int = 300_000, **values: Any) -> SubnetEntry:
    """The entry of an architecture, named by it.

    Args:
      values: other attributes of the entry.
    """
    given = {"name": net, "total_params": encoder_params, "macs_per_second": 1, "how": ""} | values
    return SubnetEntry(subnet=Subnet.parse(net), encoder_params=encoder_params, **given)
