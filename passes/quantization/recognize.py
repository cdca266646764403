"""What of a model is quantized already, and how."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from accelc import ir
from accelc.pattern import MICROSOFT

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_DOMAINS = ("", MICROSOFT)
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_DYNAMIC = frozenset(
    {"ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"}
)
_BLOCKS = frozenset({"GatherBlockQuantized", "MatMulBnb4", "MatMulNBits"})
_STATIC = frozenset({"QAttention", "QEmbedLayerNormalization", "QGemm"})
_METADATA = "accelc.quantize"
_PRODUCERS = {"onnx.quantize": "ONNX Runtime's quantizer", "onnx-quantizer": "ONNX Runtime's quantizer"}
_SMALL_BITS = 8
_SHOWN = 6


@dataclass(frozen=True)
class Recognized:
    """counts: (form, operator) -> how many, products first. nodes: those that take part, quantizing nodes included.

    Forms: QDQ (between DequantizeLinear and QuantizeLinear), weight-only QDQ, QOperator, dynamic, block (weights in
    blocks), table, simulated. author: who quantized it, as far as the model says.
    """

    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    nodes: frozenset[ir.Node] = frozenset()
    author: str = ""

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """One sentence, empty where nothing is quantized."""
        if not self.counts:
            return ""
        shown = [f"{count} {form} {operator}" for (form, operator), count in list(self.counts.items())[:_SHOWN]]
        rest = sum(list(self.counts.values())[_SHOWN:])
        parts = [*shown, f"{rest} more"] if rest else shown
        return f"already quantized{f' by {self.author}' if self.author else ''}: {', '.join(parts)}"


def recognize(model: ir.Model) -> Recognized:
    """Find what is quantized in all graphs of a model."""
    counts: Counter[tuple[str, str]] = Counter()
    nodes: set[ir.Node] = set()
    for node in ir.walk(model):
        form = form_of(node)
        if form:
            counts[form, node.op_type] += 1
        if form or (node.op_type in _QUANTIZERS and node.domain in _DOMAINS):
            nodes.add(node)
    order = sorted(counts, key=lambda each: (each[1] not in _PRODUCTS and each[0] == "QDQ", -counts[each], each))
    return Recognized({each: counts[each] for each in order}, frozenset(nodes), _author(model))


def form_of(node: ir.Node) -> str:
    """In which form a node is quantized; empty when it is not, as QuantizeLinear and its like themselves."""
    kind, known = node.op_type, node.domain in _DOMAINS
    if known and kind in _QUANTIZERS:
        return ""
    if known and kind in _DYNAMIC:
        return "dynamic"
    if known and (kind.startswith("QLinear") or kind in _STATIC):
        return "QOperator"
    if known and kind in _BLOCKS:
        return "block"
    if kind == "Quant" and node.domain:
        return "simulated"
    if kind == "Gather" and not node.domain and _is_small_integer(node.inputs[0]):
        return "table"
    read = [maker for value in node.inputs if (maker := _dequantizer(value)) is not None]
    if any(not ir.is_constant(maker.inputs[0]) for maker in read):
        return "QDQ"
    weights = [maker for maker in read if _is_small_integer(maker.inputs[0])]
    return "weight-only QDQ" if weights else ""


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    maker = value.producer() if value is not None else None
    return maker if maker is not None and maker.op_type == "DequantizeLinear" and maker.domain in _DOMAINS else None


def _is_small_integer(value: ir.Value | None) -> bool:
    """Whether a value is a constant of at most eight bits that stands for something else, not for truth or text."""
    tensor = ir.const_tensor(value)
    if tensor is None or tensor.dtype in (ir.DataType.BOOL, ir.DataType.STRING):
        return False
    return tensor.dtype.bitwidth <= _SMALL_BITS


def _author(model: ir.Model) -> str:
    for key, text in model.metadata_props.items():
        if key.partition(".2")[0] == _METADATA:
            return f"accelc{_scheme(text)}"
    return _PRODUCERS.get(model.producer_name or "", "")


def _scheme(text: str) -> str:
    try:
        entry = json.loads(text)
    except ValueError:
        return ""
    scheme = entry.get("scheme") if isinstance(entry, dict) else None
    return f" ({scheme})" if scheme else ""
