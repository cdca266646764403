"""Operators that look alike along an axis and are not: scales that differ between rows, bounds that are none."""

from __future__ import annotations

import math

import pytest

from accelc import ir
from accelc.infer import infer_model
from accelc.passes.commute import Commute
from accelc.passes.layout import Layout
from accelc.passes.padding import least
from accelc.testing import context, unchanged

ONES = ", ".join(["1", "2"] * 16)
BETWEEN = f"""<ir_version: 8, opset_import: ["": 17]>
g (float[2,4,4,8] x) => (float[2,4,4,8] y) <float[4,1,8] s = {{{ONES}}}> {{
  t = Transpose <perm = [0, 2, 1, 3]> (x)  n = LayerNormalization <axis = -1> (t, s)
  u = Transpose <perm = [0, 2, 1, 3]> (n)  y = Relu(u)
}}"""
SELECTED = f"""<ir_version: 8, opset_import: ["": 17]>
g (float[2,4,8] x) => (float[2,1,8] y)
<float[4,8] s = {{{ONES}}}, int64[1] at = {{2}}, int64[1] to = {{3}}, int64[1] on = {{1}}> {{
  n = LayerNormalization <axis = -1> (x, s)  e = Erf(n)  y = Slice(e, at, to, on)
}}"""


def test_a_scale_that_differs_between_rows_keeps_its_transposes() -> None:
    unchanged(Layout(), BETWEEN)


def test_a_selection_stays_behind_a_scale_that_differs_between_rows() -> None:
    model = ir.parse(SELECTED)
    infer_model(model)
    Commute().run(model, context())
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    assert norm.inputs[0] is model.graph.inputs[0]


@pytest.mark.parametrize(
    ("body", "kind", "bound"),
    [
        ("y = Abs(x)", "int8", -math.inf),
        ("y = Abs(x)", "float", 0.0),
        ("y = Clip(x, low, high)", "float", -5.0),
        ("y = Relu(x)", "float", 0.0),
    ],
)
def test_what_no_element_is_less_than(body: str, kind: str, bound: float) -> None:
    """The least int8 is its own absolute value, and a Clip whose bounds are crossed gives the upper one."""
    weights = "<float low = {0}, float high = {-5}>" if "Clip" in body else ""
    model = ir.parse(f'<ir_version: 8, opset_import: ["": 17]> g ({kind}[2] x) => ({kind}[2] y) {weights} {{ {body} }}')
    output = model.graph.outputs[0]
    assert least(output) == bound
