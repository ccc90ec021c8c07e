import pytest

from utils.eden import eden


@pytest.mark.parametrize(
    "update, epoch, expected",
    [
        (0, 0, 0.1),
        (250, 0, 0.55 * 0.99972238),
        (7500, 0, 2**-0.25),
        (7500, 3.5, 2**-0.5),
        (15000, 7, 5**-0.5),
    ],
)
def test_eden_by_hand(update, epoch, expected):
    assert eden(update, epoch, lr_batches=7500, lr_epochs=3.5, warmup=500) == pytest.approx(
        expected, rel=1e-6
    )


def test_eden_without_warm_up():
    assert eden(0, 0, 7500, 3.5, warmup=0) == 1.0
