import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.helpers import tiny_config, tiny_model
from todm.deploy.onnx_export import (
    export_decoder,
    export_joiner,
    export_offline_encoder,
    export_streaming_encoder,
)
from todm.deploy.quantize import quantizable, quantize, quantize_within, session, worst_first
from todm.subnet import Subnet
from todm.supernet.extract import extract

OUTLIERS = {
    "n0": 1.0,
    "n1": 25.0,
    "n2": 5.0,
    "n3": 500.0,
    "n4": 125.0,
}  # the largest weight of every node of the toy graph
WORST_FIRST = ["n3", "n4", "n1", "n2", "n0"]


def nodes(path: Path, kind: str) -> list[str]:
    """Names of the nodes of a kind."""
    return [node.name for node in onnx.load(path).graph.node if node.op_type == kind]


def in_fp32(path: Path) -> set[str]:
    """Names of the MatMuls whose second factor is a float weight of a linear layer."""
    graph = onnx.load(path).graph
    weights = {
        w.name
        for w in graph.initializer
        if w.data_type == TensorProto.FLOAT and not w.name.startswith("operators.")
    }
    return {
        node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights
    }


@pytest.fixture
def toy(tmp_path) -> tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """y = sum of five products x W, in each of which one large weight, multiplied by 0, spoils the
    steps of the others.

    Every other row of W is 0: processors without VNNI add two neighbouring products in 16 bits,
    where large ones would saturate.

    Returns:
      The graph's path, an input, the five W by node.
    """
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (40, 32)).astype(np.float32)
    x[:, 0] = 0
    weights = {}
    for name, largest in OUTLIERS.items():
        weights[name] = generator.uniform(-0.9, 0.9, (32, 6)).astype(np.float32)
        weights[name][1::2] = 0
        weights[name][0] = largest * np.linspace(0.3, 1, 6)  # another step for every column
    products = [
        helper.make_node("MatMul", ["x", f"w-{name}"], [f"y-{name}"], name) for name in weights
    ]
    graph = helper.make_graph(
        [*products, helper.make_node("Sum", [f"y-{name}" for name in weights], ["y"], "sum")],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(w, f"w-{name}") for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"model_type": "toy", "comment": "kept"})
    onnx.save(model, tmp_path / "toy.onnx")
    return tmp_path / "toy.onnx", {"x": x}, weights


def eight_bits(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The product of x in 256 steps from its smallest to its largest value and w in 255 steps per
    column around 0."""
    step = (x.max() - x.min()) / 255
    steps = np.abs(w).max(0) / 127
    return np.round(x / step) * step @ (np.round(w / steps) * steps)


def exported(
    folder: Path, text: str, *overrides: str, change=lambda model: None
) -> tuple[Path, torch.nn.Module]:
    """The offline encoder of a subnet of a tiny model, and that subnet."""
    config = tiny_config(*overrides)
    model = extract(tiny_model(config).eval(), config, Subnet.parse(text))
    with torch.no_grad():
        change(model)
    export_offline_encoder(model, folder / "encoder.onnx", "a comment")
    return folder / "encoder.onnx", model


@pytest.mark.parametrize(
    "overrides, text, count",
    [
        (
            (),
            "h0,2f1,3 f2 h1",
            1 + (2 + 2) + 2 + 2 + 1,
        ),  # of the frontend; in and out of SSM and FFN, an FFN, an SSM; the joiner's projection
        (("model.stack=2", "model.gating=false"), "h0 f0-3 -", 1 + 2 + 2 + 1),
        ((), "- - -", 2),
    ],
)
def test_every_product_with_a_weight_can_be_quantised(tmp_path, overrides, text, count):
    path, _ = exported(tmp_path, text, *overrides)
    found = quantizable(path)
    assert len(found) == len(set(found)) == count and set(found) == in_fp32(path)
    quantize(path, tmp_path / "int8.onnx")
    assert len(nodes(tmp_path / "int8.onnx", "MatMulInteger")) == count and not in_fp32(
        tmp_path / "int8.onnx"
    )


def test_every_other_graph_has_its_products_too(tmp_path):
    config = tiny_config("model.direction=causal")
    model = extract(tiny_model(config).eval(), config, Subnet.parse("h0,2f1,3 f2 h1"))
    export_streaming_encoder(model, tmp_path / "streaming.onnx", 32, "")
    export_decoder(model, tmp_path / "decoder.onnx")
    export_joiner(model, tmp_path / "joiner.onnx")
    for name, count in {"streaming": 10, "decoder": 1, "joiner": 1}.items():
        assert len(quantizable(tmp_path / f"{name}.onnx")) == count
        quantize(tmp_path / f"{name}.onnx", tmp_path / "int8.onnx")
        assert len(nodes(tmp_path / "int8.onnx", "MatMulInteger")) == count
        before, after = (
            session(tmp_path / f).get_modelmeta().custom_metadata_map
            for f in (f"{name}.onnx", "int8.onnx")
        )
        assert before and before.items() <= after.items()


def test_a_quantised_encoder_is_smaller_near_and_says_the_same_of_itself(tmp_path):
    path, _ = exported(tmp_path, "f0-3 h0f0-3 f0-3", "model.dim=64", "model.ffn_dim=256")
    quantize(path, tmp_path / "int8.onnx")
    fp32, int8 = session(path), session(tmp_path / "int8.onnx")
    x = np.random.default_rng(0).normal(0, 1, (2, 300, 80)).astype(np.float32)
    (expected, lengths), (got, got_lengths) = (
        run.run(None, {"x": x, "x_lens": np.array([300, 200])}) for run in (fp32, int8)
    )
    assert 1e-4 < np.linalg.norm(got - expected) / np.linalg.norm(
        expected
    ) < 0.1 and got_lengths.tolist() == lengths.tolist() == [74, 49]
    assert (
        fp32.get_modelmeta().custom_metadata_map.items()
        <= int8.get_modelmeta().custom_metadata_map.items()
    )
    assert (tmp_path / "int8.onnx").stat().st_size < 0.6 * path.stat().st_size


def test_named_nodes_stay_in_fp32(toy, tmp_path):
    path, inputs, weights = toy
    quantize(path, tmp_path / "int8.onnx", keep=["n1", "n3"])
    assert (
        in_fp32(tmp_path / "int8.onnx") == {"n1", "n3"}
        and len(nodes(tmp_path / "int8.onnx", "MatMulInteger")) == 3
    )
    assert {"model_type": "toy", "comment": "kept"}.items() <= session(
        tmp_path / "int8.onnx"
    ).get_modelmeta().custom_metadata_map.items()
    expected = sum(
        inputs["x"] @ w if name in ("n1", "n3") else eight_bits(inputs["x"], w)
        for name, w in weights.items()
    )
    np.testing.assert_allclose(
        session(tmp_path / "int8.onnx").run(None, inputs)[0], expected, rtol=0, atol=1e-2
    )


def test_keeping_all_changes_nothing(toy, tmp_path):
    path, inputs, _ = toy
    quantize(path, tmp_path / "int8.onnx", keep=quantizable(path))
    np.testing.assert_array_equal(
        *(session(p).run(None, inputs)[0] for p in (path, tmp_path / "int8.onnx"))
    )


def test_worst_first_ranks_by_the_relative_error_of_each_alone(toy):
    path, inputs, weights = toy
    exact = {name: inputs["x"] @ w for name, w in weights.items()}
    total = np.linalg.norm(sum(exact.values()))
    expected = {
        name: np.linalg.norm(eight_bits(inputs["x"], weights[name]) - exact[name]) / total
        for name in weights
    }
    ranked = worst_first(path, inputs)
    assert (
        [name for name, _ in ranked]
        == WORST_FIRST
        == sorted(expected, key=lambda name: -expected[name])
    )
    for name, error in ranked:
        assert error == pytest.approx(expected[name], rel=0.05)


def test_worst_first_finds_the_layer_of_a_model_that_was_made_bad(tmp_path):
    """Weights of one channel are 10,000 times the others' and its input a 10,000th: int8 rounds the
    others to 0."""

    def spoil(model) -> None:
        ffn = model.encoder.blocks[1].ffn
        ffn.norm.weight[3] /= 1e4
        ffn.up.weight[:, 3] *= 1e4

    path, model = exported(tmp_path, "h0f0 f0-3 f0-1", change=spoil)
    bad = model.encoder.blocks[1].ffn.up.weight.detach().numpy().T
    graph = onnx.load(path).graph
    of_weight = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    (name,) = [
        n.name
        for n in graph.node
        if n.op_type == "MatMul"
        and n.input[1] in of_weight
        and of_weight[n.input[1]].shape == bad.shape
        and np.allclose(of_weight[n.input[1]], bad)
    ]
    x = np.random.default_rng(0).normal(0, 1, (1, 300, 80)).astype(np.float32)
    (first, error), (_, second), *_ = worst_first(path, {"x": x, "x_lens": np.array([300])})
    assert first == name and error > 2 * second


def test_quantising_stops_at_the_first_good_result(toy, tmp_path):
    path, inputs, _ = toy
    kept = []

    def good() -> bool:
        kept.append(in_fp32(tmp_path / "int8.onnx"))
        return len(kept) == 3

    result = quantize_within(path, tmp_path / "int8.onnx", inputs, good)
    assert kept == [set(), set(WORST_FIRST[:1]), set(WORST_FIRST[:2])]
    assert [name for name, _ in result] == WORST_FIRST[:2] and in_fp32(
        tmp_path / "int8.onnx"
    ) == set(WORST_FIRST[:2])
    assert all(error > 0 for _, error in result)


def test_a_result_that_is_good_at_once_keeps_nothing(toy, tmp_path, monkeypatch):
    path, inputs, _ = toy
    monkeypatch.setattr(
        "todm.deploy.quantize.worst_first", lambda *_: pytest.fail("nothing is to be ranked")
    )
    assert quantize_within(path, tmp_path / "int8.onnx", inputs, lambda: True) == []
    assert not in_fp32(tmp_path / "int8.onnx")


def test_when_nothing_is_good_everything_stays_in_fp32(toy, tmp_path):
    path, inputs, _ = toy
    kept = []

    def good() -> bool:
        kept.append(in_fp32(tmp_path / "int8.onnx"))
        return False

    result = quantize_within(path, tmp_path / "int8.onnx", inputs, good)
    assert kept[:4] == [set(), *(set(WORST_FIRST[:n]) for n in (1, 2, 4))] and len(kept) <= 5
    assert [name for name, _ in result] == WORST_FIRST and in_fp32(tmp_path / "int8.onnx") == set(
        WORST_FIRST
    )
    np.testing.assert_array_equal(
        *(session(p).run(None, inputs)[0] for p in (path, tmp_path / "int8.onnx"))
    )


def test_logging_is_as_it_was(toy, tmp_path):
    path, _, _ = toy
    root = logging.getLogger()
    before, level = root.level, 17
    root.setLevel(level)
    try:
        quantize(path, tmp_path / "int8.onnx")
        assert root.level == level
        with pytest.raises(Exception, match="none.onnx"):
            quantize(tmp_path / "none.onnx", tmp_path / "other.onnx")
        assert root.level == level and sorted(p.name for p in tmp_path.iterdir()) == [
            "int8.onnx",
            "toy.onnx",
        ]
    finally:
        root.setLevel(before)


def test_the_matrices_of_ssms_are_stored_in_half(tmp_path):
    """As fp16 rounds them, and computed with in fp32; what fp16 can not hold stays as it is."""
    path, _ = exported(tmp_path, "h0-2f0-3 h0-2f0-3 h0-2f0-3")
    noise = np.random.default_rng(0).normal(-8, 3, (1, 300, 80)).astype(np.float32)
    inputs = {"x": noise, "x_lens": np.array([300])}
    quantize(path, tmp_path / "int8.onnx", keep=quantizable(path))
    weights = {w.name: w for w in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    original = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    products = [node for node in onnx.load(path).graph.node if node.op_type == "MatMul"]
    factors = {name for node in products for name in node.input}
    stacks = {name for name, value in original.items() if value.ndim == 3 and name in factors}
    assert {w for w in weights if w.endswith("_half")} == {f"{name}_half" for name in stacks}
    assert {"operators.0.0.collect", "operators.2.0.emit"} <= stacks and len(stacks) > 6
    for name in stacks:
        half = onnx.numpy_helper.to_array(weights[f"{name}_half"])
        assert half.dtype == np.float16
        np.testing.assert_allclose(half, original[name], rtol=1e-3, atol=1e-6)
    expected, got = (session(p).run(None, inputs)[0] for p in (path, tmp_path / "int8.onnx"))
    assert np.linalg.norm(got - expected) < 2e-3 * np.linalg.norm(expected)


def test_half_errs_no_more_in_long_audio(tmp_path):
    """Even with states that remember minutes, whose decay is nearly 1."""

    def remember(model) -> None:
        for block in model.encoder.blocks:
            for ssm in block.ssm.ssms:
                ssm.log_dt.fill_(-7.0)

    path, _ = exported(tmp_path, "h0-2f0-3 h0-2f0-3 h0-2f0-3", change=remember)
    quantize(path, tmp_path / "int8.onnx", keep=quantizable(path))
    errors = []
    for frames in (300, 20000):
        noise = np.random.default_rng(0).normal(-8, 3, (1, frames, 80)).astype(np.float32)
        inputs = {"x": noise, "x_lens": np.array([frames])}
        expected, got = (session(p).run(None, inputs)[0] for p in (path, tmp_path / "int8.onnx"))
        errors.append(np.linalg.norm(got - expected) / np.linalg.norm(expected))
    assert errors[1] < 2 * errors[0]


def test_what_half_can_not_hold_stays_in_fp32(tmp_path):
    large = np.full((2, 2, 2), 1e5, np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 1, 2])],
        [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1, 2])],
        [onnx.numpy_helper.from_array(large, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "a.onnx")
    quantize(tmp_path / "a.onnx", tmp_path / "b.onnx")
    (got,) = session(tmp_path / "b.onnx").run(None, {"x": np.ones((2, 1, 2), np.float32)})
    assert (got == 2e5).all()
