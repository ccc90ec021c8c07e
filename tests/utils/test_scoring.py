import random
from collections import Counter

import kaldialign
import pytest

from utils.scoring import GAP, Errors, score, write_errs, write_recogs

REFERENCES = {"u2": "the cat sat on the mat", "u1": "a b c", "u3": "yes"}
HYPOTHESES = {"u1": "a x c d", "u2": "the cat on the mat", "u3": "yes"}


@pytest.mark.parametrize(
    "reference, hypothesis, substitutions, insertions, deletions",
    [
        ("a b c", "a b c", 0, 0, 0),
        ("a b c", "a x c", 1, 0, 0),
        ("a b c", "a b c d", 0, 1, 0),
        ("a b c", "a c", 0, 0, 1),
        ("a b c", "", 0, 0, 3),
        ("", "a b", 0, 2, 0),
        ("a  b", " a b ", 0, 0, 0),
        ("*", "*", 0, 0, 0),
        ("five * six", "five * six", 0, 0, 0),
        ("* a", "a", 0, 0, 1),
        ("a", "a *", 0, 1, 0),
        ("* b", "c b", 1, 0, 0),
        ("a b", "* b", 1, 0, 0),
        ("-", "- **", 0, 1, 0),
    ],
)
def test_counts_by_hand(reference, hypothesis, substitutions, insertions, deletions):
    errors = score({"u": reference}, {"u": hypothesis})
    assert (errors.substitutions, errors.insertions, errors.deletions) == (
        substitutions,
        insertions,
        deletions,
    )
    assert (
        errors.words == len(reference.split())
        and errors.total == substitutions + insertions + deletions
    )


def test_counts_and_rate_of_a_set():
    """One substitution and one insertion in u1, one deletion in u2, of 10 words; of 3, 17 and 3
    characters."""
    errors = score(REFERENCES, HYPOTHESES)
    assert errors.counts() == {
        "wer": 30.0,
        "cer": 21.739,  # 5 of 23: b is x, d is new, and sat is gone
        "substitutions": 1,
        "insertions": 1,
        "deletions": 1,
        "words": 10,
    }
    wrong = Counter({pair: n for pair, n in errors.pairs.items() if pair[0] != pair[1]})
    assert wrong == {("b", "x"): 1, (GAP, "d"): 1, ("sat", GAP): 1}


def test_totals_are_edit_distances():
    rng = random.Random(0)
    for _ in range(100):
        reference, hypothesis = (
            [rng.choice("abc") for _ in range(rng.randrange(12))] for _ in range(2)
        )
        errors = score({"u": " ".join(reference)}, {"u": " ".join(hypothesis)})
        assert errors.total == kaldialign.edit_distance(reference, hypothesis)["total"]
        assert errors.insertions - errors.deletions == len(hypothesis) - len(reference)


@pytest.mark.parametrize("insertions, rate", [(0, 0.0), (2, float("inf"))])
def test_rate_without_reference_words(insertions, rate):
    assert Errors(0, insertions, 0, 0, {}).wer == rate


@pytest.mark.parametrize(
    "references, hypotheses", [({"a": "", "b": ""}, {"a": ""}), ({"a": ""}, {"a": "", "b": ""})]
)
def test_utterances_must_be_the_same(references, hypotheses):
    with pytest.raises(ValueError, match="different utterances.*'b'"):
        score(references, hypotheses)


def test_errs_file(tmp_path):
    path = tmp_path / "errs.txt"
    write_errs(path, "test", score(REFERENCES, HYPOTHESES))
    assert path.read_text().splitlines() == [
        "%WER of test: 30.00 [3 / 10, 1 ins, 1 del, 1 sub]",
        "",
        "PER-UTT DETAILS: (ref->hyp) marks an error",
        "u1:\ta (b->x) c (*->d)",
        "u2:\tthe cat (sat->*) on the mat",
        "u3:\tyes",
        "",
        "SUBSTITUTIONS: count ref -> hyp",
        "1\tb -> x",
        "",
        "DELETIONS: count ref",
        "1\tsat",
        "",
        "INSERTIONS: count hyp",
        "1\td",
    ]


def test_errs_file_with_asterisks_as_words(tmp_path):
    """A gap is shown as an asterisk, as icefall does; a word that is one is not counted as a
    gap."""
    references, hypotheses = (
        {"a": "two * two", "b": "*", "c": "x"},
        {"a": "two * two", "b": "y", "c": "x *"},
    )
    write_errs(tmp_path / "errs", "t", score(references, hypotheses))
    lines = (tmp_path / "errs").read_text().splitlines()
    assert lines[0] == "%WER of t: 40.00 [2 / 5, 1 ins, 0 del, 1 sub]"
    assert lines[3:6] == ["a:\ttwo * two", "b:\t(*->y)", "c:\tx (*->*)"]
    assert lines[lines.index("SUBSTITUTIONS: count ref -> hyp") + 1] == "1\t* -> y"
    assert lines[lines.index("INSERTIONS: count hyp") + 1] == "1\t*"


def test_most_frequent_errors_come_first(tmp_path):
    references = {str(i): w for i, w in enumerate("a b b b a".split())}
    hypotheses = {str(i): w for i, w in enumerate("x y y y x".split())}
    write_errs(tmp_path / "errs", "t", score(references, hypotheses))
    lines = (tmp_path / "errs").read_text().splitlines()
    assert lines.index("3\tb -> y") + 1 == lines.index("2\ta -> x")


def test_recogs_file(tmp_path):
    write_recogs(tmp_path / "recogs", {"b": "x y", "a": "z"}, {"a": "", "b": "x"})
    assert (
        tmp_path / "recogs"
    ).read_text() == "a:\tref=['z']\na:\thyp=[]\nb:\tref=['x', 'y']\nb:\thyp=['x']\n"
