"""What each form costs each unit in accuracy, from what its inputs hold while the float model runs over the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from accelc import ir
from accelc.calibration import Observe

from .emit import rounded
from .layers import Layer
from .numbers import Floats, product_error, smoothing
from .plan import BLOCK_FORMS, Form, Parts
from .static import layer_errors
from .trial import Trial
from .weights import rounded_blocks

_CLEARLY = 0.8
_ROWS = 64
_AT_ONCE = 16

Remedy = tuple[tuple[int, ...], Floats]
"""Layers with one activation, and its smoothing."""


@dataclass
class Sensitivity:
    """Relative errors (root mean square over rows of a unit's own result) by (unit, form); those not known count as 0.

    smoothed: what remains in the dynamic form once its activation is smoothed. remedies: where smoothing lowers the
    error clearly, the worst first.
    """

    errors: dict[tuple[int, Form], float] = field(default_factory=dict)
    smoothed: dict[int, float] = field(default_factory=dict)
    remedies: list[Remedy] = field(default_factory=list)

    def error(self, unit: int, form: Form, *, smooth: bool = False) -> float:
        if smooth and form == "dynamic" and unit in self.smoothed:
            return self.smoothed[unit]
        return self.errors.get((unit, form), 0.0)


def measure_errors(trial: Trial, parts: Parts, forms: Iterable[Form], ranges: str) -> Sensitivity:
    """The errors of all units in these forms, given float inputs.

    Static forms take the ranges of this calibration method. Raises RuntimeFailure.
    """
    work = _Work(trial, parts, tuple(forms))
    for unit in parts.units:
        if "table" in unit.forms and "table" in work.forms:
            layers = [parts.found.layers[i] for i in unit.layers]
            work.found.errors[unit.index, "table"] = max(table_error(layer, parts) for layer in layers)
    work.products()
    if "static" in work.forms:
        errors = layer_errors(trial, parts.static, parts.ranges[ranges], parts.schemes.static)
        for unit in parts.units:
            known = [errors[i] for i in unit.products if i in errors]
            if "static" in unit.forms and known:
                work.found.errors[unit.index, "static"] = max(known)
    return work.found


@dataclass
class _Work:
    trial: Trial
    parts: Parts
    forms: tuple[Form, ...]
    found: Sensitivity = field(default_factory=Sensitivity)

    def products(self) -> None:
        """Errors of layers in the forms that need no ranges, by activation: those that share one are smoothed alike."""
        layers = self.parts.found.layers
        groups: dict[ir.Value, list[int]] = {}
        for unit in self.parts.units:
            for i in unit.layers:
                if not layers[i].is_gather and set(self.forms) & set(unit.forms) - {"static", "table"}:
                    groups.setdefault(layers[i].a, []).append(i)
        inputs = list(groups)
        for start in range(0, len(inputs), _AT_ONCE):
            part = inputs[start : start + _AT_ONCE]
            self.trial.ctx.progress(f"quantize: sensitivity of {start + len(part)} of {len(inputs)} activations")
            for place, (rows, extremes) in self.seen(part).items():
                self.group(groups[part[place]], rows, extremes)
        self.found.remedies.sort(key=lambda each: (-max(self.before(i) for i in each[0]), each[0]))

    def before(self, i: int) -> float:
        return self.found.errors.get((self.parts.unit_of[i].index, "dynamic"), 0.0)

    def group(self, group: Sequence[int], rows: Floats, extremes: Floats) -> None:
        parts, errors = self.parts, self.found.errors
        taken: dict[Form, list[float]] = {}
        for i in group:
            unit, layer = parts.unit_of[i], parts.found.layers[i]
            for form in self.forms:
                if form in unit.forms and form not in ("static", "table"):
                    error = self.layer_error(layer, form, rows)
                    errors[unit.index, form] = max(error, errors.get((unit.index, form), 0.0))
                    taken.setdefault(form, []).append(error)
        alone = all(parts.unit_of[i].layers == (i,) for i in group)
        divisors = smoothing(extremes) if extremes.size and alone and "dynamic" in taken else None
        if divisors is None:
            return
        after = [self.layer_error(parts.found.layers[i], "dynamic", rows / divisors, divisors) for i in group]
        if max(after) < _CLEARLY * max(taken["dynamic"]):
            self.found.remedies.append((tuple(group), divisors))
            self.found.smoothed.update((parts.unit_of[i].index, error) for i, error in zip(group, after, strict=True))

    def layer_error(self, layer: Layer, form: Form, rows: Floats, divisors: Floats | None = None) -> float:
        layer = replace(layer, smooth=divisors)
        if form in BLOCK_FORMS:
            known = self.parts.blocks.setdefault(form, {})
            return weight_error(
                rows, layer.matrix(), rounded_blocks(layer, self.parts.schemes.blocks(form), known).floats()
            )
        return product_error(rows, layer.matrix(), rounded(layer, self.parts.schemes.dynamic, self.parts.known))

    def seen(self, values: Sequence[ir.Value]) -> dict[int, tuple[Floats, Floats]]:
        """Some rows of activations [R, K] and the extremes of their columns [2, K], by position.

        Those in subgraphs are not known.
        """
        calibration = self.trial.ctx.calibration
        if calibration is None:
            found = self.trial.probe(values, self.trial.feeds[0], shapes=False)
            rows = {place: a.reshape(-1, a.shape[-1]) for place, a in found.items()}
            return {place: (a[:: max(1, len(a) // _ROWS)], _extremes(a)) for place, a in rows.items()}
        places = {str(value.name): place for place, value in enumerate(values)}
        seen = calibration.statistics(self.parts.model, rows_wanted(self.parts, values))
        return {
            places[name]: (one.rows, np.stack([one.channel_low, one.channel_high]))
            for name, one in seen.items()
            if one.rows is not None and one.channel_low is not None and one.channel_high is not None
        }


def rows_wanted(parts: Parts, values: Iterable[ir.Value]) -> dict[str, Observe]:
    """What errors are computed from, of those activations that can be seen."""
    graph = parts.model.graph
    return {str(value.name): Observe(channels=-1, rows=_ROWS) for value in values if value.graph is graph}


def _extremes(a: Floats) -> Floats:
    return np.stack([a.min(axis=0), a.max(axis=0)]) if a.size else np.zeros((0, a.shape[-1]), np.float32)


def weight_error(rows: Floats, weight: Floats, stored: Floats) -> float:
    """Relative error of a row of rows @ weight when the weight alone is rounded, root mean square over rows."""
    wanted = rows @ weight
    sizes = np.linalg.norm(wanted, axis=1)
    some = sizes > 0
    errors = np.linalg.norm(rows @ (stored - weight), axis=1)[some] / sizes[some]
    return float(np.sqrt(np.mean(errors**2))) if errors.size and np.isfinite(errors).all() else 0.0


def table_error(layer: Layer, parts: Parts) -> float:
    """The relative error of a table's rows; 0 for a product."""
    if not layer.is_gather:
        return 0.0
    table = layer.matrix()
    size = float(np.linalg.norm(table))
    error = rounded(layer, parts.schemes.dynamic, parts.known).floats() - table
    return float(np.linalg.norm(error)) / size if size else 0.0
