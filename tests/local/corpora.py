"""Small helpers for corpora in tests."""

from pathlib import Path

from lhotse import MonoCut

from local.dropped import Dropped
from local.examination import Examination
from local.prepare_manifests import scan_split


def scanned(root: Path, split: str, verify: bool) -> tuple[list[MonoCut], list[Dropped]]:
    """What stage 1 makes of a split in LibriSpeech layout, in one process."""
    return scan_split(root / split, split, Examination(verify, root / "converted"), 1)
