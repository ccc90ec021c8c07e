from dataclasses import replace

import pytest
import torch

from tests.helpers import make_targets, tiny_config
from tests.training.test_supernet_loss import SUBNETS, make_features, make_loss
from todm.training.share import Share
from todm.training.supernet_loss import SupernetLoss, Weights

TARGETS = make_targets([[3, 5, 4, 3], [7, 8]], [18, 10])
HALF = "method.subnet_share=0.5"
WEIGHTS = Weights(simple=0.7, pruned=0.9, distill=0.3)


def test_a_share_is_some_of_the_utterances_and_counts_as_all():
    drawn = [Share.drawn(3, 5) for _ in range(200)]
    rows = [share.rows.tolist() for share in drawn]
    assert all(r == sorted(set(r)) and len(r) == 3 for r in rows)
    assert len({tuple(r) for r in rows}) == 10  # every 3 of 5
    assert drawn[0].scale == pytest.approx(5 / 3)
    x = torch.arange(5) * 10
    assert Share(torch.tensor([1, 3])).of(x).tolist() == [10, 30] and Share().of(x) is x


def test_targets_of_a_share_are_those_of_its_utterances():
    got = Share(torch.tensor([1])).of_targets(TARGETS)
    assert got.symbols.tolist() == [[7, 8, 0, 0]] and got.frames.tolist() == [10]
    assert got.lengths.tolist() == [2] and got.heard is None


def test_a_share_has_its_own_frames_and_its_own_copy_on_the_host():
    targets = replace(TARGETS, heard=torch.tensor([75, 43]), on_host=TARGETS)
    got = Share(torch.tensor([1])).of_targets(targets)
    assert got.heard.tolist() == [43] and got.host.lengths.tolist() == [2]


@pytest.mark.parametrize(
    "batch, share, count", [(1, 0.5, 1), (7, 0.1, 1), (3, 0.6, 2), (4, 0.9, 4)]
)
def test_the_nearest_number_of_utterances_is_drawn(batch, share, count):
    loss = make_loss(tiny_config(f"method.subnet_share={share}")).train()
    drawn = loss.subnet_share(batch)()
    assert len(torch.arange(batch) if drawn.rows is None else drawn.rows) == count


def test_every_subnet_draws_its_own_share():
    torch.manual_seed(0)
    draw = make_loss(tiny_config(HALF)).train().subnet_share(6)
    assert len({tuple(draw().rows.tolist()) for _ in range(10)}) > 1


def subnet_loss(loss: SupernetLoss, weights: Weights, rows: list[int]) -> float:
    """The loss of the first subnet over some of the utterances, alone in a batch."""
    share = Share(torch.tensor(rows))
    _, losses = loss(
        share.of(make_features()), share.of_targets(TARGETS), SUBNETS[:1], weights, update=None
    )
    return losses[1].item()


@pytest.mark.parametrize("weights", [WEIGHTS, Weights.of_ctc()])
def test_a_subnet_learns_from_its_share_alone(weights):
    """Of two utterances it sees one, whose loss counts twice; the largest net sees both."""
    overrides = ["loss.ctc_weight=0.5", "model.dropout=0"]
    whole = make_loss(tiny_config(*overrides)).train()
    half = make_loss(tiny_config(*overrides, HALF)).train()
    _, expected = whole(make_features(), TARGETS, [], weights)
    alone = [2 * subnet_loss(whole, weights, [row]) for row in (0, 1)]
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        _, (largest, subnet) = half(make_features(), TARGETS, SUBNETS[:1], weights)
        assert largest.item() == pytest.approx(expected[0].item(), rel=1e-5)
        nearest = min((0, 1), key=lambda row: abs(alone[row] - subnet.item()))
        # another teacher's pruning ranges may differ by the batch's padding alone
        assert subnet.item() == pytest.approx(alone[nearest], rel=1e-4)
        seen.add(nearest)
    assert seen == {0, 1}


@pytest.mark.parametrize("weights", [WEIGHTS, Weights.of_ctc(distill=0.3)])
def test_the_gradient_of_shares_is_on_average_that_of_the_batch(weights):
    overrides = ["loss.ctc_weight=0.5", "model.dropout=0"]
    losses = [make_loss(tiny_config(*overrides, *more)).train() for more in ((), (HALF,))]
    rows = [Share(torch.tensor([row]), 2.0) for row in (0, 1)]
    gradients = []
    for loss, draws in zip(losses, ([Share()], rows)):
        total = torch.zeros(())
        for share in draws:
            loss.subnet_share = lambda batch, share=share: lambda: share
            total = total + loss(make_features(), TARGETS, SUBNETS, weights)[0] / len(draws)
        parameters = list(loss.parameters())
        gradients.append(torch.autograd.grad(total, parameters, allow_unused=True))
    for got, expected in zip(*gradients):
        assert (got is None) == (expected is None)
        if got is not None:
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_all_utterances_count_on_dev():
    loss = make_loss(tiny_config(HALF)).eval()
    whole = make_loss(tiny_config()).eval()
    got, expected = (x(make_features(), TARGETS, SUBNETS, WEIGHTS)[1] for x in (loss, whole))
    assert [x.item() for x in got] == pytest.approx([x.item() for x in expected])


def test_a_batch_of_one_is_seen_by_all():
    loss = make_loss(tiny_config(HALF, "model.dropout=0")).train()
    targets = Share(torch.tensor([0])).of_targets(TARGETS)
    got = loss(make_features()[:1], targets, SUBNETS, WEIGHTS)[1]
    expected = loss.eval()(make_features()[:1], targets, SUBNETS, WEIGHTS)[1]
    assert [x.item() for x in got] == pytest.approx([x.item() for x in expected])
