"""What each form costs each unit in accuracy, from what its inputs hold while the float model runs over the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from accelc import ir
from accelc.calibration import Observe

from .emit import rounded
from .layers import Layer
from .migrate_into import Migration
from .numbers import Floats, product_error
from .plan import BLOCK_FORMS, Form, Parts
from .smoothing import Remedy, Seen, find_remedy, is_free, migration_of, some_rows
from .static import layer_errors
from .trial import Trial
from .weights import rounded_blocks

_ROWS, _INPUTS = 32, 3
"""Rows of an activation on one input, and inputs on which they are looked at."""
_AT_ONCE = 16


@dataclass
class Sensitivity:
    """Relative errors (root mean square over rows of a unit's own result) by (unit, form); those not known count as 0.

    smoothed: what remains in the dynamic form once its activation is smoothed, by unit. remedies: of activations, the
    worst first. impact: how much the outputs suffer from a squared error of a unit; 1 for those not known.
    """

    errors: dict[tuple[int, Form], float] = field(default_factory=dict)
    smoothed: dict[int, float] = field(default_factory=dict)
    remedies: list[Remedy] = field(default_factory=list)
    impact: dict[int, float] = field(default_factory=dict)

    def error(self, unit: int, form: Form, *, smooth: bool = False) -> float:
        if smooth and form == "dynamic" and unit in self.smoothed:
            return self.smoothed[unit]
        return self.errors.get((unit, form), 0.0)

    def cost(self, unit: int, form: Form, *, smooth: bool = False) -> float:
        """What a form of a unit is expected to add to the loss, up to a factor."""
        return self.impact.get(unit, 1.0) * self.error(unit, form, smooth=smooth) ** 2


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
        migration = migration_of(self.parts.model) if "dynamic" in self.forms else None
        for start in range(0, len(inputs), _AT_ONCE):
            part = inputs[start : start + _AT_ONCE]
            self.trial.ctx.progress(f"quantize: sensitivity of {start + len(part)} of {len(inputs)} activations")
            for place, seen in self.seen(part).items():
                self.group(groups[part[place]], seen, migration)
        self.found.remedies.sort(key=lambda each: (-max(self.before(i) for i in each.layers), each.layers))

    def before(self, i: int) -> float:
        return self.found.errors.get((self.parts.unit_of[i].index, "dynamic"), 0.0)

    def group(self, group: Sequence[int], seen: Seen, migration: Migration | None) -> None:
        parts, errors = self.parts, self.found.errors
        for i in group:
            unit, layer = parts.unit_of[i], parts.found.layers[i]
            for form in self.forms:
                if form in unit.forms and form not in ("static", "table"):
                    error = self.layer_error(layer, form, seen)
                    errors[unit.index, form] = max(error, errors.get((unit.index, form), 0.0))
        some = [i for i in group if "dynamic" in parts.unit_of[i].forms]
        if migration is None or not some or any(parts.unit_of[i].layers != (i,) for i in some):
            return
        layers = [parts.found.layers[i] for i in some]
        remedy = find_remedy(layers, seen, parts.schemes.dynamic, free=is_free(migration, layers))
        if remedy is not None:
            self.found.remedies.append(remedy)
            for i in some:
                self.found.smoothed[parts.unit_of[i].index] = self.before(i) * remedy.after / remedy.before

    def layer_error(self, layer: Layer, form: Form, seen: Seen) -> float:
        matrix = layer.matrix()
        if form in BLOCK_FORMS:
            known = self.parts.blocks.setdefault(form, {})
            stored = rounded_blocks(layer, self.parts.schemes.blocks(form), known).floats()
            errors = [weight_error(each, matrix, stored) for each in seen.inputs]
        else:
            int8 = rounded(layer, self.parts.schemes.dynamic, self.parts.known)
            errors = [product_error(each, matrix, int8) for each in seen.inputs]
        return float(np.sqrt(np.mean(np.square(errors))))

    def seen(self, values: Sequence[ir.Value]) -> dict[int, Seen]:
        """What activations hold, by position; those in subgraphs are not known."""
        feeds = self.trial.feeds
        inputs: dict[int, list[Floats]] = {}
        largest: dict[int, Floats] = {}
        for feed in feeds[:: -(-len(feeds) // _INPUTS)]:
            for place, a in self.trial.probe(values, feed, shapes=False).items():
                if a.size:
                    inputs.setdefault(place, []).append(some_rows(a, _ROWS))
                    columns = np.abs(a.reshape(-1, a.shape[-1])).max(axis=0).astype(np.float32)
                    largest[place] = np.maximum(columns, largest.get(place, columns))
        calibration = self.trial.ctx.calibration
        if calibration is not None:
            places = {str(value.name): place for place, value in enumerate(values)}
            for name, one in calibration.statistics(self.parts.model, channels_wanted(self.parts, values)).items():
                if one.channel_low is not None and one.channel_high is not None and places[name] in largest:
                    of_all = np.maximum(np.abs(one.channel_low), np.abs(one.channel_high)).astype(np.float32)
                    largest[places[name]] = np.maximum(largest[places[name]], of_all)
        few = calibration is None
        return {place: Seen(tuple(found), largest[place], few) for place, found in inputs.items()}


def channels_wanted(parts: Parts, values: Iterable[ir.Value]) -> dict[str, Observe]:
    """What divisors are computed from, of those activations that can be seen."""
    graph = parts.model.graph
    return {str(value.name): Observe(channels=-1) for value in values if value.graph is graph}


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
