"""The analysis of errors, on alignments whose counts are worked out by hand."""

from utils.error_analysis import by_part, by_speaker, describe_errors
from utils.scoring import score

REFERENCES = {"a-1": "one two three four five", "a-2": "one two", "b-1": "six", "b-2": ""}
HYPOTHESES = {"a-1": "one too four five six", "a-2": "one too", "b-1": "six", "b-2": "oh"}
SPEAKERS = {"a-1": "a", "a-2": "a", "b-1": "b", "b-2": "b"}


def test_errors_by_place():
    """ONE is always right; TWO is in the second fifth of five words and in the third of two; THREE
    is deleted; SIX comes after the last word, and OH where there is none."""
    parts = by_part(score(REFERENCES, HYPOTHESES).alignments)
    assert [part["words"] for part in parts] == [3, 1, 2, 1, 1]
    assert [part["right"] for part in parts] == [3, 0, 0, 1, 1]
    assert [part["substituted"] for part in parts] == [0, 1, 1, 0, 0]
    assert [part["deleted"] for part in parts] == [0, 0, 1, 0, 0]
    assert [part["inserted"] for part in parts] == [1, 0, 0, 0, 1]


def test_errors_by_speaker_the_worst_first():
    """a: four errors in seven words; b: one in one."""
    speakers = by_speaker(score(REFERENCES, HYPOTHESES).alignments, SPEAKERS)
    assert list(speakers) == ["b", "a"]
    assert dict(speakers["b"]) == {"right": 1, "inserted": 1, "words": 1}
    assert dict(speakers["a"]) == {
        "right": 4,
        "substituted": 2,
        "deleted": 1,
        "inserted": 1,
        "words": 7,
    }


def test_the_text_has_all_of_it():
    text = describe_errors("dev-1M-greedy", score(REFERENCES, HYPOTHESES), SPEAKERS)
    assert "62.50 % WER: 5 errors in 8 words, of which 2 are substituted, 1 deleted" in text
    assert "| two | too | 2 | 2 |" in text
    assert (
        "| 3 of 5 | 2 | 1 | 1 | 0 | 100.0 |" in text and "| 4 of 5 | 1 | 0 | 0 | 0 | 0.0 |" in text
    )
    assert "| a | 7 | 2 | 1 | 1 | 57.1 |" in text
    assert "- `a-1` one **[two / too]** **[three / \u2013]** four five **[\u2013 / six]**" in text


def test_only_some_transcripts_and_confusions_are_shown():
    references = {f"u-{i:02}": f"w{i}" for i in range(50)}
    hypotheses = dict.fromkeys(references, "x|y")
    text = describe_errors("dev", score(references, hypotheses), dict.fromkeys(references, "s"))
    assert text.count("- `u-") == 20 and text.count(r"| x\|y | 1 | 1 |") == 10


def test_nothing_said_and_nothing_recognised():
    text = describe_errors("dev", score({"a": ""}, {"a": ""}), {"a": "s"})
    assert "0.00 % WER: 0 errors in 0 words" in text and "| s | 0 | 0 | 0 | 0 | 0.0 |" in text
