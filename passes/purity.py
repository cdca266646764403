"""Which nodes always compute the same from the same inputs: only these may be merged, folded or moved out of a body."""

from __future__ import annotations

from accelc import ir

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators of ai.onnx that draw random numbers whatever their attributes; Dropout does so only when training."""

_KNOWN_DOMAINS = frozenset({"", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
_IMPURE_VENDOR_NAMES = (
    "ATen AllGather AllReduce AllToAll BiasDropout BitmaskBiasDropout BitmaskDropout DistributedExpand EPContext "
    "ExternalOp FusedMatMulDropout GroupQueryAttention NcclAllGather NcclAllReduce NcclReduceScatter PagedAttention "
    "PythonOp PythonOpGrad RecordEvent Recv Sampling Send SparseAttention TritonOp WaitEvent YieldOp"
)
_IMPURE_VENDOR = frozenset(_IMPURE_VENDOR_NAMES.split())
"""Operators of com.microsoft that draw random numbers, talk to the outside, or write into a cache they were given."""


class Purity:
    """Answers for one model; what it finds out about functions is remembered."""

    def __init__(self, model: ir.Model) -> None:
        self._functions = model.functions
        self._main = model.graph
        self._known: dict[tuple[str, str, str], bool] = {}

    def is_function(self, node: ir.Node) -> bool:
        """Whether a node calls a function of the model."""
        return bool(self._functions) and node.op_identifier() in self._functions

    def pure(self, node: ir.Node, opset: int) -> bool:
        """Whether a node, with its subgraphs and the functions it calls, is a function of its inputs alone.

        An operator of an unknown domain may keep a state and is not pure. opset: of the default domain, at the node.
        """
        if self.is_function(node):
            return self._pure_function(node.op_identifier())
        if node.domain not in _KNOWN_DOMAINS:
            return False
        if node.domain:
            if node.op_type in _IMPURE_VENDOR:
                return False
        elif node.op_type in RANDOM or (node.op_type == "Dropout" and not _is_inference(node, opset)):
            return False
        return all(self.pure(inner, opset) for graph in ir.subgraphs(node) for inner in graph)

    def _pure_function(self, key: tuple[str, str, str]) -> bool:
        if key not in self._known:
            self._known[key] = False  # a function that calls itself is never found pure
            function = self._functions[key]
            opset = function.opset_imports.get("", 0) or self._main.opset_imports.get("", 0)
            self._known[key] = all(self.pure(node, opset) for node in function.graph)
        return self._known[key]


def _is_inference(node: ir.Node, opset: int) -> bool:
    if opset < 7:
        return bool(ir.attribute(node, "is_test", 0) == 1)
    if opset < 12 or len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = ir.const(node.inputs[2])
    return training is not None and not bool(training.any())
