"""Whether the recurrent operator is faster than the steps it stands for, on small models of the same sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from accelc import ir
from accelc.context import Context

Array = np.ndarray[Any, Any]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS = 16
"""Steps of the small models at most; the time of both sides grows with their number."""
_FEW = 8
_WIDEST = {
    "steps": {"LSTM": (256, 256, 256), "GRU": (64, 64, 64), "RNN": (32, 0, 0)},
    "Scan": {"LSTM": (512, 512, 512), "GRU": (256, 64, 64), "RNN": (128, 16, 8)},
    "Loop": {"LSTM": (512, 512, 512), "GRU": (256, 64, 64), "RNN": (128, 16, 8)},
}
"""The largest hidden size at which the operator is faster than steps of this form on the CPU: for one sequence at a
time, for a few, and for more or an unknown number.

Steps over operator, with 1 and 8 sequences. Written out: LSTM 8.6 and 3.1 (hidden 32), 3.2 and 1.5 (128), 1.2 and 0.9
(512); GRU 9.9 and 13.6 (32), 1.7 and 1.4 (64), 1.8 and 0.8 (128); RNN 3.5 and 0.9 (32), 0.7 and 0.4 (64). As Scan or
Loop, also with 32: LSTM 2.1, 1.4 and 1.1 (512); GRU 2.3 (256, one), 2.1 and 1.2 (64), RNN 1.6 (128, one), 2.1 and 0.7
(16), 5.7 and 1.2 (8).
"""


@dataclass(frozen=True)
class Case:
    """What the answer depends on. form: steps (written out), Scan or Loop. kind: of the cell. batch, steps: None where
    they are not known before the model runs.
    """

    form: str
    kind: str
    hidden: int
    inputs: int
    batch: int | None
    steps: int | None

    @property
    def operator(self) -> str:
        return self.kind.partition(" ")[0]

    @property
    def run(self) -> int:
        """Steps of the small models."""
        return min(self.steps or STEPS, STEPS)

    def __str__(self) -> str:
        batch = "any" if self.batch is None else self.batch
        return f"{self.form} of {self.kind}, {self.run} steps of [{batch}, {self.inputs}], hidden {self.hidden}"


def pays(rule: str, case: Case, ctx: Context) -> bool:
    """Whether the operator is to be used."""
    one, few, more = _WIDEST[case.form][case.operator]
    widest = more if case.batch is None or case.batch > _FEW else one if case.batch == 1 else few
    default = "operator" if case.hidden <= widest else case.form
    return ctx.decide(rule, str(case), default, lambda: models(case)) == "operator"


def models(case: Case) -> Mapping[str, onnx.ModelProto]:
    """A layer of the case's sizes as it is and as the operator: x [steps, batch, inputs], h and c [batch, hidden]."""
    made = {"steps": _unrolled, "Scan": _scan, "Loop": _loop}[case.form]
    return {case.form: _model(case, made(case)), "operator": _model(case, _operator(case))}


def _model(case: Case, body: str) -> onnx.ModelProto:
    batch, hidden = case.batch or 1, case.hidden
    states = "".join(f", float[{batch},{hidden}] {name}" for name in _states(case))
    outputs = "".join(f", float[{batch},{hidden}] {name}_last" for name in _states(case))
    head = (
        f"layer (float[{case.run},{batch},{case.inputs}] x{states}) => (float[{case.run},{batch},{hidden}] y{outputs})"
    )
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {head} {{ {body} }}')
    used = {name for graph in _graphs(proto.graph) for node in graph.node for name in node.input}
    kept = {name: array for name, array in _weights(case).items() if name in used}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in kept.items())
    return proto


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    return [graph, *(attr.g for node in graph.node for attr in node.attribute if attr.HasField("g"))]


def _states(case: Case) -> str:
    return "hc" if case.operator == "LSTM" else "h"


def _weights(case: Case) -> dict[str, Array]:
    """Weights that both sides share, and whole numbers."""
    rng = np.random.default_rng(0)
    hidden, width = case.hidden, GATES[case.operator] * case.hidden
    w, r, b = (
        (rng.standard_normal(shape) / hidden**0.5).astype(np.float32)
        for shape in ((width, case.inputs), (width, hidden), (width,))
    )
    parts = {"before_w": w.T[:, : 2 * hidden], "before_r": r.T[:, : 2 * hidden], "before_b": b[: 2 * hidden]}
    new = {"new_w": w.T[:, 2 * hidden :], "new_r": r.T[:, 2 * hidden :], "new_b": b[2 * hidden :]}
    every = {"w": w.T, "r": r.T, "b": b, "operator_w": w[None], "operator_r": r[None]}
    every["operator_b"] = np.concatenate([b, np.zeros_like(b)])[None]
    floats = {"unit": np.ones(1, np.float32)} | every | parts | new
    numbers = {f"t{step}": np.array(step) for step in range(case.run)}
    numbers |= {"zero": np.array([0]), "one": np.array([1]), "count": np.array(case.run)}
    whole = {name: number.astype(np.int64) for name, number in numbers.items()}
    return {name: np.asarray(array, order="C") for name, array in (floats | whole).items()} | {"yes": np.array(True)}


def _cell(case: Case, t: object, x: str, h: str, c: str) -> str:
    """The operators of a step, which makes h{t} and c{t}."""
    joined = f"p{t} = MatMul({x}, w) q{t} = MatMul({h}, r) "
    mixed = f"u{t} = Sub({h}, n{t}) v{t} = Mul(z{t}, u{t}) h{t} = Add(n{t}, v{t}) "
    if case.kind == "LSTM":
        return (
            f"{joined} s{t} = Add(p{t}, q{t}) a{t} = Add(s{t}, b) "
            f"ai{t}, ao{t}, af{t}, ag{t} = Split<axis=1, num_outputs=4>(a{t}) i{t} = Sigmoid(ai{t}) "
            f"o{t} = Sigmoid(ao{t}) f{t} = Sigmoid(af{t}) g{t} = Tanh(ag{t}) k{t} = Mul(f{t}, {c}) "
            f"l{t} = Mul(i{t}, g{t}) c{t} = Add(k{t}, l{t}) m{t} = Tanh(c{t}) h{t} = Mul(o{t}, m{t}) "
        )
    if case.kind == "GRU after":
        return (
            f"{joined} a{t} = Add(p{t}, b) az{t}, ar{t}, an{t} = Split<axis=1, num_outputs=3>(a{t}) "
            f"bz{t}, br{t}, bn{t} = Split<axis=1, num_outputs=3>(q{t}) sz{t} = Add(az{t}, bz{t}) "
            f"sr{t} = Add(ar{t}, br{t}) z{t} = Sigmoid(sz{t}) rr{t} = Sigmoid(sr{t}) k{t} = Mul(rr{t}, bn{t}) "
            f"sn{t} = Add(an{t}, k{t}) n{t} = Tanh(sn{t}) {mixed}"
        )
    if case.kind == "GRU before":
        return (
            f"p{t} = MatMul({x}, before_w) q{t} = MatMul({h}, before_r) s{t} = Add(p{t}, q{t}) "
            f"a{t} = Add(s{t}, before_b) az{t}, ar{t} = Split<axis=1, num_outputs=2>(a{t}) z{t} = Sigmoid(az{t}) "
            f"rr{t} = Sigmoid(ar{t}) rh{t} = Mul(rr{t}, {h}) pn{t} = MatMul({x}, new_w) qn{t} = MatMul(rh{t}, new_r) "
            f"sn{t} = Add(pn{t}, qn{t}) an{t} = Add(sn{t}, new_b) n{t} = Tanh(an{t}) {mixed}"
        )
    return f"{joined} s{t} = Add(p{t}, q{t}) a{t} = Add(s{t}, b) h{t} = {case.kind.partition(' ')[2]}(a{t}) "


def _unrolled(case: Case) -> str:
    body, h, c = "", "h", "c"
    for t in range(case.run):
        body += f"x{t} = Gather<axis=0>(x, t{t}) {_cell(case, t, f'x{t}', h, c)} y{t} = Unsqueeze(h{t}, zero) "
        h, c = f"h{t}", f"c{t}"
    states = "".join(f"{name}_last = Identity({last}) " for name, last in zip(_states(case), (h, c), strict=False))
    return f"{body} y = Concat<axis=0>({', '.join(f'y{t}' for t in range(case.run))}) {states}"


def _loop_states(case: Case) -> tuple[str, str, str]:
    """The states as inputs and outputs of a body, and as what the loop returns."""
    shape = f"float[{case.batch or 1},{case.hidden}]"
    inner = ", ".join(f"{shape} {name}_in" for name in _states(case))
    outer = ", ".join(f"{shape} {name}1" for name in _states(case))
    return inner, f"{outer}, {shape} every", ", ".join(f"{name}_last" for name in _states(case))


def _scan(case: Case) -> str:
    inner, outer, last = _loop_states(case)
    step = f"{_cell(case, 1, 'e', 'h_in', 'c_in')} every = Identity(h1)"
    body = f"step ({inner}, float[{case.batch or 1},{case.inputs}] e) => ({outer}) {{ {step} }}"
    return f"{last}, y = Scan<num_scan_inputs=1, body = {body}>({', '.join(_states(case))}, x)"


def _loop(case: Case) -> str:
    inner, outer, last = _loop_states(case)
    step = f"go = Identity(going) e = Gather<axis=0>(x, at) {_cell(case, 1, 'e', 'h_in', 'c_in')} every = Identity(h1)"
    body = f"step (int64 at, bool going, {inner}) => (bool go, {outer}) {{ {step} }}"
    return f"{last}, y = Loop<body = {body}>(count, yes, {', '.join(_states(case))})"


def _operator(case: Case) -> str:
    given = {"LSTM": "hidden_size={0}", "GRU after": "hidden_size={0}, linear_before_reset=1"}
    attrs = given.get(case.kind, "hidden_size={0}").format(case.hidden)
    if case.operator == "RNN":
        attrs += f', activations=["{case.kind.partition(" ")[2]}"]'
    body = "".join(f"{name}_first = Unsqueeze({name}, zero) " for name in _states(case))
    body += f"every, {', '.join(f'{name}_end' for name in _states(case))} = {case.operator}<{attrs}>"
    body += f"(x, operator_w, operator_r, operator_b, , {', '.join(f'{name}_first' for name in _states(case))}) "
    body += "y = Squeeze(every, one) "
    return body + "".join(f"{name}_last = Squeeze({name}_end, zero) " for name in _states(case))


def case_of(form: str, kind: str, hidden: int, inputs: int, dims: Sequence[ir.Dim], axis: int) -> Case:
    """The case of a layer whose sequence has these dimensions, with the steps along `axis`."""
    steps, batch = dims[axis], dims[1 - axis]
    known = [size if isinstance(size, int) else None for size in (batch, steps)]
    return Case(form, kind, hidden, inputs, *known)
