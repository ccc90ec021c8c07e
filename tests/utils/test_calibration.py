import math

import pytest

from utils.calibration import Bin, Calibration, calibration, normalised_cross_entropy


def test_bins_and_the_expected_calibration_error_by_hand():
    """Two of 0.9 and 0.8 in the upper half, one right; two of 0.2 and 0.4 in the lower, none right:
    (2 x |0.5 - 0.85| + 2 x |0 - 0.3|) / 4."""
    found = calibration([(0.9, True), (0.8, False), (0.2, False), (0.4, False)], bins=2)
    assert [b.items for b in found.bins] == [2, 2] and [b.right for b in found.bins] == [0, 1]
    assert [b.confidence for b in found.bins] == pytest.approx([0.3, 0.85])
    assert found.ece == pytest.approx((0.7 + 0.6) / 4)


def test_a_confidence_of_one_is_in_the_last_bin_and_a_bound_in_the_upper_one():
    found = calibration([(1.0, True), (0.5, True), (0.0, False)])
    assert [i for i, b in enumerate(found.bins) if b.items] == [0, 5, 9]


def test_the_normalised_cross_entropy_by_hand():
    """Half of four are right, which is 4 bits. Confidences of 3/4 for the right ones and 1/4 for
    the others leave 4 x log2(4/3) bits."""
    found = [(0.75, True), (0.75, True), (0.25, False), (0.25, False)]
    assert normalised_cross_entropy(found) == pytest.approx(1 - math.log2(4 / 3))


def test_the_share_of_right_ones_as_confidence_explains_nothing():
    assert normalised_cross_entropy([(0.75, i > 0) for i in range(4)]) == pytest.approx(0)


def test_confidences_that_mislead_are_below_zero():
    assert normalised_cross_entropy([(0.9, False), (0.1, True)]) < -2


def test_certain_and_right_is_one_and_certain_and_wrong_finite():
    assert normalised_cross_entropy([(1.0, True), (0.0, False)]) == pytest.approx(1, abs=1e-5)
    assert math.isfinite(normalised_cross_entropy([(0.0, True), (1.0, False)]))


def test_nothing_and_one_kind_have_no_value():
    assert calibration([]) is None
    assert normalised_cross_entropy([(0.3, True)]) is None
    assert calibration([(0.3, True)]).nce is None


def test_json_and_back():
    made = Calibration((Bin(0, 0, 0.0), Bin(3, 2, 0.75)), 0.0125, None, 4)
    assert Calibration.from_dict(made.as_dict()) == made
