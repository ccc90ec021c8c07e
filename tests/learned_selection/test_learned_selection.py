"""The three ways of learning which parts every size keeps: schedules, scores, masks, nested sizes;
stage values and conf."""

import math
import random

import pytest
import torch

from tests.helpers import VOCAB, tiny_config
from tests.learned import (
    FULL,
    GRANULARITIES,
    METHODS,
    STEPS,
    cached_config,
    expected_share,
    learned,
    make,
    prefix_counts,
    price,
    rank_scores,
    row_scores,
    scores_of,
    set_scores,
    shuffled,
    sigmoid,
)
from todm.config.keys import Config
from todm.learned_selection.orthosoftmax import (
    closest_count,
    distinct_argmax,
    orthogonality_penalty,
)
from todm.learned_selection.sampler import LearnedSampler
from todm.learned_selection.score_file import append_scores, read_scores
from todm.learned_selection.selector import Selector
from todm.learned_selection.simple_topk import relaxed_top_k, straight_through
from todm.recipe.stages import STAGES, runner
from todm.subnet import Subnet
from todm.supernet.budget import check_budgets
from todm.supernet.search_space import SearchSpace
from utils.errors import ConfigError, UserError
from utils.files import write_json_atomic

# ---- relaxed top-k


def plain_top_k(scores: list[float], count: int) -> list[float]:
    """s += log(1 - a), a = softmax(s), z += a, number by number."""
    total, taken = [0.0] * len(scores), [0.0] * len(scores)
    for _ in range(count):
        scores = [s + math.log(1 - a) for s, a in zip(scores, taken)]
        powers = [math.exp(s) for s in scores]
        taken = [p / sum(powers) for p in powers]
        total = [z + a for z, a in zip(total, taken)]
    return total


@pytest.mark.parametrize("count", range(1, 8))
def test_relaxed_top_k_is_the_sum_of_successive_softmaxes(count):
    scores = torch.randn(7, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    got = relaxed_top_k(scores, count)
    torch.testing.assert_close(
        got, torch.tensor(plain_top_k(scores.tolist(), count), dtype=torch.float64)
    )
    assert (
        got.sum().item() == pytest.approx(count)
        and (got > 0).all()
        and got.argsort().tolist() == scores.argsort().tolist()
    )


def test_relaxed_top_k_of_equal_scores_is_even():
    torch.testing.assert_close(relaxed_top_k(torch.full((8,), 0.5), 3), torch.full((8,), 3 / 8))
    torch.testing.assert_close(relaxed_top_k(torch.full((8,), 0.5), 8), torch.ones(8))


def test_relaxed_top_k_becomes_hard_as_the_kept_ones_separate_from_the_others():
    kept = torch.tensor([0.0, 1, 0, 1, 1, 0])
    errors = [
        (relaxed_top_k(gap * kept, 3) - kept).abs().max().item()
        for gap in (0.0, 1.0, 3.0, 6.0, 12.0)
    ]
    assert (
        errors[0] == pytest.approx(0.5)
        and errors[-1] < 1e-4
        and all(a > b for a, b in zip(errors, errors[1:]))
    )


@pytest.mark.parametrize("count", [1, 3, 6])
def test_gradient_of_relaxed_top_k(count):
    scores = torch.randn(
        6, generator=torch.Generator().manual_seed(7), dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda s: relaxed_top_k(s, count), scores)


def test_straight_through_by_hand_for_one_of_two():
    scores = torch.tensor([0.2, 1.1], requires_grad=True)
    gates = straight_through(relaxed_top_k(scores, 1), 1)
    assert gates.tolist() == [0.0, 1.0]
    (3 * gates[0] + 5 * gates[1]).backward()
    p = 1 / (1 + math.exp(-0.9))  # of the second
    assert scores.grad.tolist() == pytest.approx([-2 * p * (1 - p), 2 * p * (1 - p)])


def test_straight_through_by_hand_for_one_of_three():
    scores = torch.tensor([0.5, -0.3, 0.1], requires_grad=True)
    gates = straight_through(relaxed_top_k(scores, 1), 1)
    assert gates.tolist() == [1.0, 0.0, 0.0]
    weights = [2.0, -1.0, 4.0]
    (gates * torch.tensor(weights)).sum().backward()
    powers = [math.exp(s) for s in (0.5, -0.3, 0.1)]
    soft = [p / sum(powers) for p in powers]
    mean = sum(w * p for w, p in zip(weights, soft))
    assert scores.grad.tolist() == pytest.approx(
        [p * (w - mean) for w, p in zip(weights, soft)], rel=1e-4
    )


def test_straight_through_of_all_is_all_ones():
    scores = torch.randn(9, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(straight_through(relaxed_top_k(scores, 9), 9), torch.ones(9))


# ---- Simple-Top-k


@pytest.mark.parametrize(
    "update, iteration",
    [(10, 0), (19, 0), (20, 1), (29, 1), (30, 2), (40, 3), (49, 3), (50, 4), (59, 4), (60, 4)],
)
def test_iterations_of_step_1_by_hand(update, iteration):
    assert make("simple-topk").iteration(update) == iteration


def test_shares_shrink_evenly_to_that_of_the_smallest_size():
    assert make("simple-topk").shares() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert make(
        "simple-topk", "search.budgets=[1.0,5000,0.8]", "learn.iterations=2"
    ).shares() == pytest.approx([(1 + 5000 / 9684) / 2, 5000 / 9684])


def test_step_1_begins_and_ends_as_the_conf_says():
    selector = make("simple-topk")
    assert [u for u in range(100) if selector.learns(u)] == list(range(10, 60))
    assert [selector.progress(u) for u in (0, 10, 35, 60, 99)] == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    "granularity, counts", [("component", [16, 14, 11, 8, 6]), ("module", [5, 4, 4, 2, 1])]
)
def test_simple_top_k_keeps_what_the_share_of_its_iteration_allows(granularity, counts):
    selector = make("simple-topk", f"learn.granularity={granularity}")
    order = {"component": list(range(21)), "module": [1, 0, 3, 5, 4, 2]}[granularity]
    set_scores(selector, rank_scores(order))
    assert prefix_counts(selector, order, [9684 * s for s in (0.9, 0.8, 0.7, 0.6, 0.5)]) == counts
    for update, count in zip((10, 20, 39, 45, 59), counts):
        gates, penalty = selector.gates(update)
        torch.testing.assert_close(
            gates, torch.zeros(len(order)).index_fill(0, torch.tensor(order[:count]), 1.0)
        )
        assert penalty.item() == 0
        (found,) = torch.autograd.grad((gates * torch.arange(len(order))).sum(), selector.scores)
        soft = relaxed_top_k(selector.scores, count)
        torch.testing.assert_close(
            found, torch.autograd.grad((soft * torch.arange(len(order))).sum(), selector.scores)[0]
        )
        assert (found != 0).all()


# ---- Iterative-Zero-Out


@pytest.mark.parametrize("update, target", [(10, 0.9), (25, 0.8), (59, 0.5)])
def test_penalty_of_iterative_zero_out_by_hand(update, target):
    selector = make("iterative-zero-out", "learn.penalty=5")
    scores = [0.3 * math.sin(i) for i in range(21)]
    set_scores(selector, scores)
    gates, penalty = selector.gates(update)
    by_hand = [sigmoid(10 * s) for s in scores]
    assert gates.tolist() == pytest.approx(by_hand, rel=1e-5)
    assert penalty.item() == pytest.approx(5 * abs(expected_share(by_hand) - target), rel=1e-4)
    (found,) = torch.autograd.grad(penalty, selector.scores)
    sign = 1 if expected_share(by_hand) > target else -1
    for i in (0, 3, 20):
        change = [
            expected_share([sigmoid(10 * (s + d * (i == j))) for j, s in enumerate(scores)])
            for d in (1e-4, -1e-4)
        ]
        assert found[i].item() == pytest.approx(5 * sign * (change[0] - change[1]) / 2e-4, rel=1e-3)


def test_iterative_zero_out_starts_open():
    gates, _ = make("iterative-zero-out").gates(10)
    assert (gates > 0.9999).all()


def test_gates_are_closed_at_the_end_of_an_iteration_and_only_then():
    selector, order = make("iterative-zero-out"), shuffled(21)
    set_scores(selector, rank_scores(order))
    before = selector.scores.detach().clone()
    kept = prefix_counts(selector, order, [9684 * s for s in (0.9, 0.8, 0.7, 0.6, 0.5)])
    assert len(set(kept)) == 5
    for update in range(1, 60):
        assert not selector.after_update(update)
        open_ones = order[: kept[update // 10 - 2]] if update >= 20 else order
        assert [i for i in order if selector.logits[i] > 0] == open_ones
        torch.testing.assert_close(selector.scores[open_ones], before[open_ones])
        assert all(
            selector.logits[i].item() == pytest.approx(-5.0) for i in order if i not in open_ones
        )
    assert selector.after_update(60) and selector.order.tolist()[: kept[4]] == order[: kept[4]]


def test_closed_gates_still_learn_and_can_come_back():
    selector, order = make("iterative-zero-out"), shuffled(21)
    set_scores(selector, rank_scores(order))
    for update in range(11, 21):
        selector.after_update(update)
    closed = [i for i in order if selector.logits[i] < 0]
    gates, _ = selector.gates(20)
    (found,) = torch.autograd.grad(gates.sum(), selector.scores)
    slope = 10 * sigmoid(-5) * (1 - sigmoid(-5))
    assert closed and [found[i].item() for i in closed] == pytest.approx(
        [slope] * len(closed), rel=1e-4
    )
    with torch.no_grad():
        selector.scores[closed[0]] = 3.0
    for update in range(21, 31):
        selector.after_update(update)
    reordered = [closed[0], *(i for i in order if i != closed[0])]
    kept = prefix_counts(selector, reordered, [9684 * 0.8])[0]
    assert {i for i in order if selector.logits[i] > 0} == set(reordered[:kept]) and closed[
        0
    ] in reordered[:kept]


def test_frozen_order_of_iterative_zero_out_is_that_of_the_scores_as_training_left_them():
    """What the last iteration closes is still better than what the first one closed, and sizes in
    between take it first."""
    selector, order = make("iterative-zero-out"), list(reversed(range(21)))
    set_scores(
        selector, rank_scores(order, best=1.5, step=0.09)
    )  # down to -0.3: closed, and grown since
    selector.after_update(60)
    assert selector.order.tolist() == order
    assert selector.subnets()["0.75"] == selector.units.subnet(
        order[: prefix_counts(selector, order, [9684 * 0.75])[0]]
    )


# ---- OrthoSoftmax


@pytest.mark.parametrize("update, tau", [(10, 1.0), (35, 0.1), (60, 0.01)])
def test_rows_are_softmaxes_at_a_falling_temperature(update, tau):
    selector = make("orthosoftmax")
    set_scores(selector, 0.05 * torch.randn(21, 21, generator=torch.Generator().manual_seed(9)))
    rows = selector.rows(update)
    for scores, row in zip(selector.scores.tolist(), rows.tolist()):
        powers = [math.exp(s / tau) for s in scores]
        assert row == pytest.approx([p / sum(powers) for p in powers], rel=1e-4)
    assert rows.sum(1).tolist() == pytest.approx([1.0] * 21)


def test_rows_become_one_hot_as_the_temperature_falls():
    selector = make("orthosoftmax")
    set_scores(selector, row_scores(shuffled(21)) / 25)  # 0.2 above the others
    largest = [selector.rows(update).amax(1).min().item() for update in (10, 30, 50, 60)]
    assert (
        largest[0] < 0.1
        and largest[-1] > 0.9999
        and all(a < b for a, b in zip(largest, largest[1:]))
    )
    assert make("orthosoftmax", "learn.tau_end=1").rows(60).max() < 0.06


def plain_orthogonality(rows: list[list[float]]) -> float:
    total = 0.0
    for i, a in enumerate(rows):
        for j, b in enumerate(rows[i:], i):
            product = sum(x * y for x, y in zip(a, b))
            total += (product - 1) ** 2 if i == j else product**2
    return math.sqrt(total)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_orthogonality_penalty_by_a_double_loop(count):
    rows = torch.softmax(
        torch.randn(count, 5, generator=torch.Generator().manual_seed(count)), dim=1
    )
    assert float(orthogonality_penalty(rows)) == pytest.approx(
        plain_orthogonality(rows.tolist()), rel=1e-5
    )


def test_orthogonality_penalty_of_one_hot_rows():
    one_hot = torch.eye(5)
    assert float(orthogonality_penalty(one_hot[[3, 0, 4]])) < 1e-5
    assert float(orthogonality_penalty(one_hot[[3, 0, 3]])) == pytest.approx(1.0)
    assert float(orthogonality_penalty(one_hot[[3, 3, 3]])) == pytest.approx(math.sqrt(3))


def test_orthogonality_penalty_has_a_gradient_where_it_is_0():
    rows = torch.eye(4, requires_grad=True)
    orthogonality_penalty(rows).backward()
    assert torch.isfinite(rows.grad).all()


def test_penalty_alone_separates_rows_that_want_the_same_unit():
    torch.manual_seed(0)
    scores = (torch.tensor([2.0, 0, 0, 0, 0]) + 0.01 * torch.randn(5, 5)).requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.05)
    assert scores.argmax(1).tolist() == [0] * 5
    for _ in range(300):
        optimizer.zero_grad()
        orthogonality_penalty(torch.softmax(scores, dim=1)).backward()
        optimizer.step()
    assert sorted(scores.argmax(1).tolist()) == [0, 1, 2, 3, 4]


def test_initial_scores_break_the_symmetry():
    for method in METHODS:
        scores = make(method).scores.detach()
        assert len(set(scores.flatten().tolist())) == scores.numel()
        assert 0.005 < scores.std() < 0.02
    rows = make("orthosoftmax").rows(60)
    assert len(set(rows.argmax(1).tolist())) > 5


def test_distinct_argmax_never_repeats():
    assert distinct_argmax(torch.tensor([[1.0, 9, 2], [3, 8, 4], [5, 7, 6]])) == [1, 2, 0]
    assert distinct_argmax(torch.ones(4, 4)) == [0, 1, 2, 3]
    for seed in range(5):
        scores = torch.randn(12, 12, generator=torch.Generator().manual_seed(seed))
        scores[:, 3] += 4  # which all rows want
        left, expected = set(range(12)), []
        for row in scores.tolist():
            expected.append(max(left, key=lambda i: row[i]))
            left.remove(expected[-1])
        assert distinct_argmax(scores) == expected and sorted(expected) == list(range(12))


def test_closest_count_by_brute_force():
    rng = random.Random(1)
    for _ in range(30):
        costs = sorted(rng.uniform(10, 100) for _ in range(8))
        budget = rng.uniform(0, 110)
        gaps = [abs(c - budget) for c in costs]
        assert closest_count(torch.tensor(costs), budget) == gaps.index(min(gaps)) + 1
    assert (
        closest_count(torch.tensor([10.0, 20, 30]), 1.0) == 1
        and closest_count(torch.tensor([10.0, 20, 30]), 99.0) == 3
    )


@pytest.mark.parametrize("update", [10, 23, 35, 59])
def test_gates_are_the_sum_of_the_rows_whose_expected_cost_is_nearest(update):
    selector = make("orthosoftmax", "learn.penalty=0.7")
    set_scores(selector, 0.3 * torch.randn(21, 21, generator=torch.Generator().manual_seed(11)))
    gates, penalty = selector.gates(update)
    rows = torch.softmax(selector.scores.detach().double() / 0.01 ** ((update - 10) / 50), dim=1)
    shares = [expected_share(rows[: k + 1].sum(0).clamp(max=1).tolist()) for k in range(21)]
    target = selector.draw_budget(update) / 9684
    count = min(range(21), key=lambda k: abs(shares[k] - target)) + 1
    torch.testing.assert_close(gates.double(), rows[:count].sum(0), rtol=1e-4, atol=1e-5)
    assert penalty.item() == pytest.approx(
        0.7 * (update - 10) / 50 * plain_orthogonality(rows[:count].tolist()), rel=1e-4, abs=1e-6
    )


def test_random_budget_depends_on_seed_and_update_alone():
    def draws(seed: int, noise: int) -> list[float]:
        selector = make(
            "orthosoftmax", f"train.seed={seed}", "search.budgets=[0.5,0.6,0.75,1.0]", seed=noise
        )
        random.seed(noise)
        return [selector.draw_budget(update) for update in range(10, 60)]

    assert draws(1, 0) == draws(1, 5) != draws(2, 0)
    assert set(draws(1, 0)) == {
        9684 * share for share in (0.5, 0.6, 0.75)
    }  # the largest net runs anyway


# ---- sizes


def nested(nets: list[Subnet]) -> bool:
    return all(small.within(large) and small != large for large, small in zip(nets, nets[1:]))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("method", METHODS)
def test_sizes_nest_and_are_the_longest_within_their_budgets(method, granularity, frozen):
    overrides = "search.budgets=[0.6,1.0,90%,5000,0.75]", f"learn.granularity={granularity}"
    limits = {"1.0": 9684, "90%": 8715.6, "0.75": 7263, "0.6": 5810.4, "5000": 5000}
    for seed in range(4):
        selector = make(method, *overrides, seed=seed)
        set_scores(selector, torch.randn(selector.scores.shape))
        order = selector.ranking()
        assert sorted(order) == list(range(len(selector.units)))
        if frozen:
            selector.after_update(60)
            order = selector.order.tolist()
        nets = selector.subnets()
        assert (
            list(nets) == list(limits)
            and str(nets["1.0"]) == FULL
            and nested(selector.distinct_nets())
        )
        assert selector.distinct_nets() == list(dict.fromkeys(nets.values()))
        for (text, net), count in zip(
            nets.items(), prefix_counts(selector, order, list(limits.values()))
        ):
            assert price(net, selector.config) <= limits[text]
            assert net == selector.units.subnet(order[:count])


@pytest.mark.parametrize("method", METHODS)
def test_order_is_that_of_the_scores(method):
    selector, order = make(method), shuffled(21, seed=4)
    set_scores(selector, scores_of(method, order))
    assert selector.ranking() == order
    importance = selector.importance().tolist()
    assert sorted(range(21), key=lambda i: -importance[i]) == order


@pytest.mark.parametrize("method", METHODS)
def test_masks_freeze_at_the_end_of_step_1_for_good(method):
    selector, order = make(method), shuffled(21, seed=5)
    set_scores(selector, scores_of(method, order))
    assert not any(selector.after_update(update) for update in range(1, 60)) and not selector.frozen
    set_scores(selector, scores_of(method, order))
    nets = selector.subnets()
    assert selector.after_update(60) and selector.frozen and not selector.after_update(61)
    kept = prefix_counts(selector, order, [9684 * 0.5])[0]
    assert (
        selector.order.tolist()[:kept] == order[:kept] and selector.subnets()["0.5"] == nets["0.5"]
    )
    frozen, distinct = selector.subnets(), selector.distinct_nets()
    set_scores(selector, scores_of(method, order[::-1]))
    selector.after_update(70)
    assert (
        selector.subnets() == frozen
        and selector.distinct_nets() == distinct
        and not any(map(selector.learns, range(100)))
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("asked_before", [False, True])
def test_frozen_masks_survive_a_checkpoint(method, asked_before, tmp_path):
    selector, other = make(method), make(method, seed=1)
    set_scores(selector, scores_of(method, shuffled(21, seed=6)))
    set_scores(other, scores_of(method, shuffled(21, seed=7)))
    selector.after_update(60)
    if asked_before:
        assert other.distinct_nets() != selector.distinct_nets()
    torch.save(selector.state_dict(), tmp_path / "scores.pt")
    other.load_state_dict(torch.load(tmp_path / "scores.pt", weights_only=True))
    set_scores(other, scores_of(method, shuffled(21, seed=8)))
    assert (
        other.frozen
        and other.subnets() == selector.subnets()
        and other.distinct_nets() == selector.distinct_nets()
    )


def test_a_budget_below_every_unit_is_refused():
    with pytest.raises(UserError, match=r"no subnet fits 0\.3 .*feasible: 3180 to 9684"):
        make("simple-topk", "search.budgets=[0.3,1.0]")
    with pytest.raises(UserError, match=r"feasible: 4172 to 9684"):
        make("simple-topk", "search.budgets=[0.4,1.0]", "learn.granularity=module")


def test_budgets_are_bound_by_the_units_and_not_by_the_search_space_of_evolution():
    """Which has whole SSMs in 2 of 3 blocks, 6152 parameters at least; stage 4 checks before it
    trains."""
    space = SearchSpace(cached_config(), VOCAB)
    assert space.encoder_params(space.smallest) == 6152
    check_budgets(learned("simple-topk", "search.budgets=[5000,1.0]"), space)
    with pytest.raises(UserError, match="feasible: 6152 to 9684"):
        check_budgets(learned("evolution", "search.budgets=[5000,1.0]"), space)


@pytest.mark.parametrize("method", ["uniform", "evolution", "random"])
def test_other_methods_have_no_selector(method):
    assert make(method) is None


def frozen_sampler(*overrides: str, seed: int = 1, rank: int = 0) -> LearnedSampler:
    selector = make("simple-topk", *overrides)
    set_scores(selector, rank_scores(shuffled(21, seed=9)))
    selector.after_update(60)
    return LearnedSampler(selector, seed, rank)


def test_no_subnets_in_step_1():
    sampler = LearnedSampler(make("simple-topk"), 1)
    assert all(sampler(update) == [] for update in (0, 9, 10, 59))


@pytest.mark.parametrize(
    "overrides, middle, smallest",
    [
        ((), 1, True),
        (("method.subnets_per_step=3",), 3, True),
        (("method.smallest=false",), 1, False),
    ],
)
def test_step_2_trains_intermediate_nets_and_the_smallest(overrides, middle, smallest):
    sampler = frozen_sampler("search.budgets=[1.0,0.5,0.9,0.7,0.6]", *overrides)
    nets = sampler.selector.subnets()
    seen = set()
    for update in range(60, 100):
        drawn = sampler(update)
        assert len(drawn) == middle + smallest and set(drawn[:middle]) <= {
            nets["0.9"],
            nets["0.7"],
            nets["0.6"],
        }
        assert not smallest or drawn[-1] == nets["0.5"]
        seen.update(drawn[:middle])
    assert len(seen) == 3


def test_draws_are_a_function_of_seed_update_and_rank():
    budgets = "search.budgets=[1.0,0.5,0.9,0.7,0.6,0.8]"
    draws = {
        key: [frozen[u] for u in range(60, 100)]
        for key, frozen in {
            (seed, rank, run): {
                u: sampler(u) for u in random.Random(run).sample(range(60, 100), 40)
            }
            for seed, rank, run in ((1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0))
            for sampler in [frozen_sampler(budgets, seed=seed, rank=rank)]
        }.items()
    }
    assert draws[1, 0, 0] == draws[1, 0, 1]
    assert draws[1, 0, 0] != draws[1, 1, 0] != draws[2, 0, 0] != draws[1, 0, 0]


def test_one_budget_has_no_intermediate_nets():
    small = frozen_sampler("search.budgets=[0.5]")
    assert small(70) == [small.selector.subnets()["0.5"]]
    assert frozen_sampler("search.budgets=[1.0]")(70) == []


# ---- what stage 4 depends on


def test_selection_after_training_does_not_change_what_stage_4_depends_on():
    values = [
        STAGES[4].values(cached_config(*overrides))
        for overrides in (
            (),
            ("select.method=evolution",),
            ("select.method=random", "search.budgets=[0.6]", "learn.share=0.3", "search.cost=macs"),
        )
    ]
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize(
    "change, key",
    [
        ("select.method=orthosoftmax", "select.learned"),
        ("select.method=uniform", "select.learned"),
        ("learn.share=0.5", "learn.share"),
        ("learn.granularity=module", "learn.granularity"),
        ("learn.penalty=2", "learn.penalty"),
        ("search.budgets=[0.6,1.0]", "search.budgets"),
        ("search.cost=macs", "search.cost"),
        ("learn.stochastic_depth=0.1", "learn.stochastic_depth"),
        ("learn.lr_scale=2", "learn.lr_scale"),
    ],
)
def test_learned_selection_is_what_stage_4_depends_on(change, key):
    before, after = (
        STAGES[4].values(c)
        for c in (
            learned("simple-topk"),
            tiny_config(
                *STEPS, "search.budgets=[0.5,0.75,1.0]", "select.method=simple-topk", change
            ),
        )
    )
    assert before[key] != after.get(key)


def stale(config: Config, folder, stamped: Config, lacking: tuple[str, ...]) -> list[str]:
    """Why stage 4 would run again, if its stamp was of a conf and of a time before some keys
    existed."""
    stage, found = STAGES[4], runner(config, ["conf"])
    found.folders = {"data": folder / "data", "exp": folder / "exp"}
    for number in (4, *stage.after):
        conf = STAGES[number].values(stamped)
        conf = {k: v for k, v in conf.items() if k not in lacking}
        write_json_atomic(
            found.stamp_path(STAGES[number]),
            {"run": str(number), "conf": conf, "after": {str(n): str(n) for n in stage.after}},
        )
    (folder / "exp/checkpoints").mkdir(parents=True, exist_ok=True)
    return found.stale_reasons(stage)


NEW = ("select.learned", "loss.objective", "loss.subnet_weighting")


@pytest.mark.parametrize(
    "method, overrides, lacking, reasons",
    [
        ("uniform", (), NEW, []),
        ("evolution", (), NEW, []),
        (
            "uniform",
            ("loss.subnet_weighting=saturating",),
            NEW,
            ["loss.subnet_weighting was 'constant', is 'saturating'"],
        ),
        ("orthosoftmax", (), (), []),
        ("orthosoftmax", (), ("learn.stochastic_depth",), []),
        (
            "orthosoftmax",
            ("learn.stochastic_depth=0.3",),
            ("learn.stochastic_depth",),
            ["learn.stochastic_depth was 0.0, is 0.3"],
        ),
    ],
)
def test_a_key_that_is_newer_than_the_stamp_had_its_default(
    method, overrides, lacking, reasons, tmp_path
):
    config, stamped = (
        tiny_config(*STEPS, f"select.method={method}", *more) for more in (overrides, ())
    )
    assert stale(config, tmp_path, stamped, lacking) == reasons


@pytest.mark.parametrize(
    "before, after, reason",
    [
        ("uniform", "orthosoftmax", "select.learned was None, is 'orthosoftmax'"),
        ("orthosoftmax", "uniform", "select.learned was 'orthosoftmax', is None"),
        ("orthosoftmax", "simple-topk", "select.learned was 'orthosoftmax', is 'simple-topk'"),
    ],
)
def test_another_learned_method_makes_stage_4_stale(before, after, reason, tmp_path):
    assert reason in stale(learned(after), tmp_path, learned(before), ())


@pytest.mark.parametrize(
    "before, after, reasons",
    [
        ("uniform", "evolution", []),
        ("simple-topk", "simple-topk", []),
        ("orthosoftmax", "uniform", ["select.learned was 'orthosoftmax', is None"]),
        ("uniform", "orthosoftmax", ["select.learned was None, is 'orthosoftmax'"]),
        (
            "iterative-zero-out",
            "orthosoftmax",
            ["select.learned was 'iterative-zero-out', is 'orthosoftmax'"],
        ),
    ],
)
def test_a_training_goes_on_only_with_the_same_learned_selection(before, after, reasons):
    found = STAGES.changes_before(4, learned(before), learned(after))
    assert found[: len(reasons)] == reasons if reasons else found == []


# ---- the conf


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ("search.cost=latency",),
            "select.method=orthosoftmax counts parameters or MACs, not latency",
        ),
        (
            ("model.architecture='h0-2f0-3 - h0f0'",),
            "needs the whole search space, not model.architecture",
        ),
        (("learn.share=0",), "learn.share is 0.0; it must be above 0 and below 1"),
        (("learn.share=1",), "learn.share is 1.0; it must be above 0 and below 1"),
        (
            ("method.subnets_from=60",),
            r"step 1 ends at update 60 \(learn.share\), before it begins",
        ),
        (("method.subnets_from=80",), "step 1 ends at update 60"),
        (("loss.objective=ctc",), "loss.objective is ctc, so loss.ctc_weight must be above 0"),
        (("learn.iterations=0",), "learn.iterations is 0; it must be from 1"),
        (("learn.penalty=-1",), "learn.penalty is -1.0; it must be 0 or more"),
        (("learn.tau_end=0",), "learn.tau_end is 0.0; it must be above 0 and at most 1"),
        (("learn.tau_end=2",), "learn.tau_end is 2.0"),
        (("learn.lr_scale=0",), "learn.lr_scale is 0.0; it must be above 0"),
        (
            ("learn.stochastic_depth=1",),
            "learn.stochastic_depth is 1.0; it must be at least 0 and below 1",
        ),
        (("learn.granularity=layer",), "learn.granularity"),
    ],
)
def test_values_of_learned_selection_that_can_not_work(overrides, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(*STEPS, "select.method=orthosoftmax", *overrides)


def test_step_1_has_at_least_one_update_or_is_refused():
    """60 % of 12 updates is 7.2, of which 7 are step 1's."""
    with pytest.raises(ConfigError, match="step 1 ends at update 7"):
        tiny_config(
            "train.updates=12",
            "learn.share=0.6",
            "method.subnets_from=7",
            "select.method=orthosoftmax",
        )


def test_other_methods_do_not_mind_those_values():
    config = tiny_config(
        "select.method=evolution",
        "search.cost=latency",
        "learn.share=1",
        "method.subnets_from=99999",
    )
    assert config.learn.share == 1


# ---- scores over time


def test_scores_are_kept_by_update_and_a_broken_line_is_passed_over(tmp_path):
    selector = make("simple-topk")
    for update, value in ((10, 0.25), (20, 0.5)):
        set_scores(selector, torch.full((21,), value))
        append_scores(tmp_path, update, selector.importance().tolist())
    (path,) = (tmp_path / "selection").iterdir()
    path.write_text(path.read_text() + '{"update": 30, "sco')  # killed while it wrote
    assert read_scores(tmp_path) == ([10, 20], [[0.25] * 21, [0.5] * 21])
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    set_scores(selector, torch.ones(21))
    append_scores(tmp_path, 20, selector.importance().tolist())  # resumed from update 10
    assert read_scores(tmp_path) == ([10, 20], [[0.25] * 21, [1.0] * 21])
    assert read_scores(tmp_path / "elsewhere") == ([], [])


def test_importance_of_a_unit_that_no_row_picks_comes_last():
    selector = make("orthosoftmax")
    order = shuffled(21, seed=15)
    set_scores(selector, row_scores(order[:20] + order[19:20]))  # the last two rows pick the same
    importance = selector.importance().tolist()
    assert min(range(21), key=lambda i: importance[i]) == order[20]
    assert [importance[i] for i in order[:19]] == pytest.approx(
        [-float(k) for k in range(19)], abs=1e-3
    )


def resumed(
    method: str, update: int, *overrides: str, saved: bool = True
) -> tuple[Selector, Selector]:
    """A selector of STEPS that has come to an update, and one of another conf that goes on from
    there."""
    before, after = make(method), make(method, *overrides)
    after.go_on(update, before.schedule() if saved else None, before.config)
    return before, after


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("saved", [True, False])
def test_more_updates_leave_step_1_as_it_was(method, saved, caplog):
    with caplog.at_level("INFO"):
        before, after = resumed(method, 40, "train.updates=400", saved=saved)
    assert [after.progress(u) for u in range(100)] == [before.progress(u) for u in range(100)]
    assert (
        after.learns(59)
        and not after.learns(60)
        and not after.after_update(59)
        and after.after_update(60)
    )
    assert "step 1 ends at update 60" in caplog.text


@pytest.mark.parametrize(
    "update, updates, last", [(40, 80, 48), (40, 50, 41), (20, 60, 36), (5, 60, 36), (58, 99, 59)]
)
def test_fewer_updates_shorten_what_is_left_of_step_1(update, updates, last):
    """Continuously: the progress at the update is what it was, and it rises evenly to 1."""
    before, after = resumed("orthosoftmax", update, f"train.updates={updates}")
    values = [after.progress(u) for u in range(update, last + 1)]
    assert (
        values[0] == pytest.approx(before.progress(update))
        and values[-1] == 1
        and values == sorted(values)
    )
    steps = torch.tensor(values[max(0, 10 - update) :]).diff()
    assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-6)
    assert not after.after_update(last - 1) and after.after_update(last)


def test_a_schedule_that_goes_on_goes_on_again():
    """From 100 updates to 400, stopped at 50, then to 200: still what it began with."""
    first, second = resumed("simple-topk", 40, "train.updates=400")
    third = make("simple-topk", "train.updates=200")
    third.go_on(50, second.schedule(), second.config)
    assert [third.progress(u) for u in range(100)] == [
        first.progress(u) for u in range(100)
    ] and third.last == 60


def test_a_frozen_selection_has_no_schedule_to_keep(caplog):
    before, after = make("simple-topk"), make("simple-topk", "train.updates=400")
    before.after_update(60)
    after.load_state_dict(before.state_dict())
    with caplog.at_level("INFO"):
        after.go_on(70, before.schedule(), before.config)
    assert after.frozen and not after.learns(70) and not caplog.records


def test_updates_that_were_passed_before_the_freeze_are_an_error():
    """Stage 5 would otherwise ask for stage 4, and stage 4 train nothing, for ever."""
    with pytest.raises(
        UserError, match="at update 40 and its masks are not frozen.*train.updates=40.*update 60"
    ):
        resumed("simple-topk", 40, "train.updates=40")
