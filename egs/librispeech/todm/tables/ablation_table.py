"""Table (b): the full method beside variants of it that lack or replace one part."""

from todm.config.keys import Config
from todm.tables.cells import difference_cell, rate_cell
from todm.tables.evidence import Evidence, System
from todm.tables.runs import INDIVIDUAL, SUPERNET
from utils.text import markdown_table


def finished_ablations(config: Config, evidence: Evidence) -> list[str]:
    """The variants of this table that have run."""
    others = {SUPERNET, *(s.name for s in config.tables.selections)}
    return [v for v in evidence.variants() if v not in others and not v.startswith(INDIVIDUAL)]


def ablation_table(evidence: Evidence, names: list[str]) -> str:
    """The table in Markdown.

    Rows: variants. Columns: the largest, a middle and the smallest net on every split, with the
    difference to the full method.
    """
    nets = sorted(
        {str(row.entry.subnet) for name in names for r in evidence.of(name) for row in r.rows},
        key=lambda net: -evidence.size(net),
    )
    rows = []
    for split, _ in evidence.splits:
        for variant in [SUPERNET, *names]:
            setting = evidence.tuned_setting(variant)
            title = variant + (f" ({setting})" if setting else "")
            for net in nets:
                system, full = System(variant, setting, net), evidence.supernet(net)
                compared = variant != SUPERNET
                difference = evidence.difference(system, full, split) if compared else None
                rows.append(
                    [
                        split,
                        title if compared else "full method",
                        f"{evidence.size(net) / 1e6:.2f}M",
                        rate_cell(evidence, system, split),
                        difference_cell(difference),
                    ]
                )
    titles = ["split", "variant", "encoder", "WER %", "variant - full"]
    return markdown_table(titles, rows) + "\n\n![training curves](curves.png)"
