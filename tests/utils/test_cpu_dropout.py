import math

import pytest
import torch

from utils.cpu_dropout import dropout

SIZE = 400_000


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_rate_and_mean(p):
    """Five standard deviations; what stays has one scale, and no place in a group of eight
    differs."""
    torch.manual_seed(0)
    y = dropout(torch.ones(SIZE), p, training=True)
    rate, (zero, scale) = (y == 0).float().mean().item(), y.unique().tolist()
    deviation = math.sqrt(p * (1 - p) / SIZE)
    assert zero == 0 and rate == pytest.approx(p, abs=1 / 512 + 5 * deviation)
    assert scale == pytest.approx(1 / (1 - p), rel=0.05)
    assert y.mean().item() == pytest.approx(1, abs=5 * scale * deviation)
    for place in range(8):
        mine = (y.view(-1, 8)[:, place] == 0).float().mean().item()
        assert mine == pytest.approx(rate, abs=5 * deviation * math.sqrt(8))


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(SIZE), 0.5, training=True) == 0).float() - 0.5
    for distance in (1, 2, 3, 7, 8, 16):
        correlation = 4 * (dropped[distance:] * dropped[:-distance]).mean().item()
        assert abs(correlation) < 5 / math.sqrt(SIZE)


@pytest.mark.parametrize("p, training", [(0.0, True), (0.001, True), (0.3, False)])
def test_nothing_happens(p, training):
    x = torch.randn(3, 5)
    assert torch.equal(dropout(x, p, training), x)


def test_all_is_dropped():
    assert (dropout(torch.randn(3, 5), 0.9999, training=True) == 0).all()


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_is_the_mask(shape, dtype):
    x = (1 + torch.rand(shape)).to(dtype).requires_grad_()
    y = dropout(x, 0.4, training=True)
    y.sum().backward()
    assert y.shape == x.shape and y.dtype == dtype
    torch.testing.assert_close(y, x * x.grad)
    assert torch.equal(x.grad == 0, y == 0)


def test_masks_differ_and_repeat_with_the_seed():
    x, masks = torch.ones(100), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(dropout(x, 0.5, training=True))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_transposed_input():
    x = torch.arange(1.0, 13.0).view(3, 4).t()
    y = dropout(x, 0.5, training=True)
    assert ((y == 0) | torch.isclose(y, 2 * x)).all()
