"""`accelc optimize --why`, and the line that counts blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import LEAN, one_line_error, run, write

GELU = """<ir_version: 8, opset_import: ["": 17]>
gelu (float[batch, 8] x, float[batch, 8] y) => (float[batch, 8] r, float[batch, 8] t)
<float root = {1.4142135}, float one = {1}, float half = {0.5}> {
  a = Div(x, root) [erf] b = Erf(a) c = Add(b, one) d = Mul(x, c) r = Mul(d, half)
  e = Div(y, root) [odd] f = Erf(e) g = Add(f, half) h = Mul(y, g) t = Mul(h, half)
}
"""
SILU = """<ir_version: 8, opset_import: ["": 17]>
silu (float[batch, 8] x) => (float[batch, 8] r) { z = Identity(x) s = Sigmoid(z) r = Mul(z, s) }
"""
PLAIN_NORM = """<ir_version: 8, opset_import: ["": 17]>
norm (float[batch, 8] x) => (float[batch, 8] r)
<float[8] g = {1,2,3,4,5,6,7,8}, float two = {2}, float[1] eps = {0.5}, float small = {0.001}> {
  m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) p = Pow(d, two) v = ReduceMean<axes = [0]>(p) s = Add(v, small)
  o = Sqrt(s) [quotient] q = Div(d, o) r = Mul(q, g)
}
"""
ATTENTION = """<ir_version: 8, opset_import: ["": 17]>
attention (float[2,4,8,16] q, float[2,4,16,8] kt, float[2,4,8,16] v) => (float[2,4,8,16] r) {
  s = MatMul(q, kt) p = Softmax(s) [context] c = MatMul(p, v) r = Relu(c)
}
"""
ATTENTION_PLUGIN = '''
from dataclasses import dataclass

from accelc import Law, Ops, RulePass, Var
from accelc.rules import rule, rules_of


@rule(exact=False)
def product_of_softmax(op: Ops, q: Var, k: Var, v: Var) -> Law:
    """Softmax(q k + 1) v == Relu(v)"""
    return op.MatMul(op.Softmax(op.Add(op.MatMul(q, k), 1.0)), v), op.Relu(v)


@dataclass(frozen=True)
class Fuse(RulePass):
    """Fuse it."""

    name = "fuse"
    exact = False
    rules = rules_of(globals())
'''


def explain(path: Path, why: str, *more: object) -> str:
    result = run("optimize", path, "-q", "--no-measure", "--why", why, *more)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def gelu(tmp_path: Path) -> Path:
    return write(tmp_path / "gelu.onnx", GELU)


def test_the_report_counts_blocks(gelu: Path) -> None:
    result = run("optimize", gelu, "--no-measure")
    assert "activation 1 of 2; see --why activation" in result.stdout
    report = json.loads(run("optimize", gelu, "--no-measure", "--report", "-").stdout)
    assert report["blocks"] == {"activation": {"found": 2, "fused": 1, "runtime": 0, "unfused": 1, "gone": 0}}
    assert "fused " not in run("optimize", gelu, "--no-measure", "-O1").stdout
    assert "fused  " in run("inspect", gelu).stdout
    assert "activation 0 of 2" in run("inspect", gelu).stdout


def test_a_model_without_blocks_has_no_such_line(tmp_path: Path) -> None:
    path = write(tmp_path / "lean.onnx", LEAN)
    assert "fused " not in run("optimize", path, "--no-measure").stdout
    assert explain(path, "attention") == "attention: the model has no such block\n"


def test_blocks_that_the_runtime_fuses(tmp_path: Path) -> None:
    path = write(tmp_path / "silu.onnx", SILU)
    assert "activation 1 of 1 (1 by the runtime)" in run("optimize", path, "--no-measure").stdout
    assert "1 left to the runtime" in explain(path, "activation")


def test_why_names_the_block_the_rule_and_the_reason(gelu: Path) -> None:
    head, line = explain(gelu, "activation").splitlines()
    assert head == "activation: 1 of 2 blocks fused, 1 in parts:"
    assert line.startswith("  odd: gelu_erf at node ")
    assert "wants the constant 1.0, but half is 0.5" in line


def test_why_where_all_blocks_are_fused(tmp_path: Path) -> None:
    odd = GELU.replace("g = Add(f, half)", "g = Add(f, one)")
    path = write(tmp_path / "gelu.onnx", odd)
    assert explain(path, "Activation") == "activation: all 2 blocks are fused\n"


def test_why_says_what_a_guard_says(tmp_path: Path) -> None:
    path = write(tmp_path / "norm.onnx", PLAIN_NORM)
    assert "  quotient: layer_norm_scale at node " in (said := explain(path, "norm"))
    assert "the means are over different axes" in said


def test_why_where_the_pass_could_not_run(gelu: Path) -> None:
    said = explain(gelu, "activation", "--disable", "gelu")
    assert "  pass gelu is switched off by --disable\n" in said
    assert "  erf: gelu_erf: pass gelu is switched off by --disable\n" in said
    said = explain(gelu, "activation", "-O1")
    assert "  the pipeline does not run pass gelu\n" in said
    said = explain(gelu, "activation", "--passes", "gelu", "--disable", "gelu_erf, gelu_erf_20")
    assert "  erf: gelu_erf: it is switched off by --disable\n" in said
    assert "fired" not in explain(gelu, "activation", "--passes", "gelu", "--bisect-limit", 0)


def test_why_attention_tries_the_rules_of_its_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelc import blocks

    path = write(tmp_path / "attention.onnx", ATTENTION)
    code = tmp_path / "fuse.py"
    code.write_text(ATTENTION_PLUGIN, encoding="utf-8")
    monkeypatch.setattr(blocks, "PASSES", {**blocks.PASSES, "attention": ("fuse",)})
    head, line = explain(path, "attention", "--passes", "fuse", "--plugin", code).splitlines()
    assert head == "attention: 0 of 1 blocks fused, 1 in parts:"
    softmax, product = name_of(path, "Softmax"), name_of(path, "MatMul")
    where = f"context: product_of_softmax at node {softmax} (Softmax)"
    assert line == f"  {where}: wants Add before it, but MatMul ({product}) stands there"


def name_of(path: Path, op_type: str) -> str:
    """The name that the first node of an operator gets."""
    from accelc import ir
    from accelc.source import Source

    return next(node.name or "" for node in ir.walk(Source.of(path).fresh()) if node.op_type == op_type)


def test_why_of_a_pass(gelu: Path, tmp_path: Path) -> None:
    lines = explain(gelu, "gelu").splitlines()
    assert lines[0].startswith("pass gelu: Fuse GELU")
    assert "1 changes in" in lines[0]
    assert any(line.startswith("  gelu_erf: fired once; comes closest at ") for line in lines)
    idle = explain(write(tmp_path / "lean.onnx", LEAN), "gelu").splitlines()
    assert idle[1:] == ["  5 more rules start at operators that the result does not have"]
    off = explain(gelu, "gelu", "--disable", "gelu")
    assert "would fire at node" in off
    assert "pass gelu is switched off by --disable" in off


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fold_Cast", "fold_Cast is what pass fold calls its changes; the pass is not made of rules"),
        ("reshape-constant", "reshape-constant is what pass shapes calls its changes"),
        ("DCE", "pass dce is not made of rules"),
        ("prune", "the pipeline does not run it"),
    ],
)
def test_why_of_what_is_no_rule(gelu: Path, name: str, said: str) -> None:
    (line,) = explain(gelu, name).splitlines()
    assert said in line


def test_why_of_an_unknown_name(gelu: Path) -> None:
    error = one_line_error(run("optimize", gelu, "--why", "atention"), 2)
    assert "did you mean attention" in error
    error = one_line_error(run("optimize", gelu, "--why", "zzz"), 2)
    assert "--why takes attention, norm, activation, quantize, another pass or a rule" in error
