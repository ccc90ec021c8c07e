"""int8 graphs: dynamic quantisation of the weights of products, per output channel, and the error
that it causes layer by layer.

The matrices of SSMs, which int8 would harm, are stored in fp16 and computed with in fp32: a client
converts them once, when it loads the graph.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.quantization import QuantType, quantize_dynamic

from utils.files import atomic_path


def quantizable(path: Path) -> list[str]:
    """Names of the MatMul nodes of a graph whose second factor is the weight of a linear layer."""
    return [name for name, linear in _products(path).items() if linear]


def _products(path: Path) -> dict[str, bool]:
    """The MatMul nodes of a graph, by name: whether their second factor is the weight of a linear
    layer, a matrix.  Those of SSMs are stacks of small matrices, which int8 would harm."""
    graph = onnx.load(path).graph
    weights = {initializer.name for initializer in graph.initializer if len(initializer.dims) == 2}
    return {node.name: node.input[1] in weights for node in graph.node if node.op_type == "MatMul"}


def quantize(source: Path, target: Path, keep: Iterable[str] = ()) -> None:
    """Writes the int8 graph of ``source``, whole or not at all; the nodes in ``keep`` stay in
    fp32."""
    others = [name for name, linear in _products(source).items() if not linear]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a preprocessing that this graph does not need
    try:
        with atomic_path(target) as temporary:
            quantize_dynamic(
                source,
                temporary,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[*keep, *others],
            )
            _store_stacks_in_half(Path(temporary))
    finally:
        root.setLevel(level)


def _store_stacks_in_half(path: Path) -> None:
    """Stores the stacks of matrices in a graph in fp16, where they have its range.

    Factors of products alone.  The decay of a state, which has as many dimensions, is multiplied
    by itself from block to block, so that rounding it would err more the longer the audio is.
    """
    model = onnx.load(path)
    graph, kept, casts = model.graph, [], []
    factors = {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    for value in graph.initializer:
        array = onnx.numpy_helper.to_array(value)
        is_stack = array.ndim == 3 and value.name in factors
        in_range = is_stack and np.abs(array).max(initial=0) < np.finfo(np.float16).max
        if array.dtype == np.float32 and in_range:
            half = onnx.numpy_helper.from_array(array.astype(np.float16), f"{value.name}_half")
            to = onnx.TensorProto.FLOAT
            casts.append(onnx.helper.make_node("Cast", [half.name], [value.name], to=to))
            value = half
        kept.append(value)
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.save(model, path)


def worst_first(source: Path, inputs: dict[str, np.ndarray]) -> list[tuple[str, float]]:
    """The nodes of a graph with the relative error of its first output when each alone is
    quantised, worst first.

    Args:
      inputs: of the graph, by name.
    """
    expected = session(source).run(None, inputs)[0]
    nodes = quantizable(source)
    harm = []
    with tempfile.TemporaryDirectory() as folder:
        for node in nodes:
            target = Path(folder) / "one.onnx"
            quantize(source, target, keep=[other for other in nodes if other != node])
            error = session(target).run(None, inputs)[0] - expected
            harm.append((node, float(np.linalg.norm(error) / np.linalg.norm(expected))))
    return sorted(harm, key=lambda item: -item[1])


def quantize_within(
    source: Path, target: Path, inputs: dict[str, np.ndarray], good: Callable[[], bool]
) -> list[tuple[str, float]]:
    """Quantises a graph, and keeps its worst layers in fp32, 1, 2, 4, ... of them, until the result
    is ``good()``.

    Args:
      inputs: of the graph, by name, on which the layers are compared.
      good: judges the file ``target`` as it then is.
    Returns:
      The layers that stayed in fp32, with the error that each would cause.
    """
    quantize(source, target)
    if good():
        return []
    ranked = worst_first(source, inputs)
    count = 1
    while count < len(ranked):
        quantize(source, target, keep=[node for node, _ in ranked[:count]])
        if good():
            return ranked[:count]
        count *= 2
    quantize(source, target, keep=[node for node, _ in ranked])
    return ranked


def session(path: Path, threads: int = 1) -> InferenceSession:
    """An onnxruntime session on the CPU."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
