"""Table (a): size against WER, the subnets of one supernet beside models trained alone."""

from todm.tables.cells import difference_cell, rate_cell
from todm.tables.evidence import Evidence
from todm.tables.runs import INDIVIDUAL, SAME
from utils.statistics import Difference
from utils.text import markdown_table

TITLES = [
    "budget",
    "encoder",
    "split",
    "supernet",
    "alone, same settings",
    "alone, tuned on dev",
    "tuned to",
    "supernet - same",
    "supernet - tuned",
]
PAPER = (
    "The paper (LibriSpeech 960 h, its own sizes and hardware) reports subnets that match or beat "
    "individually tuned models of the "
    "same size by up to 3 % relative WER, for about the cost of one training."
)


def size_table(evidence: Evidence) -> str:
    """The table in Markdown.

    Rows: sizes and splits. Columns: the supernet's subnet, the model trained alone with the same
    settings, the one tuned on dev, and the differences.
    """
    rows: list[list[str]] = []
    against_tuned: list[tuple[str, str, tuple[Difference, int] | None]] = []
    for budget in evidence.budgets():
        setting = evidence.tuned_setting(f"{INDIVIDUAL} {budget}")
        same, tuned = evidence.alone(budget, SAME), evidence.alone(budget, setting)
        subnet = evidence.supernet(same.net)
        for split, role in evidence.splits:
            against_same = evidence.difference(subnet, same, split)
            against = evidence.difference(subnet, tuned, split)
            if role == "test":
                against_tuned.append((budget, split, against))
            rows.append(
                [
                    budget,
                    f"{evidence.size(same.net) / 1e6:.2f}M",
                    split,
                    *(rate_cell(evidence, system, split) for system in (subnet, same, tuned)),
                    setting or "the same",
                    difference_cell(against_same),
                    difference_cell(against),
                ]
            )
    ours = "; ".join(
        f"{budget} on {split}: {found[0].relative:+.1f} %"
        for budget, split, found in against_tuned
        if found
    )
    return (
        f"{markdown_table(TITLES, rows)}\n\n{PAPER} Here corpus, sizes and updates are far "
        "smaller (see the header), and the supernet's "
        f"WER differs from the tuned models' by, relative: {ours or 'not run'}.\n\n![WER against "
        "size](wer-against-size.png)"
    )
