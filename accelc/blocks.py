"""Blocks: where a model computes attention, a normalization or an activation, as one operator or in parts.

They are found by structure alone and generously: no rule is asked, so that a block no rule knows is still counted, and
`--why` can name it. A block that was found and is not fused is a fact worth a line, whoever could have fused it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter

from accelc import ir
from accelc.block_parts import DOMAINS, Kind, State, blocks_at, consumers

KINDS: tuple[Kind, ...] = ("attention", "norm", "activation")
STATES: tuple[State, ...] = ("fused", "runtime", "unfused")

Tally = Mapping[tuple[str, str], int]
"""Numbers of blocks by kind and state."""

PASSES: Mapping[Kind, tuple[str, ...]] = {
    "attention": ("attention",),
    "norm": ("norm", "group-norm", "skip-norm"),
    "activation": ("gelu", "activation"),
}
"""The passes whose rules fuse a kind of block."""


@dataclass(frozen=True, eq=False)
class Block:
    """One block. anchor: the node it is named by: the operator, or the node that ends the parts.

    state: "runtime" for parts that the runtime makes one operator of while loading. form: the operator, or what the
    parts compute. nodes: the parts, the anchor among them. times: how often the graph it is in is called.
    """

    kind: Kind
    state: State
    form: str
    anchor: ir.Node
    nodes: tuple[ir.Node, ...]
    scope: ir.Scope
    times: int = 1

    @property
    def where(self) -> str:
        """The name of the anchor; its operator where it has none."""
        return self.anchor.name or ir.node_path(self.anchor)


@dataclass(frozen=True)
class BlockCount:
    """The blocks of one kind. found: in the original, in any state. fused, runtime, unfused: in the result.

    gone: those of the original that the result has in no form: nobody used them, or two were one.
    """

    found: int
    fused: int
    runtime: int
    unfused: int
    gone: int = 0


def find_blocks(model: ir.Model) -> list[Block]:
    """Every block of a model, those in subgraphs and in called functions included, in the order of their nodes.

    The time is linear in the number of nodes.
    """
    times = _calls(model)
    return [
        Block(kind, state, form, anchor, nodes, scope, times[scope.root])
        for scope in ir.scopes(model)
        if times[scope.root]
        for node in scope.graph
        if node.domain in DOMAINS
        for kind, state, form, anchor, nodes in blocks_at(node)
    ]


def tally(found: Iterable[Block]) -> Tally:
    """How many blocks there are of each kind in each state, calls of functions written out."""
    counts: Counter[tuple[str, str]] = Counter()
    for block in found:
        counts[block.kind, block.state] += block.times
    return counts


def count(before: Tally, after: Tally) -> dict[str, BlockCount]:
    """The blocks of the original and of the result by kind; kinds of which there are none are left out."""
    counts = {}
    for kind in KINDS:
        fused, runtime, unfused = (after.get((kind, state), 0) for state in STATES)
        left = fused + runtime + unfused
        found = max(sum(before.get((kind, state), 0) for state in STATES), left)
        if found:
            counts[str(kind)] = BlockCount(found, fused, runtime, unfused, found - left)
    return counts


def users(block: Block, most: int = 12) -> Iterator[ir.Node]:
    """The nodes that use what a block makes, nearest first."""
    queue, seen = deque(reversed(block.nodes)), set(block.nodes)
    while queue and most:
        for node in consumers(queue.popleft()):
            if node not in seen and most:
                seen.add(node)
                most -= 1
                queue.append(node)
                yield node


def _calls(model: ir.Model) -> Mapping[ir.Graph, int]:
    """How often each function's body stands in the model when all calls are written out; once for the main graph."""
    if not model.functions:
        return {model.graph: 1}
    bodies = {key: function.graph for key, function in model.functions.items()}
    callers: dict[ir.Graph, Counter[ir.Graph]] = {graph: Counter() for graph in (model.graph, *bodies.values())}
    for scope in ir.scopes(model):
        for node in scope.graph:
            body = bodies.get((node.domain, node.op_type, node.overload))
            if body is not None:
                callers[body][scope.root] += 1
    times: dict[ir.Graph, int] = {}
    for graph in TopologicalSorter(callers).static_order():
        inside = sum(times[caller] * number for caller, number in callers[graph].items())
        times[graph] = 1 if graph is model.graph else inside
    return times
