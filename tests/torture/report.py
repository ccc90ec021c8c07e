"""The table of a torture: tried, survived, lost."""


def table(result: dict) -> str:
    """A Markdown table with a row for every section that was run."""
    rows = [
        "| section | tried | survived | lost | minutes | commit |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, section in result["sections"].items():
        tried = len(section["trials"])
        survived = sum(trial["survived"] for trial in section["trials"])
        short = " (short form)" if section["short"] else ""
        rows.append(
            f"| {name}{short} | {tried} | {survived} | {tried - survived} "
            f"| {section['seconds'] / 60:.1f} | {section['commit']} |"
        )
    return "\n".join(rows)


def lost_list(section: dict) -> list[str]:
    """A line for every trial of a section that was lost."""
    return [
        f"- {trial['what']}: {trial['found']}"
        for trial in section["trials"]
        if not trial["survived"]
    ]
