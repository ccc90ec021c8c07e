"""Small helpers for messages, names and tables."""

import re


def file_name(text: str) -> str:
    """Words joined by hyphens, without what a file name had better not have: ``max + random`` -> ``max-random``."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)


def first_line(error: BaseException) -> str:
    """An exception's type and the first line of its text, which may be empty."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def markdown_table(titles: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A table in Markdown, its columns padded. The first ``left`` columns are aligned to the left, the others to the right."""
    rule = ["---" if i < left else "---:" for i in range(len(titles))]
    lines = [titles, rule, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    return "\n".join("| " + " | ".join(text.ljust(w) for text, w in zip(line, widths)) + " |" for line in lines)
