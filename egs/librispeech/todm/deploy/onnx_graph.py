"""Writing a module as an ONNX graph: traced, made smaller, checked."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from utils.files import atomic_path

OPSET = 17


def write_graph(
    module: nn.Module, example: tuple[Tensor, ...], axes: dict, path: Path, metadata: dict[str, str]
) -> None:
    """Traces a module and writes its graph, whole or not at all.

    Args:
      example: inputs to trace it with.
      axes: names of inputs, then of outputs, each with the names of its dynamic axes.
      metadata: what sherpa-onnx reads of the graph.
    """
    names = list(axes)
    buffer = io.BytesIO()  # which this exporter takes, although its annotation says otherwise
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            module.eval(),
            example,
            buffer,  # type: ignore[arg-type]
            input_names=names[: len(example)],
            output_names=names[len(example) :],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    _share_constants(graph.graph)
    _shorten_names(graph.graph)
    onnx.helper.set_model_props(graph, metadata)
    onnx.checker.check_model(graph)
    with atomic_path(path) as temporary:
        onnx.save(graph, temporary)


def _share_constants(graph: onnx.GraphProto) -> None:
    """Keeps one of equal constants: the tracer writes thousands of the same small integers."""
    first: dict[bytes, str] = {}
    other_names: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Constant":
            name = first.setdefault(node.attribute[0].SerializeToString(), node.output[0])
            if name != node.output[0]:
                other_names[node.output[0]] = name
                continue
        kept.append(node)
    for node in kept:
        node.input[:] = [other_names.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)


def _shorten_names(graph: onnx.GraphProto) -> None:
    """Calls the values inside the graph t0, t1, ..., because the tracer's long names were a tenth
    of a small model's file. Nodes keep their names."""
    short: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        for name in node.output:
            if name not in outputs:
                short[name] = f"t{len(short)}"
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
        node.doc_string = ""
    del graph.value_info[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the tracer's warnings: tests hold to torch what it warns about, lengths that become
    constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
