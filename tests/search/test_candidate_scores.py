import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import tiny_arguments
from tests.helpers import plain_pruned_loss
from todm.config.keys import Config
from todm.config.load import load
from todm.data.loaders import eval_loader, load_cuts
from todm.decoding.decode import decode_subnets
from todm.decoding.decoded_split import DecodedSplit
from todm.decoding.transducer_search import greedy_search
from todm.search import candidate_scores
from todm.search.candidate_scores import CandidateScores, ScoreCache, dev_slice
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from todm.supernet.extract import extract
from todm.training.experiment import Experiment, load_experiment
from todm.training.supernet_loss import Weights, make_targets
from todm.training.validation import losses_per_frame
from utils.pruned_rnnt import TransducerLoss, choose_backend
from utils.scoring import score

CPU = torch.device("cpu")
KEY = {"update": 12, "weights": "update 12", "dev": ["dev"], "seed": 1, "proxy_seconds": 2.5}
FULL, MIDDLE, SMALL = map(
    Subnet.parse, ("h0-1f0-3 h0-1f0-3 h0-1f0-3", "h0-1f0-2 h0-1f0 h0-1f0-1", "h0-1f0 - h0-1f0")
)


@pytest.fixture(scope="module")
def experiment(tiny_run) -> Experiment:
    """The trained one with noise on its weights, so that it emits tokens after so few updates."""
    loaded = load_experiment(tiny_run[0] / "exp", "last", 0, CPU)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in loaded.model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        loaded.model.joiner.output.bias[0] += 1.0  # blank: or nearly every frame would emit
    return loaded


def make_config(tiny_run, *overrides: str) -> Config:
    return load(
        "conf/mini.yaml", [*tiny_arguments(tiny_run[0]), "decode.max_duration=5", *overrides]
    )  # batches of one or two


def test_a_cache_is_appended_to_and_read_again(tmp_path):
    cache = ScoreCache(tmp_path / "search" / "scores", KEY)
    cache.add("loss", {FULL: 0.1 + 0.2, SMALL: 2.5})
    before = cache.path.read_bytes()
    cache.add("wer", {FULL: 12.5})
    assert (
        cache.path.read_bytes().startswith(before) and len(cache.path.read_text().splitlines()) == 4
    )
    for read in (cache, ScoreCache(cache.path, KEY)):
        assert [read.get("loss", net) for net in (FULL, SMALL, MIDDLE)] == [0.1 + 0.2, 2.5, None]
        assert [read.get("wer", net) for net in (FULL, SMALL)] == [12.5, None]


@pytest.mark.parametrize(
    "other", [{"update": 16}, {"dev": ["dev", "more"]}, {"proxy_seconds": 2.0}]
)
def test_a_cache_of_another_key_is_started_anew(tmp_path, other):
    ScoreCache(tmp_path / "scores", KEY).add("loss", {FULL: 1.5})
    for key in (KEY | other, KEY):  # the old scores are gone, not hidden
        assert ScoreCache(tmp_path / "scores", key).get("loss", FULL) is None
        assert json.loads((tmp_path / "scores").read_text()) == key


def test_a_cache_survives_being_cut_at_any_byte(tmp_path):
    """A run killed while it wrote: whole lines are kept, and what comes after them is readable
    too."""
    path = tmp_path / "scores"
    ScoreCache(path, KEY).add("loss", {FULL: 1.5, MIDDLE: 2.25})
    content = path.read_bytes()
    key, first, last = (
        len(b"".join(content.splitlines(keepends=True)[:n])) - 1 for n in (1, 2, 3)
    )  # without the line's end
    for cut in (
        0,
        1,
        key - 1,
        key,
        key + 1,
        first - 1,
        first,
        first + 1,
        first + 2,
        *range(first + 3, last, 9),
        last - 1,
        last,
    ):
        path.write_bytes(content[:cut])
        whole = 1.5 if cut >= first else None, 2.25 if cut >= last else None
        ScoreCache(path, KEY).add("wer", {SMALL: 30.0})
        again = ScoreCache(path, KEY)
        assert (again.get("loss", FULL), again.get("loss", MIDDLE), again.get("wer", SMALL)) == (
            *whole,
            30.0,
        )


def test_the_slice_is_the_same_at_every_call_and_about_as_long_as_asked(tiny_run, experiment):
    """It ends with the utterance that reaches the seconds; another seed draws others; more than dev
    has is dev."""
    seconds = {cut.id: cut.duration for cut in load_cuts(make_config(tiny_run), ["dev"])}
    half, drawn = sum(seconds.values()) / 2, []
    for seed in (1, 1, 2, 3, 4, 5):
        batches = dev_slice(
            make_config(tiny_run, f"search.proxy_seconds={half}", f"search.seed={seed}"), experiment
        )
        ids = [name for batch in batches for name in batch.ids]
        assert len(ids) == len(set(ids)) and half <= sum(
            seconds[name] for name in ids
        ) < half + max(seconds.values())
        drawn.append(ids)
    assert drawn[0] == drawn[1] and len(set(map(tuple, drawn))) > 1
    whole = dev_slice(make_config(tiny_run, "search.proxy_seconds=1000"), experiment)
    assert {name for batch in whole for name in batch.ids} == set(seconds)


def test_utterances_too_short_for_their_tokens_are_left_out(tiny_run, experiment):
    """Three tokens each, but as many as nobody has frames for in one, and none in another."""
    config = make_config(tiny_run, "search.proxy_seconds=1000", "decode.max_duration=300")
    (batch,) = eval_loader(config, ["dev"], 300)
    tokens = {batch.texts[0]: [3] * 10_000, batch.texts[-1]: []}
    kept = [name for name, text in zip(batch.ids, batch.texts) if text not in tokens]
    (got,) = dev_slice(
        config,
        replace(
            experiment, tokenizer=SimpleNamespace(encode=lambda text: tokens.get(text, [3, 4, 5]))
        ),
    )
    assert (
        got.ids == kept
        and got.features.shape[1] == int(got.lengths.max())
        and 0 < len(kept) < len(batch.ids)
    )


@torch.no_grad()
def loss_by_hand(experiment: Experiment, config: Config, subnet: Subnet) -> float:
    """Node by node, the subnet as a model of its own; the largest net gives it the ranges alone."""
    trained, supernet, alone = (
        experiment.config.loss,
        experiment.model,
        extract(experiment.model, experiment.config, subnet),
    )
    loss = TransducerLoss(
        choose_backend("torch", CPU),
        trained.prune_range,
        trained.lm_scale,
        trained.am_scale,
        trained.rnnt_type,
    )
    total, frames = 0.0, 0
    for batch in dev_slice(config, experiment):
        targets = make_targets(batch, experiment.tokenizer, experiment.config.model.tail_frames)
        predicted = supernet.predictor.teacher_forced(targets.symbols)
        largest, lengths = supernet.encoder(batch.features, batch.lengths)
        _, ranges = loss.simple(
            supernet.heads.simple_am(largest), supernet.heads.simple_lm(predicted), targets
        )
        am = alone.joiner.encoder_proj(alone.encoder(batch.features, batch.lengths)[0])
        nodes = torch.stack(
            [lm[window] for lm, window in zip(alone.joiner.predictor_proj(predicted), ranges)]
        )
        total += float(
            plain_pruned_loss(
                alone.joiner(am[:, :, None], nodes), ranges, targets, rnnt_type=trained.rnnt_type
            )
        )
        frames += int(lengths.sum())
    return total / frames


@pytest.mark.parametrize("rnnt_type, tail_frames", [("regular", 0), ("modified", 21)])
def test_losses_by_hand_and_each_once(
    tiny_run, experiment, tmp_path, monkeypatch, rnnt_type, tail_frames
):
    """In groups of two; a second search on the same cache computes only what is new. Lattice and
    tail are the trained model's."""
    trained = experiment.config
    trained = replace(
        trained,
        loss=replace(trained.loss, rnnt_type=rnnt_type),
        model=replace(trained.model, tail_frames=tail_frames),
    )
    monkeypatch.setattr(experiment.model.encoder.frontend, "tail_frames", tail_frames)
    experiment = replace(experiment, config=trained)
    config = make_config(tiny_run, "search.proxy_seconds=6")
    scores = CandidateScores(experiment, config, ScoreCache(tmp_path / "scores", KEY), CPU, 2)
    expected = [loss_by_hand(experiment, config, net) for net in (SMALL, FULL, MIDDLE)]
    first = scores.losses([SMALL, FULL, MIDDLE])
    assert (
        first == pytest.approx(expected, rel=1e-4)
        and len(scores.slice) > 1
        and len({round(x, 2) for x in expected}) == 3
    )
    assert scores.losses([FULL, SMALL, FULL]) == [
        first[1],
        first[0],
        first[1],
    ] and scores.computed == {"loss": 3, "wer": 0}
    again = CandidateScores(experiment, config, ScoreCache(tmp_path / "scores", KEY), CPU, 2)
    assert (
        again.losses([Subnet.parse("h0-1f0 - h0-1f0-3"), SMALL, FULL, MIDDLE])[1:] == first
        and again.computed["loss"] == 1
    )


def test_a_subnet_asked_for_twice_at_once_is_computed_once(tiny_run, experiment, tmp_path):
    scores = CandidateScores(
        experiment, make_config(tiny_run), ScoreCache(tmp_path / "scores", KEY), CPU
    )
    one, other, same = scores.losses([FULL, SMALL, FULL])
    assert one == same != other and scores.computed["loss"] == 2


@torch.no_grad()
def test_wer_by_hand_and_once(tiny_run, experiment, tmp_path):
    """Of the subnet as a model of its own, one utterance at a time."""
    config = make_config(tiny_run)
    alone = extract(experiment.model, experiment.config, MIDDLE)
    references, hypotheses = {}, {}
    for cut in load_cuts(config, ["dev"]):
        (batch,) = eval_loader(config, ["dev"], 300, lambda other: other.id == cut.id)
        (found,) = greedy_search(alone, *alone.encoder(batch.features, batch.lengths))
        references[cut.id], hypotheses[cut.id] = (
            cut.supervisions[0].text,
            experiment.tokenizer.decode(found.tokens),
        )
    assert any(hypotheses.values())
    scores = CandidateScores(experiment, config, ScoreCache(tmp_path / "scores", KEY), CPU)
    assert scores.wer(MIDDLE) == pytest.approx(score(references, hypotheses).wer, abs=1e-4)
    assert scores.wer(MIDDLE) == scores.cache.get("wer", MIDDLE) and scores.computed == {
        "loss": 0,
        "wer": 1,
    }


def test_a_model_of_the_modified_lattice_emits_one_symbol_a_frame(
    tiny_run, experiment, tmp_path, caplog
):
    """In the frame of a symbol it has never learnt what comes next, and would go on for as long as
    it is let."""
    found = {}
    entries = [
        describe_subnet(experiment.config, experiment.tokenizer.vocab_size, net, "by hand")
        for net in (FULL, MIDDLE, SMALL)
    ]
    for rnnt_type in ("regular", "modified"):
        trained = replace(
            experiment,
            config=replace(
                experiment.config, loss=replace(experiment.config.loss, rnnt_type=rnnt_type)
            ),
        )
        for count in (1, 4):
            config = make_config(
                tiny_run,
                f"decode.max_symbols={count}",
                "decode.methods=[greedy]",
                f"exp={tmp_path}",
            )
            caplog.clear()
            results = decode_subnets(config, trained, entries, CPU, tmp_path / "decode")
            found[rnnt_type, count] = [row.utterance_errors for row in results.rows]
            assert ("decode.max_symbols=4 has no effect" in caplog.text) == (
                (rnnt_type, count) == ("modified", 4)
            )
    assert (
        found["regular", 1] == found["modified", 1] == found["modified", 4] != found["regular", 4]
    )


def test_wer_is_of_all_dev_sets_together(tiny_run, experiment, tmp_path, monkeypatch):
    """1 error in 1 word and 1 in 7 are 2 in 8, not the mean of two rates."""
    found = {
        "dev": ({"a": "yes"}, {"a": "no"}),
        "more": ({"b": "a b c d", "c": "e f g"}, {"b": "a b c d", "c": "e g"}),
    }
    scores = CandidateScores(
        experiment, make_config(tiny_run), ScoreCache(tmp_path / "scores", KEY), CPU
    )
    scores.config = make_config(tiny_run, "data.dev=[dev,more]")
    monkeypatch.setattr(
        candidate_scores,
        "decode_split",
        lambda of, config, subnet, split, *_: DecodedSplit(*found[split]),
    )
    assert scores.wer(SMALL) == 25.0


def test_operators_are_made_once_for_all_batches_and_subnets(
    tiny_run, experiment, tmp_path, monkeypatch
):
    """They depend on the weights alone."""
    config = make_config(
        tiny_run, "search.proxy_seconds=6", "decode.methods=[greedy]", f"exp={tmp_path}"
    )
    entries = [
        describe_subnet(experiment.config, experiment.tokenizer.vocab_size, net, "by hand")
        for net in (SMALL, MIDDLE)
    ]
    encoder, made = experiment.model.encoder, []
    make = encoder.operators
    monkeypatch.setattr(encoder, "operators", lambda: made.append(make()) or made[-1])
    scores = CandidateScores(experiment, config, ScoreCache(tmp_path / "scores", KEY), CPU, 1)
    scores.losses([SMALL, FULL, MIDDLE])
    scores.wer(SMALL)
    scores.wer(MIDDLE)
    assert len(scores.slice) > 1 and len(made) == 1
    decode_subnets(config, experiment, entries, CPU, tmp_path / "decode")
    assert len(made) == 2
    losses_per_frame(scores.loss, scores.slice, [SMALL], Weights(1.0, 1.0, 0.0))
    assert len(made) == 3
