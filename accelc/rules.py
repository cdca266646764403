"""Rules: two graphs that are equal, written as a law.

    @rule(exact=False, opset=20)
    def gelu_erf(op: Ops, x: Var) -> Law:
        '''x/2 * (1 + erf(x / sqrt 2)) == Gelu(x)'''
        return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, SQRT2)), 1.0)), 0.5), op.Gelu(x)

The parameters after `op` are the variables; their annotations (Var, Const, Scalar, Maybe) say what they may stand for.
The function returns what stands before, what stands after, and any guards. `before` may be a list of forms; `after` is
a term, or a function of the match where constants must be computed. A rule never changes the graph: the driver does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from accelc import ir, pattern
from accelc.errors import RuleError
from accelc.pattern import Literal, Maybe, Op, Ops, Scalar, State, Term, Trace, Var

if TYPE_CHECKING:
    from accelc.context import Context

Guard = Callable[["Match"], "bool | str"]
"""True when the rule may fire, else False or the reason why not."""

After = Op | Var | Literal | Callable[["Match"], Any]
Law = tuple[Any, ...]
"""(before, after, *guards)"""


class Miss(Exception):
    """A rule does not apply here, and why. Raised by Match.fail, never seen by users."""


@dataclass(frozen=True, eq=False)
class Rule:
    """before == after, under guards.

    exact: whether both sides agree in every bit. shared: whether inner nodes may have other consumers (they then stay).
    opset: the oldest version of the default domain that the replacement needs; the driver raises the model's where it
    safely can. feeder: an operator that must make one of the root's inputs, for rules that look for it themselves.
    source: file:line of the law.
    """

    name: str
    before: tuple[Op, ...]
    after: After
    where: tuple[Guard, ...]
    exact: bool
    shared: bool
    opset: int
    feeder: str
    source: str
    law: str
    doc: str

    def __str__(self) -> str:
        return self.name

    def matches(self, root: ir.Node, opset: int, ctx: Context, trace: Trace | None = None) -> Iterator[Match]:
        """Every way this rule's pattern matches at root, before its guards are asked."""
        for form in self.before:
            if form.key != (root.domain, root.op_type):
                continue
            state = State(root, opset, self.shared, trace)
            for _ in pattern.match(form, state):
                yield Match(self, state, ctx)

    def build(self, match: Match) -> tuple[ir.Value | None, ...]:
        """The values that stand for the root's outputs, in order. Raises Miss."""
        for guard in self.where:
            verdict = guard(match)
            if verdict is not True:
                match.fail(verdict if isinstance(verdict, str) else getattr(guard, "__name__", "guard"))
        after = self.after
        made = after(match) if not isinstance(after, Op | Var | Literal) else match.op.instantiate(after)
        return tuple(made) if isinstance(made, tuple | list) else (made,)


def rule(
    *, exact: bool = True, shared: bool = False, opset: int = 0, feeder: str = "", name: str | None = None
) -> Callable[[Callable[..., Law]], Rule]:
    """Make a Rule from a function that states a law. See the module's own example, and Rule for the options.

    Raises RuleError where the law is not well formed.
    """

    def make(law: Callable[..., Law]) -> Rule:
        where = f"{_short(law.__code__.co_filename)}:{law.__code__.co_firstlineno}"
        if not law.__doc__:
            raise RuleError("has no law in its docstring", where=f"rule {law.__name__} ({where})")
        parameters = list(inspect.signature(law).parameters.values())[1:]
        before, after, *guards = law(Ops(), *(_variable(parameter) for parameter in parameters))
        forms = tuple(before) if isinstance(before, list) else (before,)
        if not forms or not all(isinstance(form, Op) for form in forms):
            raise RuleError("must match an operator at its root", where=f"rule {law.__name__} ({where})")
        doc = inspect.cleandoc(law.__doc__)
        return Rule(
            name or law.__name__,
            forms,
            after,
            tuple(guards),
            exact,
            shared,
            opset,
            feeder,
            where,
            doc.splitlines()[0],
            doc,
        )

    return make


def rules_of(namespace: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules defined in a module, in order: `RULES = rules_of(globals())`."""
    return tuple(value for value in namespace.values() if isinstance(value, Rule))


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def _variable(parameter: inspect.Parameter) -> Var:
    kinds: dict[str, type[Var]] = {"Const": pattern.Const, "Scalar": Scalar, "Maybe": Maybe}
    annotation = parameter.annotation
    kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return kinds.get(kind.rpartition(".")[2], Var)(parameter.name)


class Match:
    """One match of a rule: `m.x` is the value bound to x, `m.const("w")` its array, `m.op` builds the replacement."""

    def __init__(self, rule_: Rule, state: State, ctx: Context) -> None:
        self._state = state
        self.rule, self.ctx, self.root = rule_, ctx, state.root
        self.opset = state.opset
        self.op = Builder(self)

    def __getattr__(self, name: str) -> ir.Value:
        value = self._state.values.get(name)
        if value is None:
            raise AttributeError(f"rule {self.rule.name} binds nothing to {name!r} here")
        return value

    def __getitem__(self, name: str) -> ir.Value | None:
        """The value bound to an optional variable, or None where it is absent."""
        return self._state.values.get(name)

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The matched nodes, root first."""
        return tuple(self._state.nodes)

    @property
    def out(self) -> ir.Value:
        """The first output of the root."""
        return self.root.outputs[0]

    @property
    def graph(self) -> ir.Graph:
        graph = self.root.graph
        assert isinstance(graph, ir.Graph)
        return graph

    def node(self, label: str) -> ir.Node:
        """The node the pattern named with `_as`."""
        return self._state.labels[label]

    def has(self, label: str) -> bool:
        return label in self._state.labels

    def const(self, name: str) -> np.ndarray[Any, Any]:
        """The array of a constant variable. A miss where it is not constant."""
        array = ir.const(self._state.values.get(name))
        if array is None:
            self.fail(f"{name} is not constant")
        return array

    def scalar(self, name: str) -> float:
        """The one element of a constant variable."""
        array = self.const(name)
        if array.size != 1:
            self.fail(f"{name} has {array.size} elements, not one")
        return float(array.reshape(()))

    def attr(self, name: str, default: Any = None, node: str | None = None) -> Any:
        """An attribute of the root (or of a named node): its value, else the schema's default, else `default`."""
        owner = self.node(node) if node else self.root
        found = ir.attribute(owner, name)
        if found is None:
            found = pattern.attribute_default(owner.domain, owner.op_type, name, self.opset)
        return default if found is None else found

    def dims(self, name: str) -> tuple[ir.Dim, ...]:
        """The shape of a variable. A miss where its rank is unknown."""
        shape = ir.dims(self._state.values.get(name))
        if shape is None:
            self.fail(f"the rank of {name} is unknown")
        return shape

    def dtype(self, name: str) -> ir.DataType:
        value = self._state.values.get(name)
        if value is None or value.dtype is None:
            self.fail(f"the type of {name} is unknown")
        return value.dtype

    def fail(self, reason: str) -> NoReturn:
        raise Miss(reason)

    def require(self, condition: object, reason: str) -> None:
        if not condition:
            raise Miss(reason)


class Builder:
    """Builds the replacement: `m.op.Conv(m.x, weight_array, bias, **attrs)`.

    Inputs are values, None, arrays (become weights), numbers (become scalars of the root's type) and lists of ints
    (become int64 vectors). `_outputs=n` returns a tuple, `_name` names the node, `_type` and `_shape` say what an
    operator without a schema returns. Nothing enters the graph before the driver has checked the patch.
    """

    def __init__(self, match: Match, domain: str = "", parent: Builder | None = None) -> None:
        self._match, self._domain = match, domain
        self.nodes: list[ir.Node] = parent.nodes if parent else []
        self.weights: list[ir.Value] = parent.weights if parent else []

    @property
    def ms(self) -> Builder:
        return Builder(self._match, pattern.MICROSOFT, self)

    def domain(self, name: str) -> Builder:
        """Builds operators of another domain."""
        return Builder(self._match, name, self)

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def build(
            *inputs: Any,
            _outputs: int = 1,
            _name: str | None = None,
            _like: ir.Value | None = None,
            **attrs: Any,
        ) -> Any:
            values = [self._input(each) for each in inputs]
            while values and values[-1] is None:
                values.pop()
            node = ir.new_node(op_type, values, attrs, domain=self._domain, outputs=_outputs, name=_name)
            if _like is not None:
                node.outputs[0].type, node.outputs[0].shape = _like.type, _like.shape
            self.nodes.append(node)
            return node.outputs[0] if _outputs == 1 else tuple(node.outputs)

        return build

    def weight(self, array: np.ndarray[Any, Any], name: str = "", dtype: ir.DataType | None = None) -> ir.Value:
        """A new constant. name: a hint; the driver makes it unique."""
        tensor = ir.array_tensor(np.asarray(array, order="C"), dtype)
        hint = name or f"{self._match.root.name or self._match.rule.name}_{len(self.weights)}"
        value = ir.Value(name=hint, type=ir.TensorType(tensor.dtype), shape=ir.tensor_shape(tensor), const_value=tensor)
        self.weights.append(value)
        return value

    def copy(self, node: ir.Node, inputs: Iterable[Any], *, outputs: int | None = None, **changed: Any) -> Any:
        """The same operator and attributes on other inputs; `changed` overrides attributes (None removes one)."""
        attrs: dict[str, Any] = {**node.attributes, **changed}
        count = len(node.outputs) if outputs is None else outputs
        return getattr(self.domain(node.domain), node.op_type)(*inputs, _outputs=count, **attrs)

    def instantiate(self, wanted: Term) -> ir.Value:
        """The value of a term under the match's bindings."""
        if isinstance(wanted, Var):
            return getattr(self._match, wanted.name)  # type: ignore[no-any-return]
        if isinstance(wanted, Literal):
            return self._scalar(wanted.value)
        if not isinstance(wanted, Op):
            raise RuleError("a replacement cannot be a choice", where=f"rule {self._match.rule.name}")
        inputs = [None if each is None else self._argument(each) for each in wanted.inputs]
        made = getattr(self.domain(wanted.domain), wanted.op_type)(*inputs, _outputs=wanted.output + 1, **wanted.attrs)
        value: ir.Value = made[wanted.output] if isinstance(made, tuple) else made
        return value

    def _argument(self, wanted: Term) -> ir.Value | None:
        if isinstance(wanted, Maybe):
            return self._match[wanted.name]
        return self.instantiate(wanted)

    def _input(self, each: Any) -> ir.Value | None:
        if each is None or isinstance(each, ir.Value):
            return each
        if isinstance(each, np.ndarray | np.generic):
            return self.weight(np.asarray(each))
        if isinstance(each, bool | int | float):
            return self._scalar(each)
        if isinstance(each, Sequence) and all(isinstance(item, int | np.integer) for item in each):
            return self.weight(np.array(each, np.int64))
        raise RuleError(f"cannot make an input of {each!r}", where=f"rule {self._match.rule.name}")

    def _scalar(self, number: float | int | bool) -> ir.Value:
        dtype = self._match.out.dtype
        if dtype is None:
            self._match.fail("the type of the root is unknown, so no scalar can be made for it")
        return self.weight(np.asarray(number, dtype.numpy()))
