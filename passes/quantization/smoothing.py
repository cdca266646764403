"""Smoothing as a remedy of single activations: which divisors, and how a plan's divisors get into a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from accelc import ir

from .layers import Layer, find_layers
from .linear import find_linear
from .migrate_into import Migration
from .migration import ALPHAS, SHARES, Product, capped, cautious, divisors
from .numbers import Floats, Scheme

_MOST_COLUMNS = 512
_FREE_GAIN, _PAID_GAIN = 0.97, 0.85
"""What the error must fall to, for a change of constants and for one more operator."""


@dataclass(frozen=True)
class Remedy:
    """Layers with one activation, and what its columns are divided by, [K].

    before, after: relative errors of their products. free: the division goes into constants.
    """

    layers: tuple[int, ...]
    divisors: Floats
    before: float
    after: float
    free: bool = False


@dataclass(frozen=True)
class Seen:
    """Rows [R, K] of an activation and the range of its columns, [K]. few: of one generated input only."""

    rows: Floats
    low: Floats
    high: Floats
    few: bool


def find_remedy(layers: Sequence[Layer], seen: Seen, scheme: Scheme, *, free: bool) -> Remedy | None:
    """The best divisors for layers that share an activation; None where smoothing gains too little."""
    if not seen.rows.size or not np.isfinite(seen.rows).all():
        return None
    weights = np.concatenate([layer.matrix() for layer in layers], axis=1)
    choices = _choices(seen, weights)
    if not choices:
        return None
    step = -(-weights.shape[1] // _MOST_COLUMNS)
    columns = np.ascontiguousarray(weights[:, ::step])
    product = Product(seen.rows, columns, seen.low, seen.high, top=scheme.top, per_channel=scheme.per_channel)
    before = product.error(None)
    after, best = product.best(choices)
    if not after < (_FREE_GAIN if free else _PAID_GAIN) * before:
        return None
    return Remedy(tuple(layer.index for layer in layers), choices[best], before, after, free)


def _choices(seen: Seen, weights: Floats) -> list[Floats]:
    largest = np.maximum(np.abs(seen.low), np.abs(seen.high)).astype(np.float32)
    if seen.few:
        found = cautious(largest)
        return [] if found is None else [found]
    by_row = np.abs(weights).max(axis=1)
    caps = [found for share in SHARES if (found := capped(largest, share)) is not None]
    return [divisors(largest, by_row, alpha) for alpha in ALPHAS] + caps


def migration_of(model: ir.Model) -> Migration:
    """What can take divisors of values in the main graph."""
    linears, _ = find_linear(model)
    scope = ir.Scope(model.graph, model.graph, model.graph)
    return Migration(scope, ir.names(model), {each.out: each for each in linears})


def is_free(migration: Migration, layers: Sequence[Layer]) -> bool:
    """Whether the activation of layers can be divided by changing constants."""
    return migration.into(layers[0].a, layers[0].k, {layer.node for layer in layers}) is not None


def divide(model: ir.Model, layers: Sequence[Layer], *, embeddings: bool, portable: bool) -> list[Layer]:
    """The layers as they stand after the divisors of those that are smoothed went into constants, where they can.

    The others keep them for a Mul of their own. Constants of other layers change with it.
    """
    groups: dict[tuple[ir.Value, bytes], list[Layer]] = {}
    for layer in layers:
        if layer.smooth is not None:
            groups.setdefault((layer.a, layer.smooth.tobytes()), []).append(layer)
    migration = migration_of(model)
    divided: set[ir.Node] = set()
    for group in groups.values():
        change = migration.into(group[0].a, group[0].k, {layer.node for layer in group})
        if change is not None and group[0].smooth is not None:
            change(group[0].smooth)
            divided |= {layer.node for layer in group}
    if not divided:
        return list(layers)
    now = {layer.node: layer for layer in find_layers(model, embeddings=embeddings, portable=portable).layers}
    return [
        replace(now.get(each.node, each), index=each.index, smooth=each.smooth, divided=each.node in divided)
        for each in layers
    ]
