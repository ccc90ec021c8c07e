"""A dual supernet: its bidirectional and its causal subnets, which share weights."""

import json
import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from tests.conftest import run_sh, tiny_arguments
from tests.deploy.test_export_stage import QUICK
from tests.helpers import DEBUG, VOCAB, tiny_config, tiny_model
from tests.recognizers import babble, talkative, tokenizer
from todm.config.load import load_file
from todm.decoding.recognizer import Recognizer
from todm.model.encoder import Encoder
from todm.results.subnets import SubnetEntry
from todm.search.budgeted_space import BudgetedSpace
from todm.subnet import Subnet
from todm.supernet.cost import CostModel, describe_subnet
from todm.supernet.extract import extract, extracted_config
from todm.supernet.sandwich import SubnetSampler
from todm.supernet.search_space import SearchSpace
from utils.errors import ConfigError, UserError

DUAL = "model.direction=dual"
BODIES = ["h0-2f0-3 h0-2f0-3 h0-2f0-3", "h0f0 - h0-1f0-2", "h0,2f1,3 f2 h1", "- - -"]
VARIANTS = [(), ("model.gating=false",), ("model.stack=2",), ("model.rates=[4,1,2]",)]
LENGTHS = torch.tensor([131, 67])


def features(frames: int = 131) -> Tensor:
    return torch.randn(2, frames, 80, generator=torch.Generator().manual_seed(0)) * 3 - 8


def encode(encoder: Encoder, subnet: Subnet | None) -> Tensor:
    with torch.no_grad():
        return encoder(features(), LENGTHS, subnet)[0]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("overrides", VARIANTS)
@pytest.mark.parametrize("causal", [False, True])
def test_extracted_nets_compute_what_the_supernet_does(overrides, body, causal):
    config = tiny_config(DUAL, *overrides)
    model, subnet = tiny_model(config).eval(), Subnet.parse("causal " * causal + body)
    alone = extract(model, config, subnet)
    direction = extracted_config(config, subnet).model.direction
    assert direction == ("causal" if causal else "bidirectional")
    assert alone.encoder.can_stream(alone.full) == causal
    expected = encode(model.encoder, subnet)
    torch.testing.assert_close(encode(alone.encoder, None), expected, rtol=1e-5, atol=1e-5)
    cost = CostModel(config, VOCAB).cost(subnet)
    assert cost.encoder_params == sum(p.numel() for p in alone.encoder.parameters())
    assert cost == CostModel(extracted_config(config, subnet), VOCAB).cost(alone.full)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("overrides", VARIANTS)
def test_a_causal_net_streams_what_it_computes_of_the_whole(overrides, body):
    encoder, subnet = tiny_model(tiny_config(DUAL, *overrides)).eval().encoder, f"causal {body}"
    subnet, x, got = Subnet.parse(subnet), features(4 * 32 + 3), []
    operators, states = encoder.operators(8), encoder.initial_states(2, subnet)
    with torch.no_grad():
        expected, _ = encoder(x, torch.tensor([x.shape[1]] * 2), subnet)
        for first in range(0, 4 * 32, 4 * 8):
            y, states = encoder.step(x[:, first : first + 35], states, subnet, operators)
            got.append(y)
    torch.testing.assert_close(torch.cat(got, dim=1), expected, rtol=1e-5, atol=1e-5)


def test_only_causal_nets_are_deaf_to_the_future():
    encoder = tiny_model(tiny_config(DUAL)).eval().encoder
    x, changed = features(), features()
    changed[:, 100:] += 1.0
    lengths = torch.tensor([131, 131])
    for causal in (True, False):
        subnet = Subnet.parse("causal " * causal + BODIES[0])
        with torch.no_grad():
            before, after = (encoder(each, lengths, subnet)[0][:, :24] for each in (x, changed))
        assert torch.equal(before, after) == causal


def test_causal_nets_do_not_train_the_backward_direction():
    model = tiny_model(tiny_config(DUAL))
    encoder = model.encoder
    encoder(features(), LENGTHS, Subnet.parse("causal " + BODIES[0]))[0].sum().backward()
    ssm = encoder.blocks[0].ssm
    forward, backward = ssm.ssms[0].d.grad.chunk(2)
    assert forward.abs().min() > 0 and backward.abs().max() == 0
    assert ssm.mix_weight[0].grad[:, 1].abs().max() == 0
    assert ssm.mix_weight[0].grad[:, 0].abs().min() > 0


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_other_supernets_leave_out_no_direction(direction):
    config = tiny_config(f"model.direction={direction}")
    with pytest.raises(ValueError, match="only a supernet of model.direction=dual"):
        extract(tiny_model(config), config, Subnet.parse("causal " + BODIES[0]))


def test_bidirectional_nets_have_no_states():
    with pytest.raises(ValueError, match="can not stream"):
        tiny_model(tiny_config(DUAL)).encoder.initial_states(1)


def test_a_supernet_of_one_kind_holds_what_the_two_share():
    """A causal subnet of a dual supernet, and the same weights in a causal supernet."""
    dual, causal = (
        tiny_model(tiny_config(f"model.direction={d}")).eval() for d in ("dual", "causal")
    )
    state = dual.state_dict()
    for name, value in causal.state_dict().items():
        value.copy_(state[name][tuple(slice(0, n) for n in value.shape)])
    for body in BODIES:
        expected = encode(causal.encoder, Subnet.parse(body))
        got = encode(dual.encoder, Subnet.parse("causal " + body))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_the_search_space_has_every_net_twice():
    config = tiny_config(DUAL)
    space, once = SearchSpace(config, VOCAB), SearchSpace(tiny_config(), VOCAB)
    ladder, plain = space.ladder(4), once.ladder(4)
    assert ladder[:4] == plain and not space.largest.causal and space.smallest.causal
    assert all(net.causal for net in ladder[4:]) and ladder[-1] == space.smallest
    assert ladder[4] == space.three()[1] == space.largest_of(True)
    names = [describe_subnet(config, VOCAB, net, "").name for net in ladder]
    assert [name.endswith("M-streaming") for name in names] == [False] * 4 + [True] * 4
    sizes = [space.encoder_params(net) for net in ladder]
    assert sizes[:4] == sorted(sizes[:4], reverse=True) and sizes[4] < sizes[0]


def test_the_sandwich_has_both_kinds():
    sampler = SubnetSampler(SearchSpace(tiny_config(DUAL), VOCAB), seed=1)
    steps = [sampler(update) for update in range(100)]
    largest = Subnet.parse("causal " + BODIES[0])
    assert all(len(step) == 3 and step[1] == largest for step in steps)
    for place in (0, 2):
        assert Counter(step[place].causal for step in steps) == {True: 50, False: 50}
    space = sampler.space
    assert {step[2] for step in steps} == {space.smallest_of(False), space.smallest_of(True)}


@pytest.mark.parametrize("causal", [False, True])
def test_a_search_stays_with_its_kind(causal):
    config = tiny_config(DUAL)
    inner = SearchSpace(config, VOCAB)
    space, rng = BudgetedSpace(inner, inner.encoder_params, causal), random.Random(1)
    assert space.high == inner.encoder_params(inner.largest_of(causal))
    budget = (space.low + space.high) / 2
    nets = [space.subnet(space.draw(budget, rng)) for _ in range(20)]
    assert {net.causal for net in nets} == {causal}
    assert all(inner.encoder_params(net) <= budget for net in nets)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["search.cost=latency", "select.method=evolution"], "search.cost=macs"),
        (["select.method=simple-topk"], "select.method=uniform"),
        (["model.rates=[1,2,4]", "export.chunk_frames=8"], "not a multiple of 16"),
        (["model.architecture='causal h0 h0 h0'"], "model.direction=causal"),
    ],
)
def test_what_does_not_go_with_it_is_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        tiny_config(DUAL, *overrides)


def test_its_conf():
    config = load_file(DEBUG.parent / "mini-dual.yaml", [])
    assert config.model.direction == "dual" and config.name == "mini-dual"


def made_recognizer() -> tuple[Recognizer, SubnetEntry, SubnetEntry]:
    """With the largest net of either kind."""
    config = tiny_config(DUAL)
    entries = [
        describe_subnet(config, VOCAB, Subnet.parse(text), "")
        for text in (BODIES[0], f"causal {BODIES[0]}")
    ]
    return Recognizer(config, talkative(config), tokenizer(), entries), *entries


def test_a_recogniser_knows_which_nets_stream():
    recognizer, whole, causal = made_recognizer()
    assert recognizer.streaming == [causal] and not recognizer.can_stream
    with pytest.raises(UserError, match=f"of this supernet these stream: {causal.name}"):
        recognizer.stream()
    limit = str(whole.encoder_params)
    assert recognizer.use_budget(limit) == whole
    assert recognizer.use_budget(limit, streaming=True) == causal and recognizer.can_stream


def test_a_stream_gives_what_the_whole_utterance_gives():
    recognizer, _, causal = made_recognizer()
    samples = babble(1.7)
    offline = recognizer.transcribe_batch([samples])[0]
    recognizer.use(causal.name)
    stream = recognizer.stream(endpoints=False)
    stream.accept(samples)
    expected = recognizer.transcribe_batch([samples])[0]
    assert stream.finish() == expected != offline and len(expected.tokens) > 3


@pytest.mark.slow
def test_one_training_is_exported_both_ways(tmp_path):
    run_sh(
        *("--stop-stage", "10", *tiny_arguments(tmp_path), DUAL, "loss.rnnt_type=modified"),
        *("select.num_subnets=2", *QUICK),
    )
    exp = tmp_path / "exp"
    results = json.loads((exp / "results.json").read_text())
    names = {row["name"]: row["architecture"].startswith("causal ") for row in results["results"]}
    assert len(names) == 4 and all(n.endswith("-streaming") == c for n, c in names.items())
    exported = json.loads((exp / "export/results.json").read_text())
    assert exported["differences"] == []
    for name, causal in names.items():
        assert (exp / f"export/{name}/streaming-encoder.onnx").is_file() == causal
        modes = {row["mode"] for row in exported["rows"] if row["name"] == name}
        assert modes == ({"offline", "streaming"} if causal else {"offline"})
    assert "smallest causal" in (exp / "train.log").read_text()
