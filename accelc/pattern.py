"""Patterns: terms over operators and variables, and how they match a graph.

A term is written like the expression it stands for: `op.Mul(x, op.Sigmoid(x))`. Matching starts at a root node and
walks towards its inputs; a variable that occurs twice must be the same value both times. Commutative operators are
tried in both orders. What a pattern does not mention must be absent or at its default: an attribute value nobody
thought of never matches. A miss always has a reason, which `--why` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import EllipsisType
from typing import Any

import numpy as np
import onnx

from accelc import ir

MICROSOFT = "com.microsoft"
COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "BitwiseAnd", "BitwiseOr"})


@dataclass(frozen=True, eq=False)
class Var:
    """Any value; the same variable twice is the same value."""

    name: str


class Const(Var):
    """A value that is always the same: a fixed initializer or a Constant node."""


class Scalar(Const):
    """A constant of one element whose shape does not widen the result it is combined into."""


class Maybe(Var):
    """An optional input: present or absent (the binding is then None)."""


@dataclass(frozen=True)
class Literal:
    """A constant of one element with this value.

    A number that the constant's type and float32 hold exactly, as 0.5, must be just that; another one, as the square
    root of 2, may be two units in the last place of the constant's type away from it. Thus a constant of type double
    that was rounded to float32 is another number.
    """

    value: float | int | bool


@dataclass(frozen=True, eq=False)
class AnyOf:
    """Any one of these terms."""

    options: tuple[Term, ...]


@dataclass(frozen=True, eq=False)
class Op:
    """An application of an operator. `attrs`: the values asked for; Ellipsis admits any value."""

    domain: str
    op_type: str
    inputs: tuple[Term | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    output: int = 0
    label: str | None = None
    open_inputs: bool = False
    open_attrs: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.domain, self.op_type

    def __str__(self) -> str:
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type


Term = Var | Literal | AnyOf | Op


class Ops:
    """Builds terms: `op.Add(x, 1.0)`, `op.Transpose(x, perm=...)`, `op.ms.Gelu(x)` for com.microsoft.

    Inputs: terms, None for an absent optional input, numbers for literals, a trailing `...` for any further inputs.
    Attributes: the value wanted, or `...` for any. `_as` names the node for Match.node, `_output` picks an output,
    `_any=True` admits every other attribute.
    """

    def __init__(self, domain: str = "") -> None:
        self._domain = domain

    @property
    def ms(self) -> Ops:
        return Ops(MICROSOFT)

    def __getattr__(self, op_type: str) -> Callable[..., Op]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def build(*inputs: Any, _as: str | None = None, _output: int = 0, _any: bool = False, **attrs: Any) -> Op:
            is_open = bool(inputs) and isinstance(inputs[-1], EllipsisType)
            terms = tuple(term(each) for each in (inputs[:-1] if is_open else inputs))
            return Op(self._domain, op_type, terms, attrs, _output, _as, is_open, _any)

        return build

    def any_of(self, *options: Any) -> AnyOf:
        made = tuple(term(option) for option in options)
        return AnyOf(tuple(option for option in made if option is not None))


def term(each: Any) -> Term | None:
    """A term from what a rule's author may write."""
    if each is None or isinstance(each, Var | Literal | AnyOf | Op):
        return each
    if isinstance(each, bool | int | float):
        return Literal(each)
    raise TypeError(f"not a term: {each!r}")


def depth(each: Term | None) -> int:
    """Operators on the longest path through a term."""
    if isinstance(each, Op):
        return 1 + max((depth(inner) for inner in each.inputs), default=0)
    if isinstance(each, AnyOf):
        return max(depth(option) for option in each.options)
    return 0


@lru_cache(maxsize=4096)
def attribute_default(domain: str, op_type: str, name: str, opset: int) -> Any:
    """The default an operator's schema gives an attribute; None where there is none."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    declared = schema.attributes.get(name)
    if declared is None or declared.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(declared.default_value)
    return value.decode() if isinstance(value, bytes) else value


@dataclass
class Trace:
    """The closest a pattern came, for `--why`. among: when given, a match of more of these nodes is closer than one of
    more nodes.
    """

    depth: int = -1
    where: str = ""
    reason: str = ""
    among: frozenset[ir.Node] = frozenset()
    inside: int = -1

    def note(self, matched: Sequence[ir.Node], where: str, reason: str, further: int = 0) -> None:
        """One end of an attempt. further: how far it came after the last node matched."""
        inside, depth = sum(node in self.among for node in matched), len(matched) + further
        if (inside, depth) > (self.inside, self.depth):
            self.inside, self.depth, self.where, self.reason = inside, depth, where, reason


class State:
    """Bindings of one attempt. `shared`: whether inner values may have consumers outside the pattern."""

    def __init__(self, root: ir.Node, opset: int, shared: bool = False, trace: Trace | None = None) -> None:
        self.root, self.opset, self.shared, self.trace = root, opset, shared, trace
        self.values: dict[str, ir.Value | None] = {}
        self.labels: dict[str, ir.Node] = {}
        self.nodes: list[ir.Node] = []

    def miss(self, node: ir.Node | None, reason: str) -> None:
        if self.trace is not None:
            where = ir.node_path(node) if node is not None else ir.node_path(self.root)
            self.trace.note(self.nodes, where, reason)


def match(pattern: Op, state: State) -> Iterator[State]:
    """Every way the pattern matches at state.root; the bindings are valid until the next one is asked for."""
    for _ in _match_node(pattern, state.root, state):
        yield state


def _match_node(pattern: Op, node: ir.Node, state: State) -> Iterator[None]:
    if node.op_type != pattern.op_type or node.domain != pattern.domain:
        state.miss(node, f"is {node.op_type}, not {pattern}")
        return
    if not _attributes_match(pattern, node, state):
        return
    inputs = node.inputs
    if len(inputs) > len(pattern.inputs) and not pattern.open_inputs and any(i for i in inputs[len(pattern.inputs) :]):
        state.miss(node, f"has {len(inputs)} inputs, the pattern {len(pattern.inputs)}")
        return
    wanted = pattern.inputs
    actual = list(inputs[: len(wanted)]) + [None] * (len(wanted) - len(inputs))
    orders: list[Sequence[ir.Value | None]] = [actual]
    if len(wanted) == 2 and pattern.op_type in COMMUTATIVE and not pattern.domain and actual[0] is not actual[1]:
        orders.append(actual[::-1])
    state.nodes.append(node)
    if pattern.label:
        state.labels[pattern.label] = node
    for order in orders:
        yield from _match_inputs(wanted, order, 0, node, state)
    state.nodes.pop()
    if pattern.label:
        state.labels.pop(pattern.label, None)


def _match_inputs(
    wanted: Sequence[Term | None], actual: Sequence[ir.Value | None], at: int, node: ir.Node, state: State
) -> Iterator[None]:
    if at == len(wanted):
        yield
        return
    for _ in _match_value(wanted[at], actual[at], node, actual, state):
        yield from _match_inputs(wanted, actual, at + 1, node, state)


def _match_value(
    wanted: Term | None, value: ir.Value | None, user: ir.Node, siblings: Sequence[ir.Value | None], state: State
) -> Iterator[None]:
    if wanted is None:
        if value is None:
            yield
        else:
            state.miss(user, "an input that must be absent is given")
    elif isinstance(wanted, Var):
        yield from _bind(wanted, value, user, siblings, state)
    elif isinstance(wanted, AnyOf):
        for option in wanted.options:
            yield from _match_value(option, value, user, siblings, state)
    elif value is None:
        state.miss(user, "an input is absent")
    elif isinstance(wanted, Literal):
        if _is_literal(wanted.value, value, user, siblings, state):
            yield
    else:
        yield from _match_producer(wanted, value, user, state)


def _bind(
    var: Var, value: ir.Value | None, user: ir.Node, siblings: Sequence[ir.Value | None], state: State
) -> Iterator[None]:
    if value is None and not isinstance(var, Maybe):
        state.miss(user, f"input {var.name} is absent")
        return
    if var.name in state.values:
        if state.values[var.name] is value:
            yield
        else:
            state.miss(user, f"{var.name} would have to be two different values")
        return
    if isinstance(var, Const):
        tensor = ir.const_tensor(value)
        if tensor is None:
            state.miss(user, f"{var.name} is not constant")
            return
        if isinstance(var, Scalar) and not (tensor.size == 1 and _does_not_widen(tensor, value, siblings)):
            state.miss(user, f"{var.name} is not a scalar")
            return
    state.values[var.name] = value
    yield
    del state.values[var.name]


def _match_producer(wanted: Op, value: ir.Value, user: ir.Node, state: State) -> Iterator[None]:
    node = value.producer()
    if node is None:
        state.miss(user, f"wants {wanted} before it, but {value.name} is an input or a weight")
    elif node.op_type != wanted.op_type or node.domain != wanted.domain:
        state.miss(user, f"wants {wanted} before it, but {node.op_type} ({node.name}) stands there")
    elif value.index() != wanted.output:
        state.miss(node, f"output {value.index()} is used, the pattern wants output {wanted.output}")
    elif node.graph is not state.root.graph:
        state.miss(node, "is in an outer graph")
    elif not state.shared and (reason := shared_reason(node, wanted.output)):
        state.miss(node, reason)
    else:
        yield from _match_node(wanted, node, state)


def shared_reason(node: ir.Node, output: int = 0) -> str:
    """Why a node cannot vanish with its one consumer; empty when it can."""
    for index, value in enumerate(node.outputs):
        if value.is_graph_output():
            return f"its output {value.name} is an output of the graph"
        if index != output and ir.use_count(value):
            return f"its output {index} is used as well"
    value = node.outputs[output]
    if ir.use_count(value) > 1 and ir.only_user(value) is None:
        return f"its output has {ir.use_count(value)} consumers"
    return ""


def _attributes_match(pattern: Op, node: ir.Node, state: State) -> bool:
    for name, attr in node.attributes.items():
        if attr.is_ref():
            state.miss(node, f"attribute {name} refers to an attribute of its function")
            return False
        if name not in pattern.attrs and not pattern.open_attrs:
            default = attribute_default(node.domain, node.op_type, name, state.opset)
            if not _same(attr.value, default):
                state.miss(node, f"attribute {name}={attr.value!r} is not the default")
                return False
    for name, wanted in pattern.attrs.items():
        if wanted is Ellipsis:
            continue
        actual = ir.attribute(node, name, attribute_default(node.domain, node.op_type, name, state.opset))
        if not _same(actual, wanted):
            state.miss(node, f"attribute {name} is {actual!r}, the pattern wants {wanted!r}")
            return False
    return True


def _same(actual: Any, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple) or isinstance(actual, list | tuple):
        return actual is not None and wanted is not None and list(actual) == list(wanted)
    if isinstance(wanted, float) and isinstance(actual, float):
        return bool(np.float32(actual) == np.float32(wanted))
    return bool(actual == wanted)


def _is_literal(
    wanted: float | int | bool, value: ir.Value, user: ir.Node, siblings: Sequence[ir.Value | None], state: State
) -> bool:
    tensor = ir.const_tensor(value)
    if tensor is None or tensor.size != 1:
        state.miss(user, f"wants the constant {wanted}, but {value.name} is not a constant of one element")
        return False
    if not _does_not_widen(tensor, value, siblings):
        state.miss(user, f"the shape of the constant {value.name} may widen the result")
        return False
    actual = tensor.numpy().reshape(())[()]
    if not close_to(actual, wanted):
        state.miss(user, f"wants the constant {wanted}, but {value.name} is {actual}")
        return False
    return True


def close_to(actual: Any, wanted: float | int | bool) -> bool:
    """Whether a constant is a literal, as `Literal` says; integers and booleans are always exact."""
    dtype = np.asarray(actual).dtype
    if dtype.kind == "b" or isinstance(wanted, bool):
        return dtype.kind == "b" and isinstance(wanted, bool) and bool(actual) == wanted
    if dtype.kind in "iu":
        return bool(actual == wanted)
    if dtype.kind not in "fV":
        return False
    target = np.asarray(wanted, np.float64).astype(dtype)
    holder = min(dtype, np.dtype(np.float32), key=lambda each: each.itemsize)
    if float(np.asarray(wanted, np.float64).astype(holder)) == float(wanted):
        return bool(actual == target)
    spacing = abs(float(np.spacing(target))) if dtype.kind == "f" else abs(float(wanted)) * 2.0**-7
    return abs(float(actual) - float(target)) <= 2 * spacing


def _does_not_widen(tensor: ir.TensorProtocol, value: ir.Value | None, siblings: Sequence[ir.Value | None]) -> bool:
    """Whether broadcasting against this one-element tensor keeps the rank of what it is combined with."""
    rank = len(tensor.shape)
    if rank == 0:
        return True
    ranks = [len(each.shape) for each in siblings if each is not None and each is not value and each.shape is not None]
    return any(other >= rank for other in ranks)
