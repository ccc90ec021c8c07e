"""Texts in other forms, and what is counted of them, by hand."""

import pytest

from utils.scoring import score
from utils.text import TextForm, scored_units


@pytest.mark.parametrize(
    "text, stripped",
    [
        ("Don't stop, it's 5 o\u2019clock!", "Don't stop it's 5 o'clock"),
        ("'quoted' \u201cword\u201d", "quoted word"),
        ("well-known\u2014really?", "well known really"),
        ("\u00bfQu\u00e9? l'eau", "Qu\u00e9 l'eau"),
        ("50 % of $3+", "50 of $3+"),
        ("\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u4f60\u597d \u4e16\u754c"),
        ("...", ""),
        ("rock 'n' roll", "rock n roll"),
    ],
)
def test_punctuation_goes(text, stripped):
    form = TextForm(strip_punctuation=True)
    assert form(text) == stripped == form(stripped)


@pytest.mark.parametrize(
    "case, text, expected",
    [
        ("none", "Stra\u00dfe", "Stra\u00dfe"),
        ("upper", "Stra\u00dfe \u00e9t\u00e9", "STRASSE \u00c9T\u00c9"),
        ("lower", "STRASSE \u00c9T\u00c9", "strasse \u00e9t\u00e9"),
        ("lower", "\u0130", "i\u0307"),  # a capital i with a dot is two characters in lower case
    ],
)
def test_case(case, text, expected):
    form = TextForm(case)
    assert form(text) == expected == form(expected)


@pytest.mark.parametrize(
    "text, units",
    [
        ("the cat's mat", ["the", "cat's", "mat"]),
        ("\u4f60\u597d\u4e16\u754c", ["\u4f60", "\u597d", "\u4e16", "\u754c"]),
        (
            "\u6211\u7528iPhone 15\u624b\u673a",
            ["\u6211", "\u7528", "iPhone", "15", "\u624b", "\u673a"],
        ),
        ("\u304c\u3063\u3053\u3046", ["\u304c", "\u3063", "\u3053", "\u3046"]),
        ("\u0e01\u0e34\u0e19", ["\u0e01\u0e34", "\u0e19"]),  # a vowel above stays with its letter
        ("\ud55c\uad6d \uc0ac\ub78c", ["\ud55c\uad6d", "\uc0ac\ub78c"]),  # Korean has spaces
        ("  ", []),
    ],
)
def test_what_counts(text, units):
    assert scored_units(text) == units


def test_chinese_has_a_character_error_rate():
    """One of four characters is wrong, one is inserted; spaces count for nothing."""
    errors = score({"u": "\u4f60\u597d\u4e16\u754c"}, {"u": "\u4f60 \u597d\u4e16\u5bb6\u54e6"})
    assert (errors.words, errors.substitutions, errors.insertions) == (4, 1, 1)
    assert errors.wer == errors.cer == 50.0


def test_words_and_characters_of_english():
    """One of two words; one of its characters, of nine in all."""
    errors = score({"u": "hello cats"}, {"u": "hello cars"})
    assert errors.wer == 50.0 and errors.cer == pytest.approx(100 / 9)


def test_case_and_punctuation_can_be_left_out_of_account():
    references, hypotheses = {"u": "Don't stop, Ann!"}, {"u": "DON'T STOP Ann"}
    assert score(references, hypotheses).total == 3
    assert score(references, hypotheses, TextForm("lower")).total == 2
    assert score(references, hypotheses, TextForm("lower", True)).total == 0
