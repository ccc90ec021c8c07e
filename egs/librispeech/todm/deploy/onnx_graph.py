"""Writing a module as an ONNX graph: traced, made smaller, checked."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from todm.deploy.graph_ssm import CARRY_STATE, GraphOperators
from utils.files import atomic_path

OPSET = 17


def write_graph(
    module: nn.Module,
    example: tuple[Tensor, ...],
    axes: dict,
    path: Path,
    metadata: dict[str, str],
    of_blocks: bool = False,
) -> None:
    """Traces a module and writes its graph, whole or not at all.

    Args:
      example: inputs to trace it with.
      axes: names of inputs, then of outputs, each with the names of its dynamic axes.
      metadata: what sherpa-onnx reads of the graph.
      of_blocks: whether the module's SSMs, if it has any, carry states from block to block.
    """
    carries = of_blocks and any(isinstance(part, GraphOperators) for part in module.modules())
    domain = CARRY_STATE.split("::")[0]  # the exporter warns of one that the graph does not use
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
            custom_opsets={domain: 1} if carries else None,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    _share_constants(graph.graph)
    _shorten_names(graph.graph)
    _expand_carry_state(graph)
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


def _expand_carry_state(model: onnx.ModelProto) -> None:
    """Puts a Scan in the place of every node of :class:`~todm.deploy.graph_ssm.CarryState`."""
    domain, kind = CARRY_STATE.split("::")
    nodes = []
    for i, node in enumerate(model.graph.node):
        if (node.domain, node.op_type) == (domain, kind):
            real, imag, add_real, add_imag, *lam = node.input
            node = onnx.helper.make_node(
                "Scan",
                [real, imag, add_real, add_imag],
                [f"scan{i}_real", f"scan{i}_imag", *node.output],
                name=f"CarryState{i}",
                body=_carry_state_body(*lam),
                num_scan_inputs=2,
                scan_input_axes=[2, 2],
                scan_output_axes=[2, 2],
            )
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    standard = [opset for opset in model.opset_import if opset.domain != domain]
    del model.opset_import[:]
    model.opset_import.extend(standard)


def _carry_state_body(lam_real: str, lam_imag: str) -> onnx.GraphProto:
    """One step of the scan: the state h and what a block adds -> lam h + add, and h, in real and
    imaginary parts.

    Args:
      lam_real, lam_imag: names of lam in the graph outside, (C, 1, N).
    """
    steps = [
        ("Mul", lam_real, "real", "rr"),
        ("Mul", lam_imag, "imag", "ii"),
        ("Mul", lam_real, "imag", "ri"),
        ("Mul", lam_imag, "real", "ir"),
        ("Sub", "rr", "ii", "kept_real"),
        ("Add", "ri", "ir", "kept_imag"),
        ("Add", "add_real", "kept_real", "next_real"),
        ("Add", "add_imag", "kept_imag", "next_imag"),
    ]
    nodes = [onnx.helper.make_node(op, [a, b], [c]) for op, a, b, c in steps]
    nodes += [
        onnx.helper.make_node("Identity", [side], [f"before_{side}"]) for side in ("real", "imag")
    ]

    def values(*names: str) -> list[onnx.ValueInfoProto]:
        shape = [None, None, None]  # (C, B, N)
        return [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in names]

    return onnx.helper.make_graph(
        nodes,
        "carry_state",
        values("real", "imag", "add_real", "add_imag"),
        values("next_real", "next_imag", "before_real", "before_imag"),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the tracer's warnings: tests hold to torch what it warns about, lengths that become
    constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
