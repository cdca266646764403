"""Shape inference that onnx would end the process for, and the shapes that are still found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from accelc import ir, shape_inference
from accelc.concrete import Shapes
from accelc.importer import import_proto
from accelc.infer import infer_model, infer_node

HEAD = '<ir_version: 8, opset_import: ["": 17, "local": 1]> '
BOUNDS = "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}"

WINDOW = f"""g (float[1,1,3] x, float[1,1,9] w) => (float[a,b,c] y) <{BOUNDS}> {{
  big = Conv(x, w) cut = Slice(big, zero, one, two) y = Relu(cut) }}"""
DECLARED = f"g (float[7] x) => (float[a] y) <{BOUNDS}> {{ cut = Slice(x, zero, one, zero) y = Relu(cut) }}"
IN_BODY = f"""g (float[1,1,3] x, float[1,1,9] w, bool c) => (float[a,b,d] y) <{BOUNDS}> {{
  big = Conv(x, w)
  y = If (c) <then_branch = t () => (float[e,f,h] p) {{ p = Slice(big, zero, one, two) }},
              else_branch = u () => (float[i,j,k] q) {{ q = Slice(big, one, zero, two, one) }}> }}"""
IN_FUNCTION = """g (float[1,1,3] x, float[1,1,9] w) => (float[a,b,c] y) { big = Conv(x, w) y = local.cut(big) }
<domain: "local", opset_import: ["": 17]>
cut (v) => (r) { zero = Constant <value_ints = [0]> () one = Constant <value_ints = [1]> ()
  two = Constant <value_ints = [2]> () r = Slice(v, zero, one, two) }"""
AFTER_A_SLICE = f"""g (float[1,1,9] x, float[1,1,5] w) => (float[a,b,c] y) <{BOUNDS}> {{
  first = Conv(x, w) cut = Slice(first, zero, three, two) big = Conv(cut, w) y = Slice(big, zero, one, two) }}"""

FATAL = {
    "window": WINDOW, "declared": DECLARED, "body": IN_BODY, "function": IN_FUNCTION, "after a slice": AFTER_A_SLICE
}  # fmt: skip

_CALL = """
import sys, onnx
from onnx import shape_inference as plain
from accelc import shape_inference as safe
model = onnx.load(sys.argv[2])
print(len({"plain": plain, "safe": safe}[sys.argv[1]].infer_shapes(model, data_prop=True).graph.node))
"""


def fatal(name: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD + FATAL[name])
    if name == "declared":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    return model


def call(which: str, model: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _CALL, which, str(model)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", FATAL)
def test_negative_lengths_do_not_end_the_process(tmp_path: Path, name: str) -> None:
    model = fatal(name)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    done = call("safe", path)
    assert (done.returncode, done.stdout.strip()) == (0, str(len(model.graph.node))), done.stderr
    inferred = shape_inference.infer_shapes(model)
    assert [node.SerializeToString() for node in inferred.graph.node if not node.attribute] == [
        node.SerializeToString() for node in model.graph.node if not node.attribute
    ]
    assert "accelc_hidden" not in str(inferred)
    assert import_proto(model).proto.graph.name == "g"


def test_onnx_alone_ends_the_process(tmp_path: Path) -> None:
    """The guard may go once this fails."""
    onnx.save(fatal("window"), tmp_path / "m.onnx")
    assert call("plain", tmp_path / "m.onnx").returncode < 0


SOUND = {
    "no window": "g (float[4,6] x) => (float[a,b] y) <W> { y = Slice(x, one, three, one) }",
    "shape": "g (float[4,6] x) => (int64[a] y) <W> { s = Shape(x) y = Slice(s, zero, one, zero) }",
    "fitting": """g (float[1,1,9] x, float[1,1,5] w) => (float[a,b,c] y) <W> {
        k = Conv <pads = [2, 2]> (x, w) y = Slice(k, zero, three, two) }""",
    "small enough": """g (float[1,1,9] x, float[1,1,5] w) => (float[a,b,c] y) <W> {
        k = Conv(x, w) l = Slice(k, zero, three, two) m = Slice(l, zero, two, two) y = Concat <axis = 2> (l, m) }""",
    "twice": """g (float[1,1,9] x, float[1,1,3] w) => (float[a,b,c] y) <W> {
        k = Conv(x, w) l = Slice(k, zero, three, two) m = Conv(l, w) y = Slice(m, zero, one, two) }""",
    "body": """g (float[1,1,9] x, float[1,1,3] w, bool c) => (float[d,e,f] y) <W> { k = Conv(x, w)
        y = If (c) <then_branch = t () => (float[g,h,i] p) { p = Slice(k, zero, one, two) },
                    else_branch = u () => (float[j,k,l] q) { q = Slice(k, one, three, two) }> }""",
    "empty": "g (float[0,6] x) => (float[a,b] y) <W> { m = Neg(one) y = Slice(x, three, zero, zero, m) }",
}


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_lost_where_all_lengths_are_sound(name: str) -> None:
    model = onnx.parser.parse_model(HEAD + SOUND[name].replace("W", BOUNDS))
    for options in ({}, {"data_prop": True}, {"check_type": True, "strict_mode": True}):
        expected = onnx.shape_inference.infer_shapes(model, **options)
        found = shape_inference.infer_shapes(model, **options)
        assert _types(found) == _types(expected)


def _types(model: onnx.ModelProto) -> dict[str, str]:
    infos = [*model.graph.value_info, *model.graph.output]
    return {info.name: ",".join(str(d.dim_value or "?") for d in info.type.tensor_type.shape.dim) for info in infos}


def test_a_single_slice_of_a_negative_length_stays_unknown() -> None:
    model = ir.from_proto(fatal("window"))
    conv, cut, _ = list(model.graph)
    infer_node(conv, 17)
    assert ir.dims(conv.outputs[0]) == (1, 1, -5)
    infer_node(cut, 17)
    assert ir.dims(cut.outputs[0]) is None
    infer_model(model)
    assert not any(isinstance(dim, int) for dim in ir.dims(cut.outputs[0]) or ())


def test_a_single_slice_of_nothing_is_nothing() -> None:
    source = SOUND["no window"].replace("W", BOUNDS).replace("[4,6]", "[6,0]")
    model = ir.from_proto(onnx.parser.parse_model(HEAD + source))
    (cut,) = list(model.graph)
    (scope,) = ir.scopes(model)
    Shapes(model).complete(cut, scope)
    assert ir.dims(cut.outputs[0]) == (6, 0)
