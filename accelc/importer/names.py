"""Names and order: every name has one definition, every use finds one, and definitions come first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx

from accelc.errors import ModelError
from accelc.importer.scopes import NodeView, Scan, Scope

_BEFORE = -1
"""The position of inputs and initializers: before every node."""

_POSITIONAL = frozenset(("If", "Loop", "Scan", "SequenceMap"))
"""Operators of the default domain that take a subgraph; all of them match its inputs and outputs by position."""


@dataclass(slots=True)
class _Names:
    """The definitions of one scope: a name and the index of the node that makes it."""

    made: dict[str, int]
    free: dict[str, NodeView]


def resolve(scan: Scan) -> list[str]:
    """Check names, sort nodes, and rename what hides an outer name although it runs. Returns the repairs.

    Raises: ModelError for a name with two definitions or none, a cycle, an output that nothing makes, and a node in a
    subgraph that makes a name that is visible there already.
    """
    tables: dict[int, _Names] = {}
    moved = 0
    for root in scan.roots():
        moved += _resolve(root, tables)
        for name, user in tables[id(root)].free.items():
            raise ModelError(
                "an input is made by nothing",
                where=user.where,
                why=f"'{name}' is no input, initializer or node output of {root.label}",
                hint="the model is incomplete; export it again",
            )
    hidden = _hidden(scan, tables)
    repairs = [f"sorted {moved} node(s) into topological order"] if moved else []
    if hidden:
        _rename(scan, hidden)
        count = sum(map(len, hidden.values()))
        repairs.append(f"renamed {count} value(s) inside subgraphs that repeated an outer name")
    return repairs


def _resolve(scope: Scope, tables: dict[int, _Names]) -> int:
    """Fill in the table of a scope and those inside it, innermost first. Returns how many nodes stood too early."""
    moved = 0
    uses: list[list[str]] = []
    for node in scope.nodes:
        names = [name for name in node.inputs if name]
        for inner in node.subgraphs:
            moved += _resolve(inner, tables)
            names += tables[id(inner)].free
        uses.append(names)
    made = _definitions(scope)
    free: dict[str, NodeView] = {}
    for node, names in zip(scope.nodes, uses, strict=True):
        for name in names:
            if name not in made and name not in free:
                free[name] = node
    moved += _sort(scope, uses, made)
    tables[id(scope)] = _Names(made, free)
    for name in scope.outputs:
        if name not in made:
            raise _no_output(scope, name)
    _refuse_twice(scope.outputs, "output", scope)
    return moved


def _no_output(scope: Scope, name: str) -> ModelError:
    if not name:
        return ModelError("a graph output has no name", where=scope.label, hint="export the model again")
    why = "no node, input or initializer of the same graph has that name"
    hint = (
        "the model is incomplete; export it again" if scope.parent is None else "return outer values through Identity"
    )
    return ModelError(f"the output '{name}' is made by nothing", where=scope.label, why=why, hint=hint)


def _refuse_twice(names: Iterable[str], kind: str, scope: Scope) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ModelError(
                f"the {kind} '{name}' is listed {count} times",
                where=scope.label,
                why="names are unique in a graph",
                hint="export the model again",
            )


def _definitions(scope: Scope) -> dict[str, int]:
    _refuse_twice(scope.inputs, "input", scope)
    _refuse_twice((name for name in scope.initializers if name), "initializer", scope)
    if "" in scope.inputs:
        raise ModelError("an input has no name", where=scope.label, hint="export the model again")
    made = dict.fromkeys((*scope.inputs, *scope.initializers), _BEFORE)
    made.pop("", None)
    for index, node in enumerate(scope.nodes):
        for name in node.outputs:
            if not name:
                continue
            if name in made:
                first = "an input or initializer" if made[name] == _BEFORE else scope.nodes[made[name]].where
                raise ModelError(
                    f"'{name}' is defined twice",
                    where=node.where,
                    why=f"it is also {'' if made[name] == _BEFORE else 'made by '}{first}",
                    hint="the graph is not in single static assignment form; export it again",
                )
            made[name] = index
    return made


def _sort(scope: Scope, uses: list[list[str]], made: dict[str, int]) -> int:
    """Put nodes after what they use; nodes that stand right keep their order. Linear in nodes and uses."""
    needs = [[at for name in names if (at := made.get(name, _BEFORE)) != _BEFORE] for names in uses]
    early = sum(any(at >= index for at in need) for index, need in enumerate(needs))
    if not early:
        return 0
    order = _depth_first(scope, needs)
    rank = [0] * len(order)
    for position, index in enumerate(order):
        rank[index] = position
    ranks = iter(rank)
    scope.proto.node.sort(key=lambda _: next(ranks))
    scope.nodes = [scope.nodes[index] for index in order]
    for name, index in made.items():
        if index != _BEFORE:
            made[name] = rank[index]
    return early


def _depth_first(scope: Scope, needs: list[list[int]]) -> list[int]:
    order: list[int] = []
    state = bytearray(len(needs))  # 0: not seen, 1: on the stack, 2: placed
    for start in range(len(needs)):
        stack = [start]
        while stack:
            index = stack[-1]
            if state[index] == 0:
                state[index] = 1
                waiting = [need for need in needs[index] if state[need] != 2]
                if any(state[need] == 1 for need in waiting):
                    raise _cycle(scope, needs, next(need for need in waiting if state[need] == 1))
                stack.extend(reversed(waiting))
                continue
            stack.pop()
            if state[index] == 1:
                state[index] = 2
                order.append(index)
    return order


def _cycle(scope: Scope, needs: list[list[int]], start: int) -> ModelError:
    """The error for a cycle through a node, with the nodes on it."""
    came: dict[int, int] = {}
    todo = [start]
    while todo and start not in came:
        index = todo.pop()
        for need in needs[index]:
            if need not in came:
                came[need] = index
                todo.append(need)
    loop = [start]
    while (follower := came[loop[-1]]) != start:
        loop.append(follower)
    shown = " -> ".join(scope.nodes[index].where for index in loop[:4]) + (" -> ..." if len(loop) > 4 else "")
    return ModelError(
        "the graph has a cycle", where=scope.label, why=f"{len(loop)} node(s): {shown}", hint="export it again"
    )


def _hidden(scan: Scan, tables: dict[int, _Names]) -> dict[int, list[str]]:
    """The names of each subgraph that repeat an outer name and may be renamed."""
    hidden: dict[int, list[str]] = {}
    owners: dict[int, int] = {}
    for scope in scan.scopes():
        owners.update({id(node): index for index, node in enumerate(scope.nodes) if node.subgraphs})
        if scope.parent is None:
            continue
        positional = scope.owner is not None and scope.owner.domain == "" and scope.owner.op in _POSITIONAL
        for name, index in tables[id(scope)].made.items():
            seen = _seen_outside(scope, name, tables, owners)
            if seen and index != _BEFORE:
                raise ModelError(
                    f"'{name}' is defined twice",
                    where=scope.nodes[index].where,
                    why=f"{scope.label} makes a name that is visible there already",
                    hint="names in a subgraph differ from those outside it; export the model again",
                )
            if seen is not None and positional:
                hidden.setdefault(id(scope), []).append(name)
    return hidden


def _seen_outside(scope: Scope, name: str, tables: dict[int, _Names], owners: dict[int, int]) -> bool | None:
    """Whether an outer scope defines a name before this subgraph's node (True), not before it (False), or never."""
    found: bool | None = None
    while scope.parent is not None:
        made = tables[id(scope.parent)].made.get(name)
        if made is not None:
            if made < owners[id(scope.owner)]:
                return True
            found = False
        scope = scope.parent
    return found


def _rename(scan: Scan, hidden: dict[int, list[str]]) -> None:
    taken = {name for scope in scan.scopes() for name in (*scope.inputs, *scope.initializers)}
    taken |= {name for scope in scan.scopes() for node in scope.nodes for name in node.outputs}
    for root in scan.roots():
        _rename_scope(root, {}, hidden, taken)


def _rename_scope(scope: Scope, outer: dict[str, str], hidden: dict[int, list[str]], taken: set[str]) -> None:
    own = {*scope.inputs, *scope.initializers, *(name for node in scope.nodes for name in node.outputs)}
    names = {old: new for old, new in outer.items() if old not in own}
    for name in hidden.get(id(scope), ()):
        names[name] = fresh(f"{name}_inner", taken)
    if names:
        _apply(scope, names)
    for node in scope.nodes:
        for inner in node.subgraphs:
            _rename_scope(inner, names, hidden, taken)


def fresh(stem: str, taken: set[str]) -> str:
    """A name that is not taken yet; it is taken then."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name


def _apply(scope: Scope, names: dict[str, str]) -> None:
    graph: onnx.GraphProto = scope.proto
    for node in scope.nodes:
        if not names.keys().isdisjoint(node.inputs) or not names.keys().isdisjoint(node.outputs):
            node.inputs = tuple(names.get(name, name) for name in node.inputs)
            node.outputs = tuple(names.get(name, name) for name in node.outputs)
            node.proto.input[:] = node.inputs
            node.proto.output[:] = node.outputs
    scope.inputs = tuple(names.get(name, name) for name in scope.inputs)
    scope.outputs = tuple(names.get(name, name) for name in scope.outputs)
    scope.initializers = tuple(names.get(name, name) for name in scope.initializers)
    values: list[Any] = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for value in values:
        if value.name in names:
            value.name = names[value.name]
    for sparse in graph.sparse_initializer:
        if sparse.values.name in names:
            sparse.values.name = names[sparse.values.name]
    for note in graph.quantization_annotation:
        if note.tensor_name in names:
            note.tensor_name = names[note.tensor_name]
        for entry in note.quant_parameter_tensor_names:
            entry.value = names.get(entry.value, entry.value)
