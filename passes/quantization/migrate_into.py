"""Dividing the columns of a value by changing the constants that it is made with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from accelc import ir
from accelc.pattern import MICROSOFT

from .linear import Linear, is_row, set_const
from .numbers import Floats

Change = Callable[[Floats], None]
"""Divides the columns of a value by divisors [K]."""

_NORMS = {
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1,),
    ("", "SimplifiedLayerNormalization"): (1,),
    (MICROSOFT, "SkipLayerNormalization"): (2, 3),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): (2,),
}
"""The inputs that scale or shift a normalized column, by operator."""
_PASSING = frozenset({"Relu", "LeakyRelu", "Identity", "Dropout"})
_HEADS_BESIDE = (0, 2, 1, 3)


@dataclass(frozen=True)
class Migration:
    """Finds constants of a model to change. made: the layers by what they compute."""

    scope: ir.Scope
    names: ir.Names
    made: Mapping[ir.Value, Linear]

    def into(self, value: ir.Value, count: int, users: Collection[ir.Node]) -> Change | None:
        """How to divide the `count` columns of a value, None where it is not possible for free.

        users: the nodes that expect it divided at one of their inputs; nobody else may use the value.
        """
        if value.is_graph_output() or ir.use_count(value) != len(users):
            return None
        node, dims = value.producer(), ir.dims(value)
        if node is None or node.graph is not self.scope.graph or not dims or dims[-1] != count:
            return None
        maker = self.made.get(value)
        if maker is not None:
            return _scaling(maker) if maker.can_scale and not maker.is_conv else None
        kind = (node.domain, node.op_type)
        if kind in _NORMS:
            return self._norm(node, value, count)
        if kind in (("", "Mul"), ("", "Div")):
            return self._product(node, count)
        if kind == ("", "Attention") or kind == (MICROSOFT, "MultiHeadAttention"):
            return self._attention(node, count)
        if kind == (MICROSOFT, "Attention"):
            return self._packed(node, count)
        if kind == ("", "Reshape"):
            return self._heads(node, count)
        if not node.domain and node.op_type in _PASSING and node.inputs[0] is not None:
            return self.into(node.inputs[0], count, {node})
        return None

    def _norm(self, node: ir.Node, value: ir.Value, count: int) -> Change | None:
        rank = len(value.shape or ())
        last = ir.attribute(node, "axis", -1) in (-1, rank - 1)
        if value is not node.outputs[0] or not last:
            return None
        places = [
            at for at in _NORMS[node.domain, node.op_type] if at < len(node.inputs) and node.inputs[at] is not None
        ]
        if not all(is_row(node.inputs[at], count, 1) for at in places):
            return None

        def change(divisors: Floats) -> None:
            for at in places:
                self._replace(node, at, _row(node.inputs[at], count) / divisors)

        return change

    def _product(self, node: ir.Node, count: int) -> Change | None:
        left, right = node.inputs
        if left is None or right is None or left is right:
            return None
        rank = len(node.outputs[0].shape or ())
        for at, other in ((1, left), (0, right)):
            constant = node.inputs[at]
            if is_row(constant, count, rank) and not ir.is_constant(other) and (at == 1 or node.op_type == "Mul"):
                inverse = node.op_type == "Div"

                def change(divisors: Floats, at: int = at, inverse: bool = inverse) -> None:
                    row = _row(node.inputs[at], count)
                    self._replace(node, at, row * divisors if inverse else row / divisors)

                return change
        found = self.into(left, count, {node})
        return found or (self.into(right, count, {node}) if node.op_type == "Mul" else None)

    def _attention(self, node: ir.Node, count: int) -> Change | None:
        """The values of attention, each of whose columns becomes a column of the result."""
        if [out for out in node.outputs[1:] if ir.use_count(out) or out.is_graph_output()]:
            return None
        used = {at for at, value in enumerate(node.inputs) if value is not None}
        heads = {ir.attribute(node, name) for name in ("q_num_heads", "kv_num_heads")}
        # Masks may be there; a bias or a cache would have to be divided as well.
        if not {0, 1, 2} <= used <= ({0, 1, 2, 4, 5} if node.domain else {0, 1, 2, 3}) or len(heads) != 1:
            return None
        value = node.inputs[2]
        return None if value is None or len(value.shape or ()) != 3 else self.into(value, count, {node})

    def _packed(self, node: ir.Node, count: int) -> Change | None:
        """com.microsoft.Attention holds the weights of its values in the last columns of one matrix."""
        has_cache = any(at in (4, 6) for at, value in enumerate(node.inputs) if value is not None)
        if has_cache or ir.attribute(node, "qkv_hidden_sizes") is not None:
            return None
        weight, bias = node.inputs[1], node.inputs[2]
        array = ir.const(weight)
        if array is None or array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != 3 * count:
            return None
        if bias is not None and not is_row(bias, 3 * count, 1):
            return None
        if [out for out in node.outputs[1:] if ir.use_count(out) or out.is_graph_output()]:
            return None

        def change(divisors: Floats) -> None:
            factors = np.concatenate([np.ones(2 * count, np.float32), np.float32(1) / divisors])
            for at in (1, 2):
                old = ir.const(node.inputs[at])
                if old is not None:
                    self._replace(node, at, old * factors)

        return change

    def _heads(self, node: ir.Node, count: int) -> Change | None:
        """[.., heads * size] <- [.., heads, size] <- probabilities @ values, whose heads were taken apart likewise."""
        chain = [node]
        for kind, at in (("Transpose", 0), ("MatMul", 0), ("Transpose", 1), ("Reshape", 0)):
            value = chain[-1].inputs[at]
            below = value.producer() if value is not None and ir.use_count(value) == 1 else None
            if below is None or below.domain or below.op_type != kind or below.graph is not self.scope.graph:
                return None
            if value is None or value.is_graph_output():
                return None
            chain.append(below)
        join, product, apart, split = chain[1:]
        if any(tuple(ir.attribute(each, "perm", ())) != _HEADS_BESIDE for each in (join, apart)):
            return None
        before, after, source = ir.dims(split.outputs[0]), ir.dims(join.outputs[0]), split.inputs[0]
        if before is None or after is None or len(before) != 4 or len(after) != 4 or before[2:] != after[2:]:
            return None
        sizes = [dim for dim in before[2:] if isinstance(dim, int)]
        if (
            len(sizes) != 2
            or sizes[0] * sizes[1] != count
            or source is None
            or product.inputs[1] is not apart.outputs[0]
        ):
            return None
        return self.into(source, count, {split}) if len(ir.dims(source) or ()) == 3 else None

    def _replace(self, node: ir.Node, at: int, array: Floats) -> None:
        """Another constant at an input; the old one stays for its other users."""
        old = node.inputs[at]
        assert old is not None
        if ir.use_count(old) == 1 and not old.is_graph_output():
            set_const(old, array)
            return
        value = ir.new_constant(self.scope, self.names, f"{old.name}_divided", ir.array_tensor(array), before=node)
        node.replace_input_with(at, value)


def _scaling(maker: Linear) -> Change:
    return lambda divisors: maker.scale_outputs(np.float32(1) / divisors)


def _row(value: ir.Value | None, count: int) -> Floats:
    array = ir.const(value)
    assert array is not None
    return np.array(np.broadcast_to(array.reshape(-1), count), np.float32)
