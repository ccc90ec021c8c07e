"""The losses of the first updates of a training are what they were.

The tolerance is relative. Measured: threads (1 or 2), instruction sets (plain torch kernels, MKL in
SSE4.2) and fast_rnnt in place of the plain loss change the losses by 5e-7 at most; 0.1 % more
learning rate changes them by 3e-4, and 1 % less weight of the distillation by 2e-5.
"""

import pytest

from tests.training.golden import UPDATES, loss_curve, read_curve

TOLERANCE = 1e-5
MESSAGE = """update {update}: the losses per frame are {found}, not {expected}.
A change of training must reproduce tests/training/golden/curve.json. If the losses are meant to be
others, write it anew (python -m tests.training.golden) and give the reason in the commit."""


def test_a_training_reproduces_the_golden_loss_curve(tmp_path):
    expected, found = read_curve(), loss_curve(tmp_path)
    assert len(expected) == len(found) == UPDATES
    for update, (old, new) in enumerate(zip(expected, found)):
        assert new == pytest.approx(old, rel=TOLERANCE), MESSAGE.format(
            update=update, found=new, expected=old
        )


@pytest.mark.parametrize("change", ["train.lr=0.04505", "distill.weight=0.98"])
def test_the_golden_curve_tells_a_small_change_of_training(tmp_path, change):
    found = loss_curve(tmp_path, change)  # 0.1 % above and 2 % below the conf's
    assert found[-1] != pytest.approx(read_curve()[-1], rel=TOLERANCE)
