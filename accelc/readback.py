"""What the runtime makes of a quantized model: which nodes it runs by integer kernels, and which fell back to float."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from accelc.backend_base import Backend
from accelc.errors import AccelcError
from accelc.runner import Runner

_INTEGER = ("QLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
_OTHER_INTEGER = frozenset({"QGemm", "QAttention", "QEmbedLayerNormalization", "QMoE", "MatMulNBits", "MatMulBnb4"})
_TABLES = frozenset({"Gather", "GatherBlockQuantized"})
_HAVE_KERNELS = frozenset(
    "Add AveragePool Conv Concat Gemm GlobalAveragePool LeakyRelu MatMul Mul Sigmoid Softmax Where".split()
)
"""Operators that the runtime replaces by an integer kernel where their inputs and outputs allow."""
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SHORT = {"UINT8": "u8", "INT8": "s8", "UINT16": "u16", "INT16": "s16", "INT32": "s32", "UINT4": "u4", "INT4": "s4"}
_EIGHT_BITS = ("u8", "s8")
_FOUR_BITS = ("u4", "s4")
_COPIES = ("MemcpyToHost", "MemcpyFromHost")
_SHOWN = 3


@dataclass(frozen=True)
class Fallen:
    """A node that runs in float although integers stand around it or in its weight, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Readback:
    """integer: nodes that run by integer kernels, by operator. fallen: see Fallen.

    floats: operators without an integer kernel that stand between DequantizeLinear and QuantizeLinear, with their
    number. conversions: QuantizeLinear and DequantizeLinear nodes that are left and run. copies: between processor and
    device.
    """

    integer: Mapping[str, int] = field(default_factory=dict)
    fallen: tuple[Fallen, ...] = ()
    floats: Mapping[str, int] = field(default_factory=dict)
    conversions: int = 0
    copies: int = 0

    def __str__(self) -> str:
        kernels = ", ".join(f"{name} {count}" for name, count in self.integer.items())
        parts = [f"integer kernels: {kernels or 'none'}"]
        groups = Counter((each.operator, each.reason) for each in self.fallen)
        shown = [f"{count} {operator} ({reason})" for (operator, reason), count in groups.most_common(_SHOWN)]
        if len(groups) > _SHOWN:
            shown.append(f"{sum(groups.values()) - sum(n for _, n in groups.most_common(_SHOWN))} more")
        if shown:
            parts.append(f"fell back to float: {', '.join(shown)}")
        if self.copies:
            parts.append(f"{self.copies} copies between processor and device")
        return "; ".join(parts)


def read_back(runner: Runner, backend: Backend | None, model: bytes | Path, *, folder: Path | None = None) -> Readback:
    """Load a model under the runtime's defaults and read the graph that it runs.

    backend: None for the processor. folder: where the external data of a model given as bytes lies.
    Raises RuntimeFailure when the model does not load, and AccelcError when the runtime writes no graph.
    """
    with tempfile.TemporaryDirectory(prefix="accelc-") as place:
        written = Path(place) / "optimized.onnx"
        if backend is None:
            session = runner.load(model, folder=folder, optimized=written)
        else:
            session = backend.load(runner, model, folder=folder, optimized=written)
        runner.close(session)
        if not written.exists():
            raise AccelcError("the runtime wrote no optimized graph", why=f"providers: {', '.join(session.providers)}")
        proto = onnx.load(written, load_external_data=False)
    return read(proto)


def read(proto: onnx.ModelProto) -> Readback:
    """What runs as integers in a graph that is run as it stands."""
    integer: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    fallen: list[Fallen] = []
    conversions = copies = 0
    for facts in _graphs(proto.graph, None):
        for node in facts.graph.node:
            if facts.is_integer(node):
                integer[node.op_type] += 1
            elif node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
                conversions += 1
            elif node.op_type in _COPIES:
                copies += 1
            elif reason := facts.why_fallen(node):
                fallen.append(Fallen(node.name, node.op_type, reason))
            elif facts.is_between(node):
                floats[node.op_type] += 1
    return Readback(dict(integer.most_common()), tuple(fallen), dict(floats.most_common()), conversions, copies)


def _graphs(graph: onnx.GraphProto, outer: _Facts | None) -> Iterator[_Facts]:
    facts = _Facts(graph, outer)
    yield facts
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graphs(inner, facts)


class _Facts:
    """A graph, and who makes and reads its values."""

    def __init__(self, graph: onnx.GraphProto, outer: _Facts | None) -> None:
        self.graph = graph
        self.weights: dict[str, int] = {**(outer.weights if outer else {})}
        self.weights.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
        self.makers: dict[str, onnx.NodeProto] = {**(outer.makers if outer else {})}
        self.makers.update((name, node) for node in graph.node for name in node.output)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def is_integer(self, node: onnx.NodeProto) -> bool:
        """Whether a node computes on integers, or reads a table of them."""
        kind = node.op_type
        if kind in _TABLES:
            return kind != "Gather" or self._type(self.weights.get(node.input[0], 0)) in (*_EIGHT_BITS, *_FOUR_BITS)
        return kind.startswith(_INTEGER) or kind in _OTHER_INTEGER

    def is_between(self, node: onnx.NodeProto) -> bool:
        """Whether a node reads what was dequantized and makes what is quantized."""
        return any(map(self._dequantized, node.input)) and bool(self._quantized_as(node))

    def why_fallen(self, node: onnx.NodeProto) -> str:
        """Why a node with an integer kernel, or with an integer weight, runs in float; empty when it did not fall."""
        read = [maker for name in node.input if (maker := self._dequantized(name)) is not None]
        weights = [each for each in read if each.input[0] in self.weights and self._width(each) < 32]
        activations = [each for each in read if each.input[0] not in self.weights]
        made, heavy = self._quantized_as(node), node.op_type in _PRODUCTS
        stands_between = node.op_type in _HAVE_KERNELS and bool(activations and made)
        if not stands_between and not (weights and heavy):
            return ""
        if node.op_type not in _HAVE_KERNELS:
            return "there is no integer kernel for it"
        if not activations:
            return "only its weight is quantized"
        return self._mismatch(activations, weights, made, heavy) or self._missing(node, made) or "not fused"

    def _mismatch(
        self, activations: list[onnx.NodeProto], weights: list[onnx.NodeProto], made: list[str], heavy: bool
    ) -> str:
        """What types stand in the way."""
        given, constant = list(map(self._integers, activations)), list(map(self._integers, weights))
        wide = [kind for kind in (*given, *constant, *made) if kind not in _EIGHT_BITS]
        if wide:
            return f"there is no integer kernel for {wide[0]}"
        alike = list(dict.fromkeys(given if heavy else given + constant))
        if len(alike) > 1:
            return f"its inputs are {' and '.join(alike)}"
        if made and made[0] != given[0]:
            return f"its input is {given[0]} and its output {made[0]}"
        return "s8 activations with u8 weights" if heavy and constant[:1] == ["u8"] and given[0] == "s8" else ""

    def _missing(self, node: onnx.NodeProto, made: list[str]) -> str:
        """What is not quantized."""
        first, end = {"Where": (1, 3), "Concat": (0, None)}.get(node.op_type, (0, 2))
        data = node.input[first:end]
        if any(self._dequantized(name) is None for name in data):
            return "one of its inputs is not quantized"
        return "its result is not quantized" if node.op_type != "MatMul" and not made else ""

    def _dequantized(self, name: str) -> onnx.NodeProto | None:
        maker = self.makers.get(name)
        return maker if maker is not None and maker.op_type == "DequantizeLinear" else None

    def _quantized_as(self, node: onnx.NodeProto) -> list[str]:
        """The integers that readers make of a node's results."""
        readers = [reader for name in node.output for reader in self.readers.get(name, ())]
        return [self._integers(reader) for reader in readers if reader.op_type == "QuantizeLinear"]

    def _integers(self, node: onnx.NodeProto) -> str:
        """The integer type of a QuantizeLinear or DequantizeLinear: that of its zero point, else of its weight."""
        names = [node.input[2]] if len(node.input) > 2 else []
        known = [self.weights[name] for name in (*names, node.input[0]) if name in self.weights]
        return self._type(known[0]) if known else "u8"

    def _width(self, node: onnx.NodeProto) -> int:
        return int("".join(filter(str.isdigit, self._integers(node))) or 8)

    @staticmethod
    def _type(number: int) -> str:
        name = onnx.TensorProto.DataType.Name(number)
        return _SHORT.get(name, name.lower())
