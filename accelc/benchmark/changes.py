"""Two profiles side by side: which parts of the models differ, what they cost, and what made the difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from accelc.benchmark.attribution import ORIGINAL, OWN
from accelc.benchmark.profiled import Change, NodeTime
from accelc.benchmark.results import Row

WIDE = 24
"""Nodes of a region, in each of the models, above which it says too little; it is then divided by layers."""
_SHOWN_LAYERS = 2
_BOTH = 2
_MOST_OF_IT = 0.8


@dataclass(eq=False)
class _Region:
    before: list[NodeTime] = field(default_factory=list)
    after: list[NodeTime] = field(default_factory=list)


def changes(first: Row, second: Row) -> tuple[Change, ...]:
    """The second row's model against the first's, part by part; the largest gain first, what got slower last.

    A part is what lies between values that both models compute. Where a part is wide it is divided by layers that both
    have, else by operators; what has no such value in common is matched by layers. Parts with the same operators before
    and after, for the same reason, are taken together. Empty when a row has no profile.
    """
    if first.profile is None or second.profile is None:
        return ()
    alike: dict[tuple[object, ...], list[_Region]] = {}
    for region in _regions(first.profile.nodes, second.profile.nodes):
        key = (_operators(region.before), _operators(region.after), _why(region.before, region.after))
        alike.setdefault(key, []).append(region)
    found = [_change(first, second, regions) for regions in alike.values()]
    return tuple(sorted(found, key=lambda each: (-each.gain_ms, each.region)))


def _change(first: Row, second: Row, regions: Sequence[_Region]) -> Change:
    before = [node for region in regions for node in region.before]
    after = [node for region in regions for node in region.after]
    return Change(
        first=first.label,
        second=second.label,
        setting=str(second.setting),
        region=_where(before or after),
        before_ms=sum(node.ms for node in before),
        after_ms=sum(node.ms for node in after),
        before=dict(Counter(node.operator for node in before).most_common()),
        after=dict(Counter(node.operator for node in after).most_common()),
        why=_why(before, after),
        places=len(regions),
    )


def _operators(nodes: Iterable[NodeTime]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(node.operator for node in nodes).items()))


def _why(before: Iterable[NodeTime], after: Iterable[NodeTime]) -> tuple[str, ...]:
    """What made nodes of the second and none of the first."""
    known = {ORIGINAL, *(node.origin for node in before)}
    return tuple(name for name, _ in Counter(node.origin for node in after).most_common() if name not in known)


def _where(nodes: Sequence[NodeTime]) -> str:
    layers = list(dict.fromkeys(node.layer for node in sorted(nodes, key=lambda node: -node.ms)))
    more = len(layers) - _SHOWN_LAYERS
    return ", ".join(layers[:_SHOWN_LAYERS]) + (f" and {more} more" if more > 0 else "")


# --- which nodes belong together -------------------------------------------------------------------------------------


def _regions(before: Sequence[NodeTime], after: Sequence[NodeTime]) -> list[_Region]:
    from networkx.utils import UnionFind

    made = _computed(before), _computed(after)
    common = {name for name in made[0] & made[1] if not name.startswith(OWN)}
    joined: UnionFind = UnionFind()
    for side, nodes in enumerate((before, after)):
        inner = _inside(nodes) - common
        for index, node in enumerate(nodes):
            joined[(side, index)]
            for name in node.outputs:
                joined.union((_BOTH if name in common else side, name), (side, index))
            for name in node.inputs:
                if name in inner:
                    joined.union((side, name), (side, index))
    found: dict[object, _Region] = {}
    for index, node in enumerate(before):
        found.setdefault(joined[(0, index)], _Region()).before.append(node)
    for index, node in enumerate(after):
        found.setdefault(joined[(1, index)], _Region()).after.append(node)
    whole = [part for region in found.values() for part in _divided(region)]
    both = [region for region in whole if region.before and region.after]
    sided = [region for region in whole if not (region.before and region.after)]
    rest = _Region([n for region in sided for n in region.before], [n for region in sided for n in region.after])
    placed = _by_layer(rest)
    if placed is None and min(_ms(rest.before) / _ms(before), _ms(rest.after) / _ms(after)) > _MOST_OF_IT:
        placed = [rest]
    return whole if placed is None else [*both, *placed]


def _inside(nodes: Sequence[NodeTime]) -> set[str]:
    """Values that tie those who use them to what computes them: used once, or within the layer only."""
    maker = {name: node for node in nodes for name in node.outputs}
    users: dict[str, list[NodeTime]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    return {
        name
        for name, using in users.items()
        if name in maker and (len(using) == 1 or all(node.layer == maker[name].layer for node in using))
    }


def _computed(nodes: Iterable[NodeTime]) -> set[str]:
    return {name for node in nodes for name in node.outputs}


def _divided(region: _Region) -> list[_Region]:
    """A region itself, or its parts where it is wide in both models."""
    if min(len(region.before), len(region.after)) <= WIDE:
        return [region]
    return _by_layer(region) or _grouped(region, lambda node: node.operator)


def _by_layer(region: _Region) -> list[_Region] | None:
    """Parts by the deepest layers that most of both models' time is in; None where they share none."""
    total = _ms(region.before), _ms(region.after)
    deepest = max((node.layer.count("/") + 1 for node in (*region.before, *region.after)), default=0)
    for depth in range(deepest, 0, -1):
        cut = partial(_cut, depth)
        shared = {cut(node) for node in region.before} & {cut(node) for node in region.after}
        inside = [_ms(node for node in side if cut(node) in shared) for side in (region.before, region.after)]
        if len(shared) > 1 and all(part > _MOST_OF_IT * whole for part, whole in zip(inside, total, strict=True)):
            return _grouped(region, cut)
    return None


def _cut(depth: int, node: NodeTime) -> str:
    return "/".join(node.layer.split("/")[:depth])


def _grouped(region: _Region, key: Callable[[NodeTime], str]) -> list[_Region]:
    found: dict[str, _Region] = {}
    for node in region.before:
        found.setdefault(key(node), _Region()).before.append(node)
    for node in region.after:
        found.setdefault(key(node), _Region()).after.append(node)
    return list(found.values())


def _ms(nodes: Iterable[NodeTime]) -> float:
    return sum(node.ms for node in nodes) or 1e-12
