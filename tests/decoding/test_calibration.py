import pytest

from tests.tables.made_up import made_entry, made_row
from todm.decoding.calibration import calibrate, describe_calibration
from todm.page.calibration_plot import draw_calibration
from todm.results.decode_results import DecodeRow
from utils.calibration import Bin, Calibration, calibration
from utils.scoring import score
from utils.text import TextForm

FOUND = Calibration((Bin(0, 0, 0.0), Bin(4, 3, 0.8)), 0.05, 0.25, 2)


def found(references: dict, words: dict, form: TextForm | None = None) -> Calibration | None:
    """The calibration of utterances of which these words were recognised."""
    form = form or TextForm()
    texts = {name: " ".join(word for word, _ in said) for name, said in words.items()}
    return calibrate(score(references, texts, form).alignments, words, form)


def test_words_are_right_where_the_alignment_has_them():
    """An inserted and a substituted word are wrong; one that is left out has no confidence."""
    references = {"a": "the cat sat on it", "b": "yes"}
    words = {"a": [("the", 0.9), ("hat", 0.3), ("sat", 0.7), ("oh", 0.2), ("on", 0.8)], "b": []}
    expected = [(0.9, True), (0.3, False), (0.7, True), (0.2, False), (0.8, True)]
    assert found(references, words) == calibration(expected)


def test_words_count_as_they_are_scored():
    """Without case and punctuation; a character of a script without spaces is a word."""
    form = TextForm("lower", True)
    words = {"a": [("The", 0.9), ("-", 0.5), ("CAT,", 0.4)], "b": [("\u6211\u7528", 0.6)]}
    references = {"a": "the cat", "b": "\u6211\u5728"}
    expected = [(0.9, True), (0.4, True), (0.6, True), (0.6, False)]
    assert found(references, words, form) == calibration(expected)


def test_words_that_are_not_those_of_the_text_are_left_out_and_counted():
    references = {"a": "one two", "b": "three"}
    alignments = score(references, {"a": "one two", "b": "three"}).alignments
    words = {"a": [("onetwo", 0.5)], "b": [("three", 0.75)]}
    assert calibrate(alignments, words, TextForm()) == calibration([(0.75, True)], left_out=1)


def test_nothing_recognised_has_no_calibration():
    assert found({"a": "one"}, {"a": []}) is None


def test_the_description_has_every_bin_and_what_is_left_out():
    text = describe_calibration("dev-small-greedy", FOUND)
    assert "calibration error: 0.0500" in text and "cross entropy: 0.2500" in text
    assert "| 0.5 to 1.0 | 4     | 0.800           | 0.750       |" in text
    assert "| 0.0 to 0.5 | 0     |                 |             |" in text
    assert "2 words are left out" in text


def test_results_keep_it_and_older_ones_have_none():
    row = made_row(made_entry("h0f0 -"), "dev", 5)
    assert "calibration" not in row.as_dict() and "oracle_wer" not in row.as_dict()
    assert DecodeRow.from_dict(row.as_dict()) == row
    values = row.as_dict() | {"oracle_wer": 1.5, "calibration": FOUND.as_dict()}
    kept = DecodeRow.from_dict(values)
    assert (kept.calibration, kept.oracle_wer) == (FOUND, 1.5) and kept.as_dict() == values


def test_the_picture_has_a_line_for_every_net_and_the_diagonal():
    rows = [
        DecodeRow.from_dict(
            made_row(made_entry("h0f0 -", name=name), "dev", 5).as_dict()
            | {"calibration": FOUND.as_dict()}
        )
        for name in ("small", "<b>")
    ]
    diagonal, small, odd = draw_calibration([*rows, made_row(made_entry("- -"), "test", 5)])["data"]
    assert diagonal["x"] == diagonal["y"] == [0, 1]
    assert (small["x"], small["y"], small["customdata"]) == ([0.8], [0.75], [["small", 4]])
    assert odd["name"] == "&lt;b&gt;"
    assert draw_calibration([made_row(made_entry("- -"), "dev", 5)]) is None


@pytest.mark.parametrize("field", ["ece", "items", "confidence"])
def test_damaged_results_are_refused(field):
    values = {k: v for k, v in FOUND.as_dict().items() if k != field}
    with pytest.raises(KeyError):
        Calibration.from_dict(values)
