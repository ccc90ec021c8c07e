"""Made-up subnets, results and records.

Every split is 8 utterances of 4 speakers and 100 words, so that WERs are numbers of errors; all
speakers have 25 words.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from todm.results.decode_results import DecodeRow, RunFacts, RunResults, SplitUtterances
from todm.results.records import Curve, Record, RunJob, RunPlan
from todm.results.subnets import SubnetEntry
from todm.subnet import Subnet

LARGEST = "h0-2f0-3 h0-2f0-3"


def made_entry(net: str, encoder_params: int = 300_000, **values: Any) -> SubnetEntry:
    """The entry of an architecture, named by it.

    Args:
      values: other attributes of the entry.
    """
    given = {"name": net, "total_params": encoder_params, "macs_per_second": 1, "how": ""} | values
    return SubnetEntry(subnet=Subnet.parse(net), encoder_params=encoder_params, **given)


def made_row(
    entry: SubnetEntry, split: str, errors: int, method: str = "greedy", wer: float | None = None
) -> DecodeRow:
    """The result of a net on a split that is its own role: as many substitutions, spread over the
    utterances as evenly as they can be."""
    return DecodeRow(
        entry,
        split,
        split,
        method,
        float(errors) if wer is None else wer,
        substitutions=errors,
        insertions=0,
        deletions=0,
        words=100,
        utterances=8,
        audio_seconds=40.0,
        real_time_factor=0.01,
        utterance_errors=tuple(errors // 8 + (i < errors % 8) for i in range(8)),
    )


def made_results(rows: Iterable[DecodeRow], seed: int = 1, hours: float = 1.0) -> RunResults:
    """The results of a training that took so many hours."""
    run = RunFacts(
        name="tiny",
        corpus="made up",
        weights="update 100",
        updates=100,
        audio_hours_trained=3.0,
        training_seconds=round(3600 * hours),
        seed=seed,
        largest=Subnet.parse(LARGEST),
        machine="a machine",
        torch="2",
        commit="abc",
        command="./run.sh",
    )
    utterances = SplitUtterances(tuple("aabbccdd"), (12, 13) * 4)
    return RunResults(run, {"dev": utterances, "test": utterances}, tuple(rows))


def made_record(
    variant: str,
    setting: str,
    seed: int,
    rows: Iterable[DecodeRow],
    hours: float = 1.0,
    conf: dict[str, Any] | None = None,
) -> Record:
    """The record of a training on 2 processes that took so many hours."""
    plan = RunPlan(f"{variant} {setting} {seed}", variant, setting, "", 2, conf or {}, "./run.sh")
    curves = {"dev loss per frame/largest": Curve((1, 2), (0.5, 0.25))}
    return Record(plan, made_results(rows, seed, hours), curves)


def run_job(record: Path, *nets: str) -> RunJob:
    """The job of a run whose record goes to a path; none of ``nets``: those that it selected."""
    plan = RunPlan("run", "variant", "", "", 1, {}, "./run.sh")
    return RunJob("conf/mini.yaml", (), nets, str(record), plan)
