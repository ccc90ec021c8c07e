"""The lists of stages and confs that ``./run.sh --help`` prints: ``python -m todm.recipe.help``."""

from todm.config.keys import CONFS
from todm.recipe.stages import STAGES


def describe() -> str:
    """Every stage with what it reads and writes, and every conf with its first line."""
    lines = ["Stages (NAME is the conf's name):"]
    folders = {"data": "data/NAME", "exp": "exp/NAME"}
    for number, stage in STAGES.items():
        lines += [
            f"  {number:2d}  {stage.title}",
            f"        reads  {stage.reads.format(**folders)}",
            f"        writes {stage.writes.format(**folders)}",
        ]
    lines.append("\nConfs (egs/librispeech/todm/conf):")
    for path in sorted(CONFS.rglob("*.yaml"), key=lambda p: (len(p.parts), p)):
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"  conf/{str(path.relative_to(CONFS)):31s} {first}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
