"""Models and plugins for the tests of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from click.testing import CliRunner, Result

from accelc.cli.app import program

WASTEFUL = """
<ir_version: 8, opset_import: ["": 17], producer_name: "test">
wasteful (float[batch, 4] x) => (float[batch, 4] y)
<float[4] w = {1.0, 2.0, 3.0, 4.0}, float one = {1.0}>
{
  a = Identity(x)
  b = Mul(a, one)
  c = Add(b, w)
  y = Relu(c)
}
"""

LEAN = """
<ir_version: 8, opset_import: ["": 17]>
lean (float[batch, 4] x) => (float[batch, 4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> { c = Add(x, w)  y = Relu(c) }
"""

WRONG_PLUGIN = '''
from dataclasses import dataclass

from accelc import Law, Ops, Pass, PassResult, RulePass, Var
from accelc.rules import rule, rules_of


@rule()
def relu_is_nothing(op: Ops, x: Var) -> Law:
    """Relu(x) == x"""
    return op.Relu(x), x


RULES = rules_of(globals())


@dataclass(frozen=True)
class Wrong(RulePass):
    """Deliberately wrong."""

    name = "wrong"
    rules = RULES


@dataclass(frozen=True)
class Crash(Pass):
    """Deliberately broken."""

    name = "crash"

    def run(self, model, ctx):
        raise KeyError("oops")
'''


def write(path: Path, text: str = WASTEFUL) -> Path:
    """Save a model given as ONNX text."""
    onnx.save(onnx.parser.parse_model(text), str(path))
    return path


def plugin(folder: Path) -> Path:
    """A file with a wrong rule and a pass that crashes."""
    path = folder / "broken_plugin.py"
    path.write_text(WRONG_PLUGIN, encoding="utf-8")
    return path


def run(*arguments: object, **environment: str) -> Result:
    """Run the command in this process."""
    extra: dict[str, Any] = {"env": {"COLUMNS": "80", **environment}}
    return CliRunner().invoke(program, [str(each) for each in arguments], **extra)


def one_line_error(result: Result, code: int) -> str:
    """Assert that a command failed as promised: the exit code, one line on stderr, nothing on stdout."""
    assert result.exit_code == code, f"exit code {result.exit_code}: {result.stderr or result.exception!r}"
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("accelc: ")
    assert result.stdout == ""
    return lines[0]
