"""What the parts of a block look like: attention, normalizations and activations, recognized from one of their nodes.

A search goes from that node over operators that may stand between, to the inputs and to the consumers, and looks at a
bounded number of nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from accelc import ir

Kind = Literal["attention", "norm", "activation"]
State = Literal["fused", "runtime", "unfused"]

DOMAINS = ("", "com.microsoft")
"""Where the operators of blocks come from."""
_REACH = 48
"""How many nodes a walk from a node looks at: it makes the search linear, and no known form needs half of it."""
_WIDE = 16
"""A value with more consumers than this is no inner value of a block."""

# --- walking ---------------------------------------------------------------------------------------------------------

Path = tuple[ir.Node, ...]
Found = tuple[Kind, State, str, ir.Node, Path]
"""kind, state, form, anchor and nodes of a block"""


def _ops(names: str) -> Callable[[ir.Node], bool]:
    """A question: is a node one of these operators?"""
    wanted = frozenset(names.split())
    return lambda node: node.op_type in wanted


def _maker(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain in DOMAINS else None


def consumers(node: ir.Node) -> list[ir.Node]:
    """The nodes that use a node's first output, none where they are many."""
    value = node.outputs[0] if node.outputs else None
    if value is None or ir.use_count(value) > _WIDE:
        return []
    return [use.node for use in value.uses() if use.node.domain in DOMAINS]


def _back(values: Iterable[ir.Value | None], through: Callable[[ir.Node], bool]) -> Iterator[Path]:
    """Paths from values towards the inputs, shortest first: each goes over nodes of `through` and ends in another."""
    queue: deque[tuple[Iterable[ir.Value | None], Path]] = deque([(values, ())])
    seen: set[ir.Node] = set()
    while queue and len(seen) < _REACH:
        these, path = queue.popleft()
        for value in these:
            node = _maker(value)
            if node is None or node in seen:
                continue
            seen.add(node)
            if through(node):
                queue.append((node.inputs, (*path, node)))
            else:
                yield (*path, node)


def _forth(start: ir.Node, through: Callable[[ir.Node], bool]) -> Iterator[Path]:
    """The same from a node towards the outputs; the node itself is left out."""
    queue: deque[tuple[ir.Node, Path]] = deque([(start, ())])
    seen = {start}
    while queue and len(seen) < _REACH:
        at, path = queue.popleft()
        for node in consumers(at):
            if node in seen:
                continue
            seen.add(node)
            if through(node):
                queue.append((node, (*path, node)))
            else:
                yield (*path, node)


_is_weight_chain = _ops("Cast Transpose Reshape Identity Squeeze Unsqueeze Flatten DequantizeLinear")


def _is_fixed(value: ir.Value | None) -> bool:
    """Whether a value is a weight, perhaps cast, reshaped or transposed; an absent one is fixed, too."""
    for _ in range(_REACH):
        if value is None or value.is_initializer() or ir.is_constant(value):
            return True
        node = _maker(value)
        if node is None or not _is_weight_chain(node):
            return False
        value = node.inputs[0]
    return False


def _has_fixed(node: ir.Node) -> bool:
    return any(map(_is_fixed, node.inputs))


def _is_number(value: ir.Value | None, *wanted: float) -> bool:
    """Whether a value is a constant of one element, near one of these numbers."""
    tensor = ir.const_tensor(value)
    if tensor is None or tensor.size != 1 or not (tensor.dtype.is_floating_point() or tensor.dtype.is_integer()):
        return False
    number = float(tensor.numpy().reshape(()))
    return any(abs(number - each) <= 1e-3 * abs(each) for each in wanted)


# --- attention -------------------------------------------------------------------------------------------------------

_to_scores = _ops(
    "Add Sub Mul Div Where Cast Reshape Transpose Identity Squeeze Unsqueeze Expand Min Max Clip Tanh Concat Slice Neg "
    "Dropout Sum"
)
_to_context = _ops(
    "Dropout Cast Where Mul Div Identity Reshape Transpose Expand Squeeze Unsqueeze Slice Split Concat BitmaskDropout"
)
_is_multiplication = _ops("MatMul Einsum FusedMatMul TransposeMatMul")


def _is_product(node: ir.Node) -> bool:
    """Whether a node multiplies two computed values as matrices."""
    return _is_multiplication(node) and len(node.inputs) == 2 and not _has_fixed(node)


def _attention(softmax: ir.Node) -> Iterator[Found]:
    """Softmax of a product of two computed values, multiplied by a third one."""
    for scores in _back(softmax.inputs[:1], _to_scores):
        if _is_product(scores[-1]):
            for context in _forth(softmax, _to_context):
                if _is_product(context[-1]):
                    yield "attention", "unfused", "softmax", context[-1], (*scores, softmax, *context)
                    return
            return


def _attention_by_exp(quotient: ir.Node) -> Iterator[Found]:
    """The same where softmax is exp(x) / sum exp(x)."""
    above, below = _maker(quotient.inputs[0]), _maker(quotient.inputs[1])
    if above is None or below is None or above.op_type != "Exp" or below.op_type != "ReduceSum":
        return
    if below.inputs[0] is quotient.inputs[0]:
        for scores in _back(above.inputs, _to_scores):
            if _is_product(scores[-1]):
                for context in _forth(quotient, _to_context):
                    if _is_product(context[-1]):
                        nodes = (*scores, above, below, quotient, *context)
                        yield "attention", "unfused", "softmax of Exp", context[-1], nodes
                        return
                return


# --- normalizations --------------------------------------------------------------------------------------------------

_to_mean = _ops("Add Sub Max Clip Cast Identity Mul Div Reshape Squeeze Unsqueeze")
_to_square = _ops("Cast Identity Reshape")
_is_scaling = _ops("Mul Div")
_is_renaming = _ops("Cast Identity Reshape Squeeze Unsqueeze Expand")
_is_limiting = _ops("Add Max Clip")


def _norm(root: ir.Node) -> Iterator[Found]:
    """Something divided by the root of a mean of squares."""
    inverse = False
    if root.op_type == "Pow":
        if not _is_number(root.inputs[1], 0.5, -0.5):
            return
        inverse = _is_number(root.inputs[1], -0.5)
    mean = next((path for path in _back(root.inputs[:1], _to_mean) if _is_mean_of_squares(path)), None)
    quotient = _quotient(root, inverse) if mean is not None else ()
    if mean is not None and quotient:
        form = "root of a mean of squares"
        yield "norm", _norm_state(mean, root, quotient), form, quotient[-1], (*mean, root, *quotient)


def _norm_state(mean: Path, root: ir.Node, quotient: Path) -> State:
    """The runtime itself makes one operator of x / sqrt(mean x^2 + eps) * g, written just so, while loading."""
    written = tuple(node.op_type for node in (*mean, root, *quotient)) == ("Add", "ReduceMean", "Sqrt", "Div")
    square = _maker(mean[-1].inputs[0]) if written else None
    if square is None or square.op_type != "Pow" or square.inputs[0] is not quotient[0].inputs[0]:
        return "unfused"
    inner, found = _maker(square.inputs[0]), consumers(quotient[0])
    scaled = len(found) == 1 and found[0].op_type == "Mul" and _has_fixed(found[0])
    centered = inner is not None and inner.op_type == "Sub"
    return "runtime" if scaled and not centered and _is_over_last(mean[-1]) else "unfused"


def _is_over_last(mean: ir.Node) -> bool:
    axes = ir.attribute(mean, "axes")
    if axes is None and len(mean.inputs) > 1:
        array = ir.const(mean.inputs[1])
        axes = None if array is None else tuple(array.reshape(-1).tolist())
    rank = len(ir.dims(mean.inputs[0]) or ())
    return axes is not None and len(axes) == 1 and axes[0] in (-1, rank - 1)


def _is_mean_of_squares(path: Path) -> bool:
    """Whether a path ends in a mean, or in a sum that is divided on the way, of squares."""
    last = path[-1]
    divided = any(map(_is_scaling, path[:-1]))
    if last.op_type == "ReduceSumSquare":
        return divided
    if last.op_type in ("ReduceMean", "GlobalAveragePool") or (last.op_type == "ReduceSum" and divided):
        return any(_is_square(each[-1]) for each in _back(last.inputs[:1], _to_square))
    return False


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        return _is_number(node.inputs[1], 2.0)
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _quotient(root: ir.Node, inverse: bool) -> Path:
    """The nodes from a root to where a computed value is divided by it, the last of them; none where it is not.

    inverse: whether the root is 1 / root already.
    """
    queue: deque[tuple[ir.Node, bool, Path]] = deque([(root, inverse, ())])
    seen = {root}
    while queue and len(seen) < _REACH:
        at, inverted, path = queue.popleft()
        for node in consumers(at):
            if node in seen:
                continue
            seen.add(node)
            way = (*path, node)
            if node.op_type == "Reciprocal":
                queue.append((node, not inverted, way))
            elif node.op_type == "Div" and not inverted and node.inputs[1] is at.outputs[0]:
                if not _is_fixed(node.inputs[0]):
                    return way
                queue.append((node, True, way))
            elif node.op_type == "Mul" and inverted:
                if not _has_fixed(node):
                    return way
                queue.append((node, True, way))
            elif _is_renaming(node) or (_is_limiting(node) and _has_fixed(node)):
                queue.append((node, inverted, way))
    return ()


# --- activations -----------------------------------------------------------------------------------------------------

_CUBIC = 0.044715
_SCALED_CUBIC = 0.0356774  # sqrt(2 / pi) of it
_is_gating = _ops("Add Sub Mul Div Min Cast Identity")
_is_before_tanh = _ops("Add Mul Pow Cast Identity")


def _products(node: ir.Node) -> Iterator[tuple[Path, ir.Value]]:
    """Where what a node makes is multiplied by a computed value, perhaps after sums and products with constants.

    Yields the nodes, the product last, and that value.
    """
    for path in _forth(node, lambda each: _is_gating(each) and (len(each.inputs) == 1 or _has_fixed(each))):
        product, before = path[-1], (node, *path)[-2]
        if product.op_type == "Mul":
            other = product.inputs[product.inputs[0] is before.outputs[0]]
            if other is not None:
                yield path, other


def _unscaled(value: ir.Value | None) -> ir.Value | None:
    """What a value was before it was multiplied by or added to a constant; itself where it was not."""
    node = _maker(value)
    if node is None or node.op_type not in ("Mul", "Div", "Add"):
        return value
    return next((each for each in node.inputs if not _is_fixed(each)), value) if _has_fixed(node) else value


def _erf_gelu(erf: ir.Node) -> Iterator[Found]:
    """x/2 * (1 + erf(x / sqrt 2)) and the like."""
    for path, _ in _products(erf):
        maker = _maker(erf.inputs[0])
        before = (maker,) if maker is not None and _is_scaling(maker) else ()
        yield "activation", "unfused", "erf", erf, (*before, erf, *path)
        return


def _tanh_gate(tanh: ir.Node) -> Iterator[Found]:
    """x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), and x * tanh(softplus x)."""
    maker = _maker(tanh.inputs[0])
    if maker is not None and maker.op_type == "Softplus":
        for path, other in _products(tanh):
            if other is maker.inputs[0]:
                yield "activation", "unfused", "tanh of softplus", tanh, (maker, tanh, *path)
                return
        return
    before = _cubic(tanh)
    for path, _ in _products(tanh) if before else ():
        yield "activation", "unfused", "tanh of a cubic", tanh, (*before, tanh, *path)
        return


def _cubic(tanh: ir.Node) -> Path:
    """The nodes before a tanh where the coefficient of GELU's cubic is among their inputs; none where it is not."""
    nodes: dict[ir.Node, None] = {tanh: None}
    queue = deque([tanh])
    found = False
    while queue and len(nodes) < _WIDE:
        for value in queue.popleft().inputs:
            node = _maker(value)
            found = found or _is_number(value, _CUBIC, _SCALED_CUBIC)
            if node is not None and node not in nodes and _is_before_tanh(node):
                nodes[node] = None
                queue.append(node)
    return tuple(nodes)[1:] if found else ()


def _swish(gate: ir.Node) -> Iterator[Found]:
    """x * sigmoid(a x), x * hard sigmoid(x), x * Clip(x + 3, 0, 6) / 6.

    The runtime itself makes one operator of x * sigmoid(x) while it loads a model.
    """
    inner = gate.inputs[0]
    sources = {inner, _unscaled(inner)}
    for path, other in _products(gate):
        if other in sources or _unscaled(other) in sources:
            plain = gate.op_type == "Sigmoid" and other is inner and len(path) == 1
            maker = _maker(inner)
            before = (maker,) if maker is not None and other is not inner else ()
            state: State = "runtime" if plain else "unfused"
            yield "activation", state, gate.op_type.lower(), gate, (*before, gate, *path)
            return


_PARTS: Mapping[str, Callable[[ir.Node], Iterator[Found]]] = {
    "Softmax": _attention,
    "Div": _attention_by_exp,
    "Sqrt": _norm,
    "Pow": _norm,
    "Erf": _erf_gelu,
    "Tanh": _tanh_gate,
    "Sigmoid": _swish,
    "HardSigmoid": _swish,
    "Clip": _swish,
}
"""Who looks for parts around an operator of ai.onnx."""

FUSED: Mapping[str, Kind] = {
    **dict.fromkeys(
        (
            "Attention MultiHeadAttention GroupQueryAttention PackedAttention PackedMultiHeadAttention QAttention "
            "DecoderAttention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention LongformerAttention "
            "SparseAttention PagedAttention QOrderedAttention QOrderedLongformerAttention"
        ).split(),
        "attention",
    ),
    **dict.fromkeys(
        (
            "LayerNormalization RMSNormalization GroupNormalization InstanceNormalization LpNormalization "
            "MeanVarianceNormalization SimplifiedLayerNormalization SkipLayerNormalization EmbedLayerNormalization "
            "SkipSimplifiedLayerNormalization GroupNorm SkipGroupNorm QOrderedLayerNormalization "
            "QEmbedLayerNormalization"
        ).split(),
        "norm",
    ),
    **dict.fromkeys(
        "Gelu BiasGelu FastGelu QuickGelu BiasSplitGelu QOrderedGelu HardSwish Swish Mish".split(), "activation"
    ),
}
"""The operators that are a block by themselves, of ai.onnx or com.microsoft."""


def blocks_at(node: ir.Node) -> Iterator[Found]:
    """The blocks that a node stands for."""
    kind = FUSED.get(node.op_type)
    if kind is not None:
        yield kind, "fused", node.op_type, node, (node,)
    elif node.op_type in _PARTS and not node.domain:
        yield from _PARTS[node.op_type](node)
