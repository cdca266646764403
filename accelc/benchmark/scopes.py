"""Layers: the part of a model that a node belongs to, as its exporter named it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

import onnx

from accelc import stamps

MOST_LAYERS = 40
TOP = "top level"

Scope = tuple[str, ...]

_TORCH_SCOPES = "pkg.torch.onnx.name_scopes"
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")
_NUMBER = re.compile(r"_\d+$")
_PART = re.compile(r"[^./]+(?:\.\d+)*")


class Scopes:
    """The scopes of nodes, asked for in topological order.

    They are taken from what torch's exporter notes with a node, from a name with slashes, or from the names of its
    weights; a node without any of these is where its first input with a scope comes from. weights: names.
    """

    def __init__(self, weights: Collection[str]) -> None:
        self._weights = weights
        self._made: dict[str, Scope] = {}

    def of(self, node: onnx.NodeProto) -> Scope:
        """The scope of the next node."""
        scope = _noted(node)
        if scope is None:
            scope = _named(node)
        if scope is None:
            scope = self._weighted(node)
        if scope is None:
            scope = next((self._made[name] for name in node.input if name in self._made), ())
        self._made.update(dict.fromkeys(node.output, scope))
        return scope

    def _weighted(self, node: onnx.NodeProto) -> Scope | None:
        for name in node.input:
            if name in self._weights and "." in name:
                return tuple(_PART.findall(name.rpartition(".")[0])) or None
        return None


def _noted(node: onnx.NodeProto) -> Scope | None:
    text = next((each.value for each in node.metadata_props if each.key == _TORCH_SCOPES), None)
    if text is None:
        return None
    listed = _QUOTED.findall(text)[:-1]  # the last is the node itself
    return tuple(_PART.findall(listed[-1])) if listed else ()


def _named(node: onnx.NodeProto) -> Scope | None:
    if "/" not in node.name:
        return None
    parts = [part for part in node.name.split("/") if part][:-1]
    if stamps.origin(node):  # such nodes are named after the one that they replace
        while parts and onnx.defs.has(_NUMBER.sub("", parts[-1])):
            parts.pop()
    return tuple(parts)


def layers(found: Sequence[Scope]) -> list[str]:
    """Names of layers for scopes: what all have in common left out, and no deeper than gives MOST_LAYERS of them."""
    common = _common([scope for scope in found if scope])
    cut = [scope[common:] for scope in found]
    deepest = max((len(scope) for scope in cut), default=0)
    depth = next((d for d in range(deepest, 1, -1) if len({scope[:d] for scope in cut}) <= MOST_LAYERS), 1)
    return ["/".join(scope[:depth]) or TOP for scope in cut]


def _common(found: Iterable[Scope]) -> int:
    """How many leading parts all scopes share."""
    shared: Scope | None = None
    for scope in found:
        if shared is None:
            shared = scope
        while scope[: len(shared)] != shared:
            shared = shared[:-1]
    return len(shared or ())
