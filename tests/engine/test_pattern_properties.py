"""A pattern made from a graph matches that graph and binds what it was made from, whichever way inputs are turned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from accelc import ir
from accelc.pattern import COMMUTATIVE, Const, Literal, Op, Ops, State, Var, depth, match

UNARY = ("Neg", "Abs", "Exp", "Relu")
BINARY = ("Add", "Mul", "Sub", "Div", "Max")


@dataclass(frozen=True)
class Tree:
    """An expression: an operator on trees, an input (`name`), a weight or a number."""

    kind: str
    parts: tuple[Tree, ...] = ()
    name: str = ""
    number: float = 0.0


leaves = st.one_of(
    st.sampled_from("abc").map(lambda name: Tree("input", name=name)),
    st.sampled_from("vw").map(lambda name: Tree("weight", name=name)),
    st.sampled_from([0.5, 2.0, -1.0]).map(lambda number: Tree("number", number=number)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda kind, a: Tree(kind, (a,)), st.sampled_from(UNARY), inner),
        st.builds(lambda kind, a, b: Tree(kind, (a, b)), st.sampled_from(BINARY), inner, inner),
    ),
    max_leaves=8,
).filter(lambda tree: bool(tree.parts))


class Grown:
    """A graph grown from a tree: every operator is a node of its own, every leaf name one value."""

    def __init__(self, tree: Tree) -> None:
        self.leaves: dict[str, ir.Value] = {}
        self.nodes: list[ir.Node] = []
        self.root = self.node(tree)
        inputs = [value for name, value in self.leaves.items() if name in "abc"]
        weights = [value for name, value in self.leaves.items() if name not in "abc"]
        outputs = [self.root.outputs[0]]
        self.graph = ir.Graph(
            inputs, outputs, nodes=self.nodes, initializers=weights, opset_imports={"": 20}, name="grown"
        )

    def node(self, tree: Tree) -> ir.Node:
        node = ir.new_node(tree.kind, [self.value(part) for part in tree.parts], name=f"n{len(self.nodes)}")
        node.outputs[0].name = f"{node.name}_out{id(node)}"
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2])
        self.nodes.append(node)
        return node

    def value(self, tree: Tree) -> ir.Value:
        if tree.parts:
            return self.node(tree).outputs[0]
        name = tree.name or f"number_{tree.number}"
        if name not in self.leaves:
            kind = ir.TensorType(ir.DataType.FLOAT)
            if tree.kind == "input":
                self.leaves[name] = ir.Value(name=name, type=kind, shape=ir.Shape([2]))
            else:
                array = np.full((2,), 3, np.float32) if tree.kind == "weight" else np.asarray(tree.number, np.float32)
                tensor = ir.array_tensor(array)
                self.leaves[name] = ir.Value(name=name, type=kind, shape=ir.tensor_shape(tensor), const_value=tensor)
        return self.leaves[name]


def pattern_of(tree: Tree) -> Any:
    if tree.kind == "input":
        return Var(tree.name)
    if tree.kind == "weight":
        return Const(tree.name)
    if tree.kind == "number":
        return Literal(tree.number)
    return getattr(Ops(), tree.kind)(*(pattern_of(part) for part in tree.parts))


def turn(tree: Tree, turns: st.DataObject) -> Tree:
    """The same tree with the inputs of some commutative operators turned around."""
    parts = tuple(turn(part, turns) for part in tree.parts)
    if tree.kind in COMMUTATIVE and len(parts) == 2 and turns.draw(st.booleans()):
        parts = parts[::-1]
    return replace(tree, parts=parts)


def bindings(pattern: Op, grown: Grown) -> list[dict[str, Any]]:
    return [dict(found.values) for found in match(pattern, State(grown.root, 20))]


def names(tree: Tree) -> set[str]:
    return ({tree.name} if tree.name else set()).union(*(names(part) for part in tree.parts))


def operators(tree: Tree) -> int:
    return bool(tree.parts) + sum(map(operators, tree.parts))


def levels(tree: Tree) -> int:
    return 1 + max(map(levels, tree.parts), default=0) if tree.parts else 0


@given(trees)
def test_a_graph_matches_the_pattern_made_from_it(tree: Tree) -> None:
    grown, pattern = Grown(tree), pattern_of(tree)
    assert depth(pattern) == levels(tree)
    found = bindings(pattern, grown)
    assert {name: grown.leaves[name] for name in names(tree)} in found


@given(trees, st.data())
def test_turning_commutative_inputs_changes_nothing(tree: Tree, data: st.DataObject) -> None:
    grown = Grown(turn(tree, data))
    assert {name: grown.leaves[name] for name in names(tree)} in bindings(pattern_of(tree), grown)


@given(trees)
def test_every_match_is_a_match(tree: Tree) -> None:
    """Putting the bound values into the pattern gives the graph back, for each match and up to turning."""
    grown, pattern = Grown(tree), pattern_of(tree)
    for found in match(pattern, State(grown.root, 20)):
        assert agrees(pattern, grown.root.outputs[0], found.values)
        assert len(found.nodes) == operators(tree)
        assert found.nodes[0] is grown.root


def agrees(pattern: Any, value: ir.Value | None, values: dict[str, Any]) -> bool:
    if isinstance(pattern, Var):
        return values[pattern.name] is value
    if isinstance(pattern, Literal):
        array = ir.const(value)
        return array is not None and float(array) == pattern.value
    node = value.producer() if value is not None else None
    if node is None or node.op_type != pattern.op_type:
        return False
    orders = [list(node.inputs)] + ([list(node.inputs)[::-1]] if node.op_type in COMMUTATIVE else [])
    return any(all(map(lambda p, v: agrees(p, v, values), pattern.inputs, order)) for order in orders)


@given(trees, st.sampled_from(["Sin", "Cos"]), st.data())
def test_a_pattern_with_another_operator_never_matches(tree: Tree, other: str, data: st.DataObject) -> None:
    grown = Grown(tree)
    wrong = data.draw(st.integers(0, operators(tree) - 1))
    assert bindings(pattern_of(exchange(tree, wrong, other)[0]), grown) == []


def exchange(tree: Tree, index: int, kind: str) -> tuple[Tree, int]:
    """The tree with the operator at an index (in pre-order) exchanged, and the index left over."""
    if not tree.parts:
        return tree, index
    if index == 0:
        return replace(tree, kind=kind), -1
    index -= 1
    parts = []
    for part in tree.parts:
        made, index = exchange(part, index, kind) if index >= 0 else (part, index)
        parts.append(made)
    return replace(tree, parts=tuple(parts)), index


@given(trees)
def test_a_state_is_empty_after_the_last_match(tree: Tree) -> None:
    state = State(Grown(tree).root, 20)
    for _ in match(pattern_of(tree), state):
        pass
    assert (state.values, state.nodes, state.labels) == ({}, [], {})
