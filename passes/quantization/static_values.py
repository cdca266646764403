"""Integer twins of float tensors, and the nodes and constants around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from accelc import ir
from accelc.pattern import MICROSOFT

from .static_numbers import Params, StaticScheme, params_of
from .static_ranges import Scales

_FLOAT = ir.DataType.FLOAT
Dims = Sequence[ir.Dim] | None


class IntegerValues:
    """The integers that stand for float values of the main graph: one QuantizeLinear and one DequantizeLinear each.

    before: the node in front of which new nodes go; None puts them at the end. heirs: old node -> the new one that has
    its name coming.
    """

    def __init__(self, model: ir.Model, scales: Scales, scheme: StaticScheme) -> None:
        self.graph, self.scales, self.scheme = model.graph, scales, scheme
        self.names = ir.names(model)
        self.scope = ir.Scope(model.graph, model.graph, model.graph)
        self.before: ir.Node | None = None
        self.heirs: dict[ir.Node, ir.Node] = {}
        self.params: dict[ir.Value, Params] = {}
        self._integers: dict[ir.Value, ir.Value] = {}
        self._floats: dict[ir.Value, ir.Value] = {}
        self._constants: dict[tuple[Any, ...], ir.Value] = {}

    # --- floats and integers

    def integer(self, value: ir.Value) -> ir.Value:
        """The integers of a float value; it is quantized where it is made, when it was not before."""
        if value not in self._integers:
            array = ir.const(value)
            if array is None:
                params = self.scales.params(value)
                made = self.quantize(value, params)
            else:
                params = params_of(float(array.min()), float(array.max()), self.scheme)
                made = self.constant(params.quantize(array, self.scheme.numpy), f"{value.name}_quantized")
            self.adopt(value, made, params)
        return self._integers[value]

    def knows(self, value: ir.Value) -> bool:
        return value in self._integers

    def adopt(self, value: ir.Value, integers: ir.Value, params: Params) -> None:
        """Let integers stand for a float value."""
        self._integers[value] = integers
        self.params[integers] = params

    def real(self, integers: ir.Value) -> ir.Value:
        """Integers as floats again."""
        if integers not in self._floats:
            params = self.params[integers]
            inputs = [integers, self.scale(params.scale), self.zero(params)]
            made = self._linear("DequantizeLinear", inputs, _FLOAT, ir.dims(integers), integers)
            self._floats[integers] = made
        return self._floats[integers]

    def quantize(self, value: ir.Value, params: Params) -> ir.Value:
        """QuantizeLinear of a value, right behind it."""
        inputs = [value, self.scale(params.scale), self.zero(params)]
        return self._linear("QuantizeLinear", inputs, self.scheme.dtype, ir.dims(value), value)

    def dequantized(self, array: np.ndarray[Any, Any], scales: Any, hint: str, axis: int, zero: int = 0) -> ir.Value:
        """Constant integers as floats: array * scales along an axis. zero: a zero point to store them with."""
        scales = np.asarray(scales, np.float32)
        zeros = self.constant(np.full(scales.shape, zero, array.dtype), f"{hint}_zero_point")
        array = array + np.array(zero, array.dtype)
        inputs = [self.constant(array, f"{hint}_quantized"), self.constant(scales, f"{hint}_scale"), zeros]
        attrs = {"axis": axis} if scales.ndim else {}
        return self.node("DequantizeLinear", inputs, _FLOAT, array.shape, attrs, name=f"{hint}/DequantizeLinear")

    # --- nodes and constants

    def scale(self, scale: np.float32) -> ir.Value:
        return self.constant(np.array(scale, np.float32), "scale")

    def zero(self, params: Params) -> ir.Value:
        return self.constant(np.array(params.zero, self.scheme.numpy), "zero_point")

    def constant(self, array: np.ndarray[Any, Any], hint: str) -> ir.Value:
        """A constant; an equal one that was made before is used again."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, blake2b(array.tobytes(), digest_size=16).digest())
        if key not in self._constants:
            self._constants[key] = ir.new_constant(self.scope, self.names, hint, ir.array_tensor(array))
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> ir.Value:
        return self.constant(np.array(values, np.int64), "ints")

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        dims: Dims,
        attrs: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        name: str = "",
    ) -> ir.Value:
        """A node at the place for new ones; its only output."""
        return self.nodes(op_type, inputs, dtype, [dims], attrs, domain=domain, name=name)[0]

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        shapes: Sequence[Dims],
        attrs: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        name: str = "",
    ) -> Sequence[ir.Value]:
        """The same with several outputs."""
        made = self._made(op_type, inputs, dtype, shapes, attrs, domain, name)
        if self.before is None:
            self.graph.append(made)
        else:
            self.graph.insert_before(self.before, made)
        return made.outputs

    def _linear(
        self, op_type: str, inputs: Sequence[ir.Value], dtype: ir.DataType, dims: Dims, source: ir.Value
    ) -> ir.Value:
        """A QuantizeLinear or DequantizeLinear right behind what makes its input."""
        domain = MICROSOFT if self.scheme.wide and self.scope.opset < self.scheme.least_opset else ""
        made = self._made(op_type, inputs, dtype, [dims], None, domain, f"{source.name}_{op_type}")
        producer = source.producer()
        if producer is not None:
            self.graph.insert_after(producer, made)
        else:
            self.graph.insert_before(self.graph[0], made)
        return made.outputs[0]

    def _made(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        shapes: Sequence[Dims],
        attrs: Mapping[str, Any] | None,
        domain: str,
        name: str,
    ) -> ir.Node:
        if domain:
            self.scope.root.opset_imports.setdefault(domain, 1)
        old = self.before.name if self.before is not None else ""
        fresh = self.names.fresh(name or f"{old}/{op_type}")
        made = ir.new_node(op_type, inputs, attrs, domain=domain, outputs=len(shapes), name=fresh)
        if self.before is not None and name and name == old:
            self.heirs[self.before] = made
        for value, dims in zip(made.outputs, shapes, strict=True):
            value.name = self.names.fresh(f"{fresh}_out")
            value.type = ir.TensorType(dtype)
            value.shape = None if dims is None else ir.Shape(list(dims))
        return made
