"""Graphs for the tests of fusions: a body in ONNX text, and the constants that it uses from a pool."""

from __future__ import annotations

import re

from accelc.backends.cpu import CpuBackend
from accelc.context import Context
from accelc.testing import context

TARGET = CpuBackend().target()
_SCALARS = {
    "root2": 1.4142135623730951,
    "inv_root2": 0.7071067811865476,
    "minus_inv_root2": -0.7071067811865476,
    "one": 1,
    "two": 2,
    "three": 3,
    "six": 6,
    "half": 0.5,
    "minus_half": -0.5,
    "zero": 0,
    "sixth": 0.16666666666666666,
    "root2pi": 0.7978845608028654,
    "cubic": 0.044715,
    "quick": 1.702,
    "eps": 1e-5,
    "fifth": 0.2,
}


def cpu(**settings: bool) -> Context:
    """A context for this machine's CPU with the kernels of the runtime."""
    return context(target=TARGET, **settings)


def graph(
    body: str,
    signature: str = "(float[2,8] x) => (float[2,8] y)",
    weights: str = "",
    opset: int = 20,
    kind: str = "float",
    ir_version: int = 10,
) -> str:
    """ONNX text of a model. Scalars of the pool that the body names become weights of type `kind`."""
    words = set(re.findall(r"\w+", body))
    pool = [f"{kind} {name} = {{{value}}}" for name, value in _SCALARS.items() if name in words and value == value]
    constants = ", ".join([*pool, *([weights] if weights else [])])
    head = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "com.microsoft": 1]> main '
    return f"{head}{signature} {f'<{constants}>' if constants else ''} {{ {body} }}"
