"""CTC models outside of experiments: the recogniser, whole and streamed, and sherpa-onnx on an
exported folder, against the model itself."""

import numpy as np
import pytest
import torch

from tests.helpers import tiny_config
from tests.recognizers import SMALL, babble, plain_search, plain_text, talkative_ctc, tokenizer
from todm.decoding.ctc_search import CtcGreedySearch, ctc_greedy_search
from todm.decoding.recognizer import Recognizer
from todm.deploy.client import Client
from todm.deploy.export import write_subnet
from todm.deploy.onnx_export import CtcOutput
from todm.deploy.quantize import quantizable, quantize, session
from todm.search import client_latency, timing
from todm.subnet import Subnet
from todm.supernet.cost import describe_subnet
from todm.supernet.exported import load_model
from todm.supernet.search_space import SearchSpace
from todm.training.experiment import Experiment, describe
from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.tokens import BLANK, SOS_EOS, UNK

SPECIAL = (BLANK, SOS_EOS, UNK)
UTTERANCES = [babble(3.21), babble(0.6, seed=1), babble(5.5, seed=5), babble(1.3, seed=3)]


def ctc_config(*overrides: str):
    return tiny_config(
        "loss.objective=ctc", "loss.ctc_weight=1", "export.chunk_frames=16", *overrides
    )


def ctc_recognizer(beam: int = 0, *overrides: str, chunk_frames: int = 16) -> Recognizer:
    config = ctc_config(*overrides)
    model = talkative_ctc(config)
    entry = describe_subnet(config, tokenizer().vocab_size, Subnet.parse(SMALL), "by hand")
    return Recognizer(config, model, tokenizer(), [entry], beam, chunk_frames)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = ctc_config()
    experiment = Experiment(
        config, talkative_ctc(config), tokenizer(), 0, 0.0, 0.0, "random weights"
    )
    made = tmp_path_factory.mktemp("ctc")
    write_subnet(
        made,
        config,
        experiment,
        describe_subnet(config, tokenizer().vocab_size, Subnet.parse(SMALL), "by hand"),
    )
    quantize(made / "model.onnx", made / "model.int8.onnx")
    return made


def test_the_model_of_these_tests_says_something_else_everywhere():
    """Many tokens, blanks too, and <unk> or <sos/eos> as the best symbol of some frames: a wrong
    client would be seen."""
    recognizer = ctc_recognizer()
    found = recognizer.transcribe_batch(UTTERANCES)
    assert all(t.text for t in found) and len({token for t in found for token in t.tokens}) > 10
    encoded, _ = recognizer.model.encoder(
        torch.stack([torch.randn(300, 80)]) * 3 - 8, torch.tensor([300]), recognizer.subnet
    )
    best = recognizer.model.ctc_log_probs(encoded).argmax(-1)
    assert all((best == symbol).any() for symbol in SPECIAL) and (best > UNK).float().mean() > 0.2


@pytest.mark.parametrize("beam", [0, 4])
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_a_batch_gets_what_the_model_itself_finds_in_every_utterance(direction, beam):
    recognizer = ctc_recognizer(beam, f"model.direction={direction}")
    for samples, found in zip(UTTERANCES, recognizer.transcribe_batch(UTTERANCES)):
        expected = plain_search(recognizer.model, samples, SMALL, beam)
        assert found.text == plain_text(expected) and found.timestamps == [
            pytest.approx(0.04 * f, abs=0.006) for f in expected.frames
        ]
    assert [
        t.text
        for t in recognizer.transcribe_batch([np.zeros(0, np.float32), np.zeros(100, np.float32)])
    ] == ["", ""]


@pytest.mark.parametrize("chunk_frames", [4, 16, 32])
def test_a_stream_gives_what_the_whole_utterance_gives(chunk_frames):
    recognizer = ctc_recognizer(0, "model.direction=causal", chunk_frames=chunk_frames)
    for samples, expected in zip(UTTERANCES, recognizer.transcribe_batch(UTTERANCES)):
        stream = recognizer.stream(endpoints=False)
        for start in range(0, len(samples), 1000):
            stream.accept(samples[start : start + 1000])
        assert stream.finish() == expected


@pytest.mark.parametrize("seed", range(5))
def test_greedy_search_piece_by_piece_is_that_of_the_whole(seed):
    """Tokens that go on over a border are one, also with pieces of no frames and rows that end
    early."""
    rng = torch.Generator().manual_seed(seed)
    log_probs = (
        (torch.randn(3, 40, 6, generator=rng) * torch.tensor([1, 1, 1, 3, 3, 3]))
        .repeat_interleave(2, dim=1)
        .log_softmax(-1)
    )
    lengths = torch.tensor([80, 80, 80])
    expected, search = ctc_greedy_search(log_probs, lengths), CtcGreedySearch(3)
    for piece in log_probs.split([1, 0, 16, 2, 1, 29, 31], dim=1):
        search.accept(piece, torch.full((3,), piece.shape[1]))
    assert search.hypotheses() == expected and all(len(h.tokens) > 5 for h in expected)
    ended = CtcGreedySearch(3)
    ended.accept(log_probs, torch.tensor([80, 33, 0]))
    assert [h.tokens for h in ended.hypotheses()] == [
        h.tokens for h in ctc_greedy_search(log_probs, torch.tensor([80, 33, 0]))
    ]
    assert ended.last.tolist() == [
        int(log_probs[0, 79].argmax()),
        int(log_probs[1, 32].argmax()),
        BLANK,
    ]


def test_a_stream_with_a_beam_is_refused():
    with pytest.raises(UserError, match="whole utterances"):
        ctc_recognizer(4, "model.direction=causal").stream()


def test_experiment_and_exported_folder_are_loaded(folder, tmp_path):
    config = ctc_config()
    model = talkative_ctc(config)
    state = {"model": model.state_dict(), "hours": 0.0, "seconds": 0.0}
    save_checkpoint(tmp_path / "checkpoints", 7, describe(config, tokenizer()) | state, 1)
    trained, alone = Recognizer.load(tmp_path), Recognizer.load(folder)
    trained.use(SMALL)
    for samples in UTTERANCES:
        expected = plain_text(plain_search(model, samples, SMALL))
        assert (
            trained.transcribe_batch([samples])[0].text
            == alone.transcribe_batch([samples])[0].text
            == expected
        )


def test_the_client_recognises_what_torch_does(folder):
    """Alone and in a batch, times too; <unk> and <sos/eos> never appear and part equal tokens, as
    in torch."""
    expected, client = ctc_recognizer().transcribe_batch(UTTERANCES), Client(folder)
    for found in (
        client.decode(UTTERANCES),
        [client.decode([samples])[0] for samples in UTTERANCES],
    ):
        assert [r.text for r in found] == [t.text for t in expected]
        assert [r.timestamps for r in found] == [
            pytest.approx(t.timestamps, abs=1e-3) for t in expected
        ]


def test_int8_runs_and_is_near(folder):
    expected, found = Client(folder).decode(UTTERANCES), Client(folder, "int8").decode(UTTERANCES)
    assert sum(a.text == b.text for a, b in zip(expected, found)) >= 1 and all(
        r.text for r in found
    )
    assert quantizable(folder / "model.onnx") and not quantizable(folder / "model.int8.onnx")


@pytest.mark.parametrize("frames, length", [(0, 0), (6, 0), (7, 1), (90, 21)])
def test_the_graph_is_the_stored_model(folder, frames, length):
    """Log-probabilities of every token; blank's is the best of the three that count as blank."""
    _, model, _, _ = load_model(folder, torch.device("cpu"))
    x = torch.randn(1, frames, 80, generator=torch.Generator().manual_seed(3)) * 3 - 8
    got, lengths = session(folder / "model.onnx").run(
        None, {"x": x.numpy(), "x_lens": np.array([frames])}
    )
    assert lengths.tolist() == [length]
    if length:
        with torch.no_grad():
            expected = model.heads.ctc(model.encoder(x, torch.tensor([frames]))[0]).log_softmax(-1)[
                0
            ]
        np.testing.assert_allclose(got[0, :length, 3:], expected[:, 3:], atol=1e-4)
        np.testing.assert_allclose(got[0, :length, 0], expected[:, :3].max(-1).values, atol=1e-4)
        assert (got[0, :, 1:3] < got[0, :, 3:].max(-1, keepdims=True)).all()


def test_what_counts_as_blank_by_hand():
    model = talkative_ctc(ctc_config())
    with torch.no_grad():
        model.heads.ctc.weight.zero_()
        model.heads.ctc.bias.copy_(torch.full((model.vocab_size,), -20.0)).index_copy_(
            0, torch.tensor([0, 1, 2, 5]), torch.tensor([1.0, 2.0, 3.0, 2.5])
        )
        found = CtcOutput(model)(torch.zeros(1, 16))
    total = np.log(np.exp([1.0, 2.0, 3.0, 2.5]).sum())
    np.testing.assert_allclose(found[0, [0, 5]], [3.0 - total, 2.5 - total], atol=1e-5)
    assert int(found.argmax()) == BLANK


@pytest.mark.parametrize("kind", [{"method": "beam"}, {"streaming": True}])
def test_what_no_client_can_do_with_a_ctc_model_is_refused(folder, kind):
    with pytest.raises(UserError, match="CTC model"):
        Client(folder, **kind)


@pytest.mark.slow
def test_latency_of_a_ctc_model_is_measured_in_the_client(monkeypatch):
    """One graph a net; a transducer's three would end the process."""
    monkeypatch.setattr(timing, "REPEATS", 3)
    monkeypatch.setattr(client_latency, "SECONDS", 0.5)
    config = ctc_config()
    space = SearchSpace(config, tokenizer().vocab_size)
    table, check = client_latency.measure(
        talkative_ctc(config), config, space, [(h, w) for h in space.heads for w in space.widths]
    )
    assert (
        table.engine == "sherpa-onnx"
        and len(table.blocks) == 4
        and len(check) == 3
        and all(row["measured_ms"] > 0 for row in check)
    )
