"""Small helpers for messages."""


def first_line(error: BaseException) -> str:
    """An exception's type and the first line of its text, which may be empty."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
