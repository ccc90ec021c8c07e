"""Corpora of other languages, spoken by espeak-ng, through stages 0 to 10."""

import json
from pathlib import Path

import pytest

from local.synthetic import Voice, speak_all
from tests.conftest import run_sh, tiny_arguments
from tests.deploy.test_export_stage import QUICK
from todm.config.keys import SyntheticConfig

CHINESE = [
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "\u6211\u60f3\u559d\u8336\uff01",
    "\u8bf7\u6253\u5f00\u7a97\u6237\u3002",
    "\u660e\u5929\u4f60\u53bb\u54ea\u91cc\uff1f",
]
FRENCH = [
    "Bonjour, o\u00f9 est l'h\u00f4tel\u00a0?",
    "J'ai d\u00e9j\u00e0 mang\u00e9 \u00e0 No\u00ebl.",
    "Gar\u00e7on, un caf\u00e9 !",
    "L'\u0153uvre est tr\u00e8s belle.",
    "C'est la for\u00eat d'\u00e0 c\u00f4t\u00e9.",
]


def speak_corpus(root: Path, language: str, texts: list[str]) -> None:
    """Splits of two, one and one talkers, who say all texts."""
    config = SyntheticConfig(seed=1)
    speakers = [("train", "m3"), ("train", "f2"), ("dev", "m7"), ("test", "f4")]
    tasks = [
        (config, Voice(i, language, variant, 50, 150), texts * 3, root / split / str(i) / "1")
        for i, (split, variant) in enumerate(speakers, 1)
    ]
    assert all(seconds > 10 for seconds in speak_all(tasks, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "language, texts, reference, words",
    [
        ("cmn", CHINESE, "\u4f60\u597d \u4e16\u754c", 3 * (4 + 6 + 4 + 5 + 6)),
        ("fr", FRENCH, "bonjour o\u00f9 est l'h\u00f4tel", 3 * (4 + 5 + 3 + 4 + 5)),
    ],
)
def test_a_corpus_of_another_language(tmp_path, language, texts, reference, words):
    """Punctuation is stripped. Chinese has more characters than tokens, and is scored by them."""
    speak_corpus(tmp_path / "corpus", language, texts)
    arguments = [a for a in tiny_arguments(tmp_path) if not a.startswith("synthetic")]
    output = run_sh(
        *("--stop-stage", "10"),
        *arguments,
        *(f"data.root={tmp_path / 'corpus'}", "data.train=[train]", "data.dev=[dev]"),
        *("data.test=[test]", "text.normalize=lower", "text.punctuation=strip"),
        "bpe.vocab_size=24",
        *QUICK,
    ).stdout
    assert "every character becomes a token" in output
    text = (tmp_path / "data/lang/transcript.txt").read_text()
    assert reference in text.splitlines()
    results = json.loads((tmp_path / "exp/results.json").read_text())
    assert all(row["words"] == words for row in results["results"])
    if language == "cmn":
        assert all(row["wer"] == row["cer"] for row in results["results"])
    report = (tmp_path / "exp/export/report.md").read_text()
    assert "fp32" in report
