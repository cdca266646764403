"""Smoothing as a remedy of single activations: which divisors, and how a plan's divisors get into a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from accelc import ir

from .layers import Layer
from .linear import find_linear
from .migrate_into import Migration
from .migration import ALPHAS, SHARES, capped, cautious, divisors
from .numbers import Floats, Scheme, product_error, quantize_weight

_MOST_COLUMNS = 192
"""Columns of weights on which a choice is judged."""
_FREE_GAIN, _PAID_GAIN = 0.9, 0.8
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
    """Rows [R, K] of an activation on each of some inputs, the largest and the smallest element of that input among
    them, and the largest magnitude of each column, [K], on all inputs. few: there are generated inputs only.
    """

    inputs: tuple[Floats, ...]
    largest: Floats
    few: bool


def find_remedy(layers: Sequence[Layer], seen: Seen, scheme: Scheme, *, free: bool) -> Remedy | None:
    """The best divisors for layers that share an activation; None where smoothing gains too little.

    Each input has a range of its own, as when the model runs: what helps one that has outliers must not hurt others.
    """
    if not np.isfinite(seen.largest).all():
        return None
    weights = np.concatenate([layer.matrix() for layer in layers], axis=1)
    columns = np.ascontiguousarray(weights[:, :: -(-weights.shape[1] // _MOST_COLUMNS)])

    def error(chosen: Floats) -> float:
        scaled = columns * chosen[:, None]
        int8 = quantize_weight(scaled, scheme)
        return float(np.sqrt(np.mean([product_error(rows / chosen, scaled, int8) ** 2 for rows in seen.inputs])))

    before = error(np.ones(len(columns), np.float32))
    after, best = min(
        ((error(each), each) for each in _choices(seen, weights)), key=itemgetter(0), default=(before, None)
    )
    if best is None or not after < (_FREE_GAIN if free else _PAID_GAIN) * before:
        return None
    return Remedy(tuple(layer.index for layer in layers), best, before, after, free)


def _choices(seen: Seen, weights: Floats) -> list[Floats]:
    largest = seen.largest
    if seen.few:
        found = cautious(largest)
        return [] if found is None else [found]
    by_row = np.abs(weights).max(axis=1)
    caps = [found for share in SHARES[::2] if (found := capped(largest, share)) is not None]
    return [divisors(largest, by_row, alpha) for alpha in ALPHAS[::2]] + caps


def some_rows(activation: Floats, most: int) -> Floats:
    """About `most` rows of an activation [..., K] that is not empty, with its largest and its smallest element."""
    rows = activation.reshape(-1, activation.shape[-1]).astype(np.float32)
    extreme = {int(rows.max(axis=1).argmax()), int(rows.min(axis=1).argmin())}
    chosen: Floats = rows[sorted({*range(0, len(rows), max(1, len(rows) // most)), *extreme})]
    return chosen


def migration_of(model: ir.Model) -> Migration:
    """What can take divisors of values in the main graph."""
    linears, _ = find_linear(model)
    scope = ir.Scope(model.graph, model.graph, model.graph)
    return Migration(scope, ir.names(model), {each.out: each for each in linears})


def is_free(migration: Migration, layers: Sequence[Layer]) -> bool:
    """Whether the activation of layers can be divided by changing constants."""
    return migration.into(layers[0].a, layers[0].k, {layer.node for layer in layers}) is not None


def divide(model: ir.Model, layers: Sequence[Layer]) -> set[ir.Node]:
    """Put the divisors of smoothed layers into constants where they can go, also into those of other layers.

    Returns the nodes whose activation is divided now; the others need a Mul.
    """
    groups: dict[tuple[ir.Value, bytes], list[Layer]] = {}
    for layer in layers:
        if layer.smooth is not None:
            groups.setdefault((layer.a, layer.smooth.tobytes()), []).append(layer)
    migration = migration_of(model)
    divided: set[ir.Node] = set()
    for group in groups.values():
        nodes, smooth = {layer.node for layer in group}, group[0].smooth
        change = migration.into(group[0].a, group[0].k, nodes)
        if change is not None and smooth is not None:
            change(smooth)
            divided |= nodes
    return divided
