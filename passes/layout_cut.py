"""In which order each operator of a region works so that the least is transposed: a minimum cut.

Each member is a vertex on the side of its order. A stream costs one Transpose where some member or what is outside
wants it in the order it is not made in; that is one more vertex for each order, on the side of the first that wants it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelc import ir
from accelc.passes.layout_region import Region, Stream

_ZERO, _ONE = "order 0", "order 1"


def orders(region: Region) -> dict[ir.Node, int] | None:
    """The order of every member at the least cost; None where the model as it stands costs no more."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from((_ZERO, _ONE, *region.members))
    base = 0
    home = {node: member.home for node, member in region.members.items()}
    for member in region.members.values():
        node, extra = member.node, member.carry.cost
        _away(graph, node, member.home, max(extra, 0))
        if extra < 0:  # at home it costs what could be saved
            _away(graph, node, 1 - member.home, -extra)
            base -= extra
    for stream in region.streams:
        _add(graph, stream)
        base += _cost(stream, home)
    value, (ones, _) = nx.minimum_cut(graph, _ONE, _ZERO, flow_func=nx.algorithms.flow.boykov_kolmogorov)
    if value >= base:
        return None
    return _needed(region, {node: int(node in ones) for node in region.members})


def _needed(region: Region, order: dict[ir.Node, int]) -> dict[ir.Node, int]:
    """The same orders, but members that gain nothing by leaving home stay: parts of the region that cost no less."""
    import networkx as nx

    moved = nx.Graph()
    moved.add_nodes_from(node for node, member in region.members.items() if order[node] != member.home)
    touching: dict[Stream, list[ir.Node]] = {}
    for stream in region.streams:
        ends = [node for node in (stream.made_by, *stream.users) if node is not None and node in moved]
        touching[stream] = ends
        nx.add_path(moved, ends)
    part = {node: index for index, nodes in enumerate(nx.connected_components(moved)) for node in nodes}
    home = {node: member.home for node, member in region.members.items()}
    gains = dict.fromkeys(part.values(), 0)
    for node, index in part.items():
        gains[index] -= region.members[node].carry.cost
    for stream, ends in touching.items():
        if ends:
            gains[part[ends[0]]] += _cost(stream, home) - _cost(stream, order)
    return {node: order[node] if node in part and gains[part[node]] > 0 else home[node] for node in order}


def _away(graph: Any, node: ir.Node, order: int, cost: int) -> None:
    """Pay when a member does not have this order."""
    if cost == 0:
        return
    above, below = (node, _ZERO) if order == 0 else (_ONE, node)
    _edge(graph, above, below, cost)


def _edge(graph: Any, above: Any, below: Any, capacity: int | None) -> None:
    """Pay `capacity` (None: it must not be) when `above` has order 1 and `below` order 0."""
    if above == below:
        return
    if graph.has_edge(above, below):
        if capacity is None:
            graph[above][below].pop("capacity", None)
        elif "capacity" in graph[above][below]:
            graph[above][below]["capacity"] += capacity
    elif capacity is None:
        graph.add_edge(above, below)
    else:
        graph.add_edge(above, below, capacity=capacity)


def _add(graph: Any, stream: Stream) -> None:
    maker: Any = stream.made_by
    if maker is None:
        maker = (stream, "made") if stream.free else (_ZERO, _ONE)[stream.sides[stream.root]]
    wants: list[Any] = [*stream.users, *((_ZERO, _ONE)[side] for side in stream.pinned)]
    cost = None if stream.bound else stream.cost
    if not wants:
        return
    if len(wants) == 1:
        _edge(graph, wants[0], maker, cost)
        _edge(graph, maker, wants[0], cost)
        return
    some_one, some_zero = (stream, 1), (stream, 0)
    for each in wants:
        _edge(graph, each, some_one, None)
        _edge(graph, some_zero, each, None)
    _edge(graph, some_one, maker, cost)
    _edge(graph, maker, some_zero, cost)


def _cost(stream: Stream, order: Mapping[ir.Node, int]) -> int:
    """What the Transposes of a stream cost for some orders of the members."""
    wanted = stream.pinned | {order[node] for node in stream.users}
    made = order[stream.made_by] if stream.made_by is not None else stream.sides[stream.root]
    if stream.free:
        return stream.cost if len(wanted) == 2 else 0
    return stream.cost if wanted - {made} else 0
