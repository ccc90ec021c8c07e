"""The importance of every unit over the updates of step 1, as lines of JSON; imports no torch."""

import json
from pathlib import Path

SCORES = "scores.jsonl"


def selection_folder(exp: Path) -> Path:
    """The folder of an experiment's files of learned selection."""
    return exp / "selection"


def append_scores(exp: Path, update: int, importance: list[float]) -> None:
    """Add a line with the importance of every unit. A resumed training may write an update twice;
    the later line counts."""
    path = selection_folder(exp) / SCORES
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(
            json.dumps({"update": update, "scores": [round(v, 4) for v in importance]}) + "\n"
        )


def read_scores(exp: Path) -> tuple[list[int], list[list[float]]]:
    """The updates that the file has a line of, and the importance of every unit at each."""
    path = selection_folder(exp) / SCORES
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found: dict[int, list[float]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a killed training's last line
        found[entry["update"]] = entry["scores"]
    updates = sorted(found)
    return updates, [found[u] for u in updates]
