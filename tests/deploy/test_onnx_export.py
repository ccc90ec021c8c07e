"""The graphs against torch, through onnxruntime."""

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

from tests.conftest import ROOT
from tests.helpers import VOCAB, tiny_config, tiny_model
from todm.config.keys import Config
from todm.config.load import load
from todm.deploy.onnx_export import (
    export_decoder,
    export_joiner,
    export_offline_encoder,
    export_streaming_encoder,
)
from todm.deploy.quantize import session
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from todm.supernet.extract import extract

pytestmark = pytest.mark.slow  # exports whole nets
LARGEST = "h0-2f0-3 h0-2f0-3 h0-2f0-3"
SOME = "h0,2f1,3 f2 h1"
VARIANTS = [
    ((), LARGEST),
    ((), SOME),
    ((), "h0f0 - h0-1f0-2"),
    ((), "- - -"),
    (("model.gating=false",), SOME),
    (("model.stack=2",), SOME),
    (("model.direction=causal",), LARGEST),
    (("model.tail_frames=21",), SOME),
    (("model.rates=[2,1,4]",), LARGEST),
    (("model.rates=[4,4,2]",), "h0f0 - h0-1f0-2"),
]
# states fade over thousands of encoder frames: what is long past must still be heard
SLOW = "model.dt_min=0.0005"
FRAMES = (30, 31, 127, 131, 132, 500, 1300, 4000)
LOG_EPSILON = float(np.log(1e-10))


def config_of(overrides: tuple[str, ...]) -> Config:
    return tiny_config(SLOW, *overrides)


@lru_cache
def supernet(overrides: tuple[str, ...]) -> Transducer:
    model = tiny_model(config_of(overrides)).eval()
    model.encoder.frontend.set_statistics(
        torch.linspace(-9, -6, 80).tolist(), torch.linspace(2, 4, 80).tolist()
    )
    return model


def alone(overrides: tuple[str, ...], text: str) -> Transducer:
    return extract(supernet(overrides), config_of(overrides), Subnet.parse(text))


@torch.no_grad()
def in_torch(overrides: tuple[str, ...], text: str, features: Tensor) -> Tensor:
    """(T, 80) -> (T', joiner_dim), by the supernet, the whole utterance alone."""
    model = supernet(overrides)
    encoded, _ = model.encoder(features[None], torch.tensor([len(features)]), Subnet.parse(text))
    return model.joiner.encoder_proj(encoded)[0]


def speechlike(frames: int, seed: int = 0) -> Tensor:
    """(frames, 80) in the range of log-mel features, smooth in time and frequency."""
    noise = torch.randn(
        1, 1, frames + 9, 84, generator=torch.Generator().manual_seed(100_000 * seed + frames)
    )
    return 12 * nn.functional.avg_pool2d(noise, (9, 5), 1)[0, 0, :frames] - 7.5


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A function: (overrides, subnet) -> path of its offline encoder, exported once."""
    folder = tmp_path_factory.mktemp("offline")

    @lru_cache
    def exported(overrides: tuple[str, ...], text: str) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        export_offline_encoder(alone(overrides, text), path, "a comment")
        return path

    return exported


loaded = lru_cache(maxsize=4)(session)


def run_offline(path: Path, utterances: list[Tensor], padding: int = 0) -> list[np.ndarray]:
    """As sherpa-onnx does it: a batch padded with log(1e-10), ``padding`` frames longer than it
    must be."""
    lengths = [len(u) for u in utterances]
    x = np.full((len(utterances), max(lengths) + padding, 80), LOG_EPSILON, np.float32)
    for row, u in zip(x, utterances):
        row[: len(u)] = u.numpy()
    return step(loaded(path), x, np.array(lengths))


def step(run: InferenceSession, *values: np.ndarray) -> list[np.ndarray]:
    """All outputs; inputs by position, as sherpa-onnx gives them."""
    return run.run(None, dict(zip((i.name for i in run.get_inputs()), values)))


@pytest.mark.parametrize("overrides, text", VARIANTS)
def test_the_offline_encoder_is_torch_at_every_length_alone_and_in_a_batch(
    offline, overrides, text
):
    path = offline(overrides, text)
    utterances = [speechlike(frames) for frames in FRAMES]
    expected = [in_torch(overrides, text, u).numpy() for u in utterances]
    together, lengths = run_offline(path, utterances, padding=5)
    tail = config_of(overrides).model.tail_frames
    assert (
        lengths.tolist() == [(frames + tail - 3) // 4 for frames in FRAMES]
        and lengths.dtype == np.int64
    )
    for i, (utterance, right) in enumerate(zip(utterances, expected)):
        (single,), (length,) = run_offline(path, [utterance])
        assert length == len(right)
        np.testing.assert_allclose(single[:length], right, rtol=0, atol=1e-4)
        np.testing.assert_allclose(together[i, :length], right, rtol=0, atol=1e-4)


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_what_is_hundreds_of_blocks_past_is_carried(offline, direction):
    """400 s are 312 blocks, so 9 levels of doubling; the beginning is heard at the end, in torch as
    in the graph."""
    overrides, frames = (
        (
            f"model.direction={direction}",
            "model.dt_max=0.0005",
            "model.blocks=1",
            "supernet.min_blocks=1",
        ),
        40000,
    )
    x = speechlike(frames)
    changed = x.clone()
    changed[: frames // 8] *= -1
    got = [
        run_offline(offline(overrides, "h0-2f0-3"), [u])[0][0, : (frames - 3) // 4]
        for u in (x, changed)
    ]
    expected = [in_torch(overrides, "h0-2f0-3", u).numpy() for u in (x, changed)]
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
    assert np.abs(expected[0] - expected[1])[-1000:].max() > 1e-3


@pytest.mark.parametrize(
    "overrides, text",
    [
        ((), LARGEST),
        (("model.direction=causal",), LARGEST),
        ((), "- - -"),
        (("model.tail_frames=21",), SOME),
    ],
)
@pytest.mark.parametrize(
    "frames, length", [(0, 0), (1, 0), (3, 0), (6, 0), (7, 1), (10, 1), (11, 2)]
)
def test_utterances_that_are_too_short_have_length_0(offline, overrides, text, frames, length):
    path = offline(overrides, text)
    if overrides == ("model.tail_frames=21",):
        length, whole = (frames + 21 - 3) // 4 if length else 0, 54
    else:
        whole = 49
    encoded, lengths = run_offline(path, [speechlike(frames)])
    assert (
        lengths.tolist() == [length]
        and encoded.shape[0] == 1
        and encoded.shape[1] >= length
        and encoded.shape[2] == 10
    )
    encoded, lengths = run_offline(path, [speechlike(frames), speechlike(200, seed=1)])
    assert lengths.tolist() == [length, whole]
    np.testing.assert_allclose(
        encoded[1, :whole],
        in_torch(overrides, text, speechlike(200, seed=1)).numpy(),
        rtol=0,
        atol=1e-4,
    )
    if length:
        np.testing.assert_allclose(
            encoded[0, :length],
            in_torch(overrides, text, speechlike(frames)).numpy(),
            rtol=0,
            atol=1e-4,
        )


def test_the_offline_encoder_says_what_the_client_asks(offline):
    run = session(offline((), SOME))
    assert [(i.name, i.type) for i in run.get_inputs()] == [
        ("x", "tensor(float)"),
        ("x_lens", "tensor(int64)"),
    ]
    assert [(o.name, o.type) for o in run.get_outputs()] == [
        ("encoder_out", "tensor(float)"),
        ("encoder_out_lens", "tensor(int64)"),
    ]
    metadata = run.get_modelmeta().custom_metadata_map
    assert metadata["model_type"] == "conformer" and metadata["comment"] == "a comment"


MEASURE = """
import ctypes
import sys
import numpy as np
from onnxruntime import InferenceSession, SessionOptions


def most():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


options = SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
run = InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
frames = int(sys.argv[2])
x = np.random.default_rng(0).normal(-8, 3, (1, frames, 80)).astype(np.float32)
# loading leaves 130 MiB to be used again, which would hide what running needs
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")  # the most resident starts anew
before = most()
encoded, lengths = run.run(None, {"x": x, "x_lens": np.array([frames])})
assert lengths == (frames - 3) // 4 and np.isfinite(encoded).all()
print(most() - before)
"""


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> tuple[Transducer, Path]:
    """The largest net of conf/mini.yaml with random weights, and its offline encoder."""
    torch.manual_seed(0)
    model = Transducer(load("mini"), 120, training_heads=False).eval()
    with torch.no_grad():
        for (
            p
        ) in model.parameters():  # new SSMs are equal in part, and equal weights are stored once
            p.add_(0.01 * torch.randn_like(p))
    path = tmp_path_factory.mktemp("mini") / "encoder.onnx"
    export_offline_encoder(model, path, "")
    return model, path


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_memory_is_linear_in_the_length(mini):
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}

    def megabytes(seconds: int) -> float:
        command = [sys.executable, "-c", MEASURE, str(mini[1]), str(100 * seconds)]
        return float(
            subprocess.run(
                command, cwd=ROOT, env=plain, capture_output=True, text=True, check=True
            ).stdout
        )

    of = {seconds: megabytes(seconds) for seconds in (30, 60, 120, 240)}
    assert of[30] < 300 and 10 < of[120] < 3 * of[60] and of[240] < 2.5 * of[120]


def numbers(*modules: nn.Module) -> int:
    """Parameters and buffers."""
    return sum(value.numel() for module in modules for value in module.state_dict().values())


def more_of_operators(model: Transducer) -> int:
    """Bytes that operators of blocks of 8 frames have more than the parameters that they are made
    of: a channel's kernel as an 8 x 8 matrix, 8 inputs and 8 outputs of 2 N states, a decay of 2 N
    numbers and D, for dt, A and C of 4 N numbers and D."""
    more = 0
    for block in model.encoder.blocks:
        for ssm in block.ssm.ssms if block.ssm is not None else []:
            channels, modes = ssm.a_imag.shape
            more += channels * (8 * 8 + 2 * 8 * 2 * modes + 2 * modes - 1 - 4 * modes)
    return 4 * more


def check(path: Path) -> onnx.ModelProto:
    """The graph, checked with shapes; of equal constants and initializers there is one."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    values = [
        onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant"
    ]
    keys = [(value.dtype.str, value.shape, value.tobytes()) for value in values]
    assert len(keys) == len(set(keys))
    weights = [
        (w.data_type, tuple(w.dims), w.raw_data)
        for w in model.graph.initializer
        if np.prod(w.dims) > 16
    ]
    assert len(weights) == len(set(weights))
    return model


def weight_bytes(model: onnx.ModelProto) -> int:
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    return sum(onnx.numpy_helper.to_array(w).nbytes for w in [*model.graph.initializer, *constants])


def test_files_hold_the_parameters_and_little_else(mini, offline, tmp_path):
    """With the operators of the SSMs in the place of their parameters."""
    model, path = mini
    own = 4 * numbers(model.encoder, model.joiner.encoder_proj) + more_of_operators(model)
    assert 0.99 * own < weight_bytes(check(path)) < 1.02 * own
    assert path.stat().st_size < 1.5 * own + 100_000
    export_decoder(model, tmp_path / "decoder.onnx")
    export_joiner(model, tmp_path / "joiner.onnx")
    for name, modules in {
        "decoder": [model.predictor, model.joiner.predictor_proj],
        "joiner": [model.joiner.output],
    }.items():
        own = 4 * numbers(*modules)
        assert 0.99 * own < weight_bytes(check(tmp_path / f"{name}.onnx")) < 1.02 * own
        assert (tmp_path / f"{name}.onnx").stat().st_size < 1.02 * own + 20_000


@pytest.mark.parametrize("overrides, text", VARIANTS)
def test_small_graphs_hold_their_own_parameters_too(offline, overrides, text):
    model = alone(overrides, text)
    own = 4 * numbers(model.encoder, model.joiner.encoder_proj) + more_of_operators(model)
    padding = 4 * 7 * 80  # frames
    graph = check(offline(overrides, text))
    assert own <= weight_bytes(graph) < own + padding + 3000
    assert (
        offline(overrides, text).stat().st_size < 1.5 * own + 100 * len(graph.graph.node) + 10_000
    )


STREAMED = [
    (("model.direction=causal",), LARGEST, 8),
    (("model.direction=causal",), LARGEST, 32),
    (("model.direction=causal",), SOME, 32),
    (("model.direction=causal", "model.stack=2"), "h0f0 - h0-1f0-2", 8),
    (("model.direction=causal", "model.gating=false"), SOME, 8),
    (("model.direction=causal",), "- - -", 8),
    (("model.direction=causal", "model.rates=[2,1,4]"), LARGEST, 32),
]
# By hand: 24 channels in 3 groups of heads (6 without gating), 3 modes: 24 states a group (12),
# twice with two SSMs stacked.
STATES = {
    (("model.direction=causal",), LARGEST): 9 * 24,
    (("model.direction=causal",), SOME): 3 * 24,
    (("model.direction=causal", "model.stack=2"), "h0f0 - h0-1f0-2"): 3 * 24 * 2,
    (("model.direction=causal", "model.gating=false"), SOME): 3 * 12,
}


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    """A function: (overrides, subnet, chunk) -> path of its streaming encoder, exported once."""
    folder = tmp_path_factory.mktemp("streaming")

    @lru_cache
    def exported(overrides: tuple[str, ...], text: str, chunk: int) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        export_streaming_encoder(alone(overrides, text), path, chunk, "a comment")
        return path

    return exported


def new_states(run: InferenceSession, batch: int) -> list[np.ndarray]:
    """Zeros, as the client makes them: of the sizes that the metadata says."""
    metadata = run.get_modelmeta().custom_metadata_map
    layers = int(metadata["num_encoder_layers"])
    return [
        np.zeros((layers, batch, int(metadata[key])), np.float32)
        for key in ("d_model", "rnn_hidden_size")
    ]


@pytest.mark.parametrize("overrides, text, chunk", STREAMED)
def test_chunk_by_chunk_the_streaming_encoder_is_torch_on_the_whole_utterance(
    streaming, overrides, text, chunk
):
    run = session(streaming(overrides, text, chunk))
    frames = 1600 + 3
    utterances = [speechlike(frames, seed) for seed in range(3)]
    x, states, outputs = np.stack(utterances), new_states(run, 3), []
    for start in range(0, frames - 3, chunk):
        output, *states = step(run, x[:, start : start + chunk + 3], *states)
        assert output.shape == (3, chunk // 4, 10) and [s.shape for s in states] == [
            s.shape for s in new_states(run, 3)
        ]
        outputs.append(output)
    for got, utterance in zip(np.concatenate(outputs, axis=1), utterances):
        np.testing.assert_allclose(
            got, in_torch(overrides, text, utterance).numpy(), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("overrides, text, chunk", [key for key in STREAMED if key[:2] in STATES])
def test_the_streaming_encoder_says_what_the_client_asks_of_an_lstm(
    streaming, overrides, text, chunk
):
    run = session(streaming(overrides, text, chunk))
    size = str(STATES[overrides, text])
    metadata = run.get_modelmeta().custom_metadata_map
    assert {
        k: metadata[k]
        for k in (
            "model_type",
            "T",
            "decode_chunk_len",
            "num_encoder_layers",
            "d_model",
            "rnn_hidden_size",
            "comment",
        )
    } == {
        "model_type": "lstm",
        "T": str(chunk + 3),
        "decode_chunk_len": str(chunk),
        "num_encoder_layers": "1",
        "d_model": size,
        "rnn_hidden_size": size,
        "comment": "a comment",
    }
    assert [i.shape for i in run.get_inputs()] == [
        ["N", chunk + 3, 80],
        [1, "N", int(size)],
        [1, "N", int(size)],
    ]
    assert [o.shape[0] for o in run.get_outputs()] == ["N", 1, 1] and {
        i.type for i in [*run.get_inputs(), *run.get_outputs()]
    } == {"tensor(float)"}
    check(streaming(overrides, text, chunk))


def test_streams_in_a_batch_do_not_hear_each_other(streaming):
    run = session(streaming(*STREAMED[0]))
    generator = np.random.default_rng(0)
    x = generator.normal(-8, 3, (3, 11, 80)).astype(np.float32)
    states = [generator.normal(0, 1, s.shape).astype(np.float32) for s in new_states(run, 3)]
    together = step(run, x, *states)
    for i in range(3):
        one = step(run, x[i : i + 1], *(s[:, i : i + 1] for s in states))
        np.testing.assert_allclose(one[0][0], together[0][i], atol=1e-5)
        for a, b in zip(one[1:], together[1:]):
            np.testing.assert_allclose(a[:, 0], b[:, i], atol=1e-5)


def test_a_bidirectional_model_does_not_stream(tmp_path):
    with pytest.raises(ValueError, match="bidirectional"):
        export_streaming_encoder(alone((), LARGEST), tmp_path / "x.onnx", 32, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunk", [0, 2, 30, -4])
def test_a_chunk_that_is_no_multiple_of_4_is_refused(tmp_path, chunk):
    with pytest.raises(ValueError, match="multiple of 4"):
        export_streaming_encoder(
            alone(("model.direction=causal",), LARGEST), tmp_path / "x.onnx", chunk, ""
        )
    assert not list(tmp_path.iterdir())


def test_a_chunk_that_a_lower_rate_does_not_divide_is_refused(tmp_path):
    model = alone(("model.direction=causal", "model.rates=[1,8,1]"), LARGEST)
    with pytest.raises(ValueError, match="48 frames is not a multiple of 32"):
        export_streaming_encoder(model, tmp_path / "x.onnx", 48, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("context", [1, 2, 3])
def test_the_decoder_is_torch_and_a_negative_id_embeds_as_zero(tmp_path, context):
    overrides = (f"model.context_size={context}",)
    model = alone(overrides, LARGEST)
    export_decoder(model, tmp_path / "decoder.onnx")
    check(tmp_path / "decoder.onnx")
    run = session(tmp_path / "decoder.onnx")
    y = np.random.default_rng(0).integers(-1, VOCAB, (40, context))
    y[0], y[1], y[2] = -1, [-1] * (context - 1) + [0], VOCAB - 1
    (got,) = step(run, y)
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    embedded = np.where(
        y[..., None] < 0, 0, weights["predictor.embedding.weight"][y]
    )  # (N, context, 12)
    kernel = weights["predictor.conv.weight"]  # (12, 4, context): 3 groups of 4
    summed = np.einsum(
        "ntgi,goit->ngo", embedded.reshape(40, context, 3, 4), kernel.reshape(3, 4, 4, context)
    ).reshape(40, 12)
    expected = (
        np.maximum(summed, 0) @ weights["joiner.predictor_proj.weight"].T
        + weights["joiner.predictor_proj.bias"]
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got[0], weights["joiner.predictor_proj.bias"], rtol=0, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(
            got,
            model.joiner.predictor_proj(model.predictor(torch.from_numpy(y)))[:, 0].numpy(),
            rtol=0,
            atol=1e-5,
        )
    metadata = run.get_modelmeta().custom_metadata_map
    assert metadata["vocab_size"] == str(VOCAB) and metadata["context_size"] == str(context)
    assert [i.shape for i in run.get_inputs()] == [["N", context]] and run.get_inputs()[
        0
    ].type == "tensor(int64)"


@pytest.mark.parametrize("batch", [1, 5])
def test_the_joiner_is_torch(tmp_path, batch):
    model = alone((), LARGEST)
    export_joiner(model, tmp_path / "joiner.onnx")
    check(tmp_path / "joiner.onnx")
    run = session(tmp_path / "joiner.onnx")
    generator = np.random.default_rng(0)
    encoded, predicted = (generator.normal(0, 2, (batch, 10)).astype(np.float32) for _ in range(2))
    (got,) = step(run, encoded, predicted)
    output = model.joiner.output
    np.testing.assert_allclose(
        got,
        np.tanh(encoded + predicted) @ output.weight.detach().numpy().T
        + output.bias.detach().numpy(),
        rtol=0,
        atol=1e-5,
    )
    assert (
        got.shape == (batch, VOCAB)
        and run.get_modelmeta().custom_metadata_map["joiner_dim"] == "10"
    )


def test_a_failing_export_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "joiner.onnx"
    path.write_bytes(b"earlier")
    model = alone((), LARGEST)
    monkeypatch.setattr("onnx.save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export_joiner(model, path)
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", [LARGEST, "f0-3 - f0"])
def test_an_export_says_nothing(tmp_path, capfd, text):
    model = alone(("model.direction=causal",), text)
    export_offline_encoder(model, tmp_path / "encoder.onnx", "")
    export_streaming_encoder(model, tmp_path / "streaming.onnx", 32, "")
    export_decoder(model, tmp_path / "decoder.onnx")
    export_joiner(model, tmp_path / "joiner.onnx")
    assert capfd.readouterr() == ("", "")
