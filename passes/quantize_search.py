"""Which layers become int8: those that are faster alone and together stay inside the quality budget."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx

from accelc import ir
from accelc.infer import infer_model
from accelc.measure import compare
from accelc.quality import Quality

from .quantize_emit import quantize_layers
from .quantize_layers import Found, Layer, find_layers
from .quantize_numbers import Floats, Scheme, product_error, quantize_rows, quantize_weight
from .quantize_trial import Trial

_ALONE_S = 0.3
"""Seconds for timing one shape alone."""
_LARGE = 1 << 24
"""Elements of a weight above which int8 is taken to pay without being timed alone."""
_PROBED_ROWS = 64
_PROBED_AT_ONCE = 16


@dataclass
class Search:
    """Narrows down the units of a model. dropped: position of a layer -> why it stays in float."""

    trial: Trial
    found: Found
    scheme: Scheme
    portable: bool
    dropped: dict[int, str] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)

    def candidate(self, units: Iterable[tuple[int, ...]]) -> ir.Model:
        """A copy of the model with these units in int8."""
        wanted = {index for unit in units for index in unit}
        tables = any(layer.is_gather for layer in self.found.layers)

        def change(model: ir.Model) -> None:
            layers = find_layers(model, embeddings=tables, portable=self.portable).layers
            chosen = [layer for index, layer in enumerate(layers) if index in wanted]
            quantize_layers(model, chosen, self.scheme, lambda *_: True)

        return self.trial.copy(change)

    def drop(self, unit: Sequence[int], reason: str) -> None:
        self.dropped.update(dict.fromkeys(unit, reason))

    # --- speed of single layers

    def find_rows(self) -> None:
        """Learn how many rows each product has: the most over the samples."""
        for feed in self.trial.feeds:
            shapes = self.trial.probe([layer.a for layer in self.found.layers], feed, shapes=True)
            for index, shape in shapes.items():
                if not self.found.layers[index].is_gather:
                    self.rows[index] = max(self.rows.get(index, 0), prod(int(dim) for dim in shape[:-1]))

    def faster_alone(self, units: Sequence[tuple[int, ...]], seconds: float) -> list[tuple[int, ...]]:
        """Leave out units whose products are slower in int8 when timed alone, the heaviest first while time is left."""
        work: dict[tuple[int, int, int], int] = {}
        for index, rows in self.rows.items():
            layer = self.found.layers[index]
            if rows and layer.k * layer.n <= _LARGE:
                key = (rows, layer.k, layer.n)
                work[key] = work.get(key, 0) + prod(key)
        ratios: dict[tuple[int, int, int], float] = {}
        end = time.monotonic() + seconds
        for key in sorted(work, key=lambda each: (-work[each], each)):
            if time.monotonic() > end:
                break
            ratios[key] = self.time_alone(*key)
        kept = []
        for unit in units:
            layers = [(index, self.found.layers[index]) for index in unit]
            known = [ratios.get((self.rows.get(index, 0), layer.k, layer.n)) for index, layer in layers]
            slow = [ratio for ratio in known if ratio is not None and ratio <= 1.0]
            if slow:
                self.drop(unit, f"float is faster alone: {min(slow):.2f}")
            else:
                kept.append(unit)
        return kept

    def time_alone(self, rows: int, k: int, n: int) -> float:
        """The time of a float product [rows, k] x [k, n] over that of its int8 form."""
        rng = np.random.default_rng(0)
        float_model = _product(k, n, rng)
        int8_model = _product(k, n, rng)
        layers = find_layers(int8_model, embeddings=False, portable=self.portable).layers
        quantize_layers(int8_model, layers, self.scheme, lambda *_: True)
        runner = self.trial.ctx.runner
        sessions = [self.trial.load(each, optimize=True) for each in (float_model, int8_model)]
        try:
            feed = {"x": rng.standard_normal((rows, k), np.float32)}
            (found,) = compare(runner, sessions[0], sessions[1:], [feed], _ALONE_S, seed=self.trial.ctx.settings.seed)
        finally:
            for session in sessions:
                runner.close(session)
        return found.ratio

    # --- quality

    def within_budget(self, units: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], Quality | None, str]:
        """The most units that stay inside the budget together, the quality they reach, and what stopped all of them.

        The units whose own results suffer most are left out first; how many must go is found by bisection.
        """
        quality, over = self.trial.quality(self.candidate(units))
        if not over:
            return list(units), quality, ""
        errors = self.errors(units)
        order = sorted(units, key=lambda unit: (-errors[unit], unit))
        best: Quality | None = None
        low, high = 0, len(order)  # dropping `low` units is too few, dropping `high` is enough
        while high - low > 1:
            middle = (low + high) // 2
            quality, reason = self.trial.quality(self.candidate(order[middle:]))
            if reason:
                low = middle
            else:
                high, best = middle, quality
        for unit in order[:high]:
            self.drop(unit, f"too sensitive: relative error {errors[unit]:.4f} of its own; with all layers the {over}")
        kept = set(order[high:])
        return [unit for unit in units if unit in kept], best, over

    def errors(self, units: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
        """The largest relative error that int8 causes in the results of each unit's own layers."""
        indices = [index for unit in units for index in unit]
        error: dict[int, float] = {}
        for start in range(0, len(indices), _PROBED_AT_ONCE):
            part = indices[start : start + _PROBED_AT_ONCE]
            inputs = [self.found.layers[index].a for index in part if not self.found.layers[index].is_gather]
            places = [index for index in part if not self.found.layers[index].is_gather]
            arrays = self.trial.probe(inputs, self.trial.feeds[0], shapes=False) if inputs else {}
            for place, index in enumerate(places):
                if place in arrays:
                    error[index] = self.layer_error(self.found.layers[index], arrays[place])
        for index in indices:
            layer = self.found.layers[index]
            if layer.is_gather:
                error[index] = _table_error(layer.matrix())
        return {unit: max(error.get(index, 0.0) for index in unit) for unit in units}

    def layer_error(self, layer: Layer, a: Any) -> float:
        weight = layer.matrix()
        rows = a.reshape(-1, a.shape[-1])
        step = max(1, len(rows) // _PROBED_ROWS)
        return product_error(rows[::step], weight, quantize_weight(weight, self.scheme))


def _table_error(table: Floats) -> float:
    rows, scales = quantize_rows(table)
    size = float(np.linalg.norm(table))
    return float(np.linalg.norm(rows * scales - table)) / size if size else 0.0


def _product(k: int, n: int, rng: np.random.Generator) -> ir.Model:
    """A model y = x w + b with random weights."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = {"w": rng.standard_normal((k, n), np.float32), "b": rng.standard_normal(n, np.float32)}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"], "product"), helper.make_node("Add", ["t", "b"], ["y"], "add")],
        "alone",
        [helper.make_tensor_value_info("x", kind, ["M", k])],
        [helper.make_tensor_value_info("y", kind, ["M", n])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    infer_model(model)
    return model
