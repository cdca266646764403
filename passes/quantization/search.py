"""Which layers become int8, and how: those that are faster alone and together stay inside the quality budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import onnx

from accelc import ir
from accelc.infer import infer_model
from accelc.quality import Quality

from .emit import Rounded, quantize_layers, rounded
from .layers import Found, Layer, find_layers
from .numbers import Floats, Scheme, product_error, smoothing
from .trial import Trial

RULE = "quantize"
"""Under this name the decisions for single shapes are kept."""
_ALONE_S = 0.3
"""Seconds for timing one shape alone."""
_ALONE_ERROR = 0.2
_LARGE = 1 << 24
"""Elements of a weight above which int8 is taken to pay without being timed alone."""
_CLEARLY = 0.8
_PROBED_ROWS = 64
_PROBED_AT_ONCE = 16

Unit = tuple[int, ...]
Remedy = tuple[tuple[int, ...], Floats]
"""Layers with one activation, and its smoothing."""


@dataclass
class Search:
    """Narrows down the units of a model.

    By position of a layer: dropped, why it stays in float; rows of its activation; smooth, the divisors it is to use.
    """

    trial: Trial
    found: Found
    scheme: Scheme
    portable: bool
    dropped: dict[int, str] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    smooth: dict[int, Floats] = field(default_factory=dict)
    known: Rounded = field(default_factory=dict)

    def candidate(self, units: Iterable[Unit]) -> ir.Model:
        """A copy of the model with these units in int8."""
        wanted = {index for unit in units for index in unit}
        tables = any(layer.is_gather for layer in self.found.layers)

        def change(model: ir.Model) -> None:
            layers = find_layers(model, embeddings=tables, portable=self.portable).layers
            quantize_layers(model, self.chosen(layers, wanted), self.scheme, lambda *_: True, self.known)

        return self.trial.copy(change)

    def chosen(self, layers: Sequence[Layer], wanted: Collection[int]) -> list[Layer]:
        """The wanted ones of the layers of the model or a copy, with their smoothing, in the order of the graph."""
        return [replace(layer, smooth=self.smooth.get(i)) for i, layer in enumerate(layers) if i in wanted]

    def signature(self, units: Iterable[Unit]) -> tuple[tuple[str, int, int, bool], ...]:
        """What tells a candidate from others: its layers by place and shape, and which of them are smoothed."""
        layers = self.found.layers
        indices = sorted(index for unit in units for index in unit)
        return tuple((layers[i].path, layers[i].k, layers[i].n, i in self.smooth) for i in indices)

    def drop(self, unit: Sequence[int], reason: str) -> None:
        self.dropped.update(dict.fromkeys(unit, reason))

    # --- speed of single layers

    def find_rows(self) -> None:
        """Learn how many rows each product has: the most over the inputs that are timed."""
        for feed in self.trial.timed:
            shapes = self.trial.probe([layer.a for layer in self.found.layers], feed, shapes=True)
            for index, shape in shapes.items():
                if not self.found.layers[index].is_gather:
                    self.rows[index] = max(self.rows.get(index, 0), prod(int(dim) for dim in shape[:-1]))

    def faster_alone(self, units: Sequence[Unit], seconds: float) -> list[Unit]:
        """Leave out units whose products are slower in int8 when timed alone, the heaviest first while time is left."""
        counts: Counter[tuple[int, int, int]] = Counter()
        for index, rows in self.rows.items():
            layer = self.found.layers[index]
            if rows and layer.k * layer.n <= _LARGE:
                counts[rows, layer.k, layer.n] += 1
        ratios: dict[tuple[int, int, int], float | None] = {}
        end = time.monotonic() + seconds
        for key in sorted(counts, key=lambda each: (-counts[each] * prod(each), each)):
            left = _ALONE_S if time.monotonic() < end else 0.0
            ratios[key] = self.time_alone(*key, left, counts[key])
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

    def time_alone(self, rows: int, k: int, n: int, seconds: float = _ALONE_S, layers: int = 1) -> float | None:
        """The time of a float product [rows, k] x [k, n] over that of its int8 form; None where nothing was timed.

        seconds: for the timing; with 0 only what is known counts. layers: how many are of this shape.
        """

        def build() -> dict[str, ir.Model]:
            models = {name: _product(rows, k, n) for name in ("float", "int8")}
            found = find_layers(models["int8"], embeddings=False, portable=self.portable).layers
            quantize_layers(models["int8"], found, self.scheme, lambda *_: True)
            return models

        operators = ", ai.onnx only" if self.portable else ""
        decision = self.trial.ctx.decision(
            RULE,
            f"[{rows}, {k}] x [{k}, {n}], {self.scheme}{operators}",
            "int8",
            build,
            places=layers,
            tolerance=_ALONE_ERROR,  # far more than rounding; the quality is judged on the whole model
            certain=False,
            seconds=seconds,
        )
        return decision.ratio

    # --- quality

    def within_budget(self, units: Sequence[Unit]) -> tuple[list[Unit], Quality | None, str]:
        """The most units that stay inside the budget together, the quality they reach, and what stopped all of them.

        Where all of them are too much, those whose own results suffer most are smoothed first, and when that is not
        enough they are left out. How many is found by bisection.
        """
        quality, over = self.trial.quality(self.candidate(units))
        if not over:
            return list(units), quality, ""
        errors, remedies = self.errors(units)
        remedies.sort(key=lambda each: (-max(errors[index] for index in each[0]), each[0]))

        def smoothed(count: int) -> list[Unit]:
            self.smooth = {index: divisors for group, divisors in remedies[:count] for index in group}
            return list(units)

        count, best = self._fewest(len(remedies), smoothed)
        if best is not None:
            return smoothed(count), best, over
        smoothed(len(remedies))
        worst = sorted(units, key=lambda unit: (-max(errors[index] for index in unit), unit))

        def without(count: int) -> list[Unit]:
            kept = set(worst[count:])
            return [unit for unit in units if unit in kept]

        count, best = self._fewest(len(worst) - 1, without)
        if best is None:
            count = len(worst)
        for unit in worst[:count]:
            error = max(errors[index] for index in unit)
            self.drop(unit, f"too sensitive: relative error {error:.4f} of its own; with all layers the {over}")
        return without(count), best, over

    def _fewest(self, most: int, choose: Callable[[int], list[Unit]]) -> tuple[int, Quality | None]:
        """The smallest count in 1..most whose choice is inside the budget, and its quality; None when none is."""
        quality, reason = self.trial.quality(self.candidate(choose(most))) if most else (None, "")
        if reason or quality is None:
            return most, None
        low, high, best = 0, most, quality  # `low` is too few, `high` is enough
        while high - low > 1:
            middle = (low + high) // 2
            quality, reason = self.trial.quality(self.candidate(choose(middle)))
            if reason or quality is None:
                low = middle
            else:
                high, best = middle, quality
        return high, best

    def errors(self, units: Sequence[Unit]) -> tuple[dict[int, float], list[Remedy]]:
        """The relative error that int8 causes in each layer's own results, and where smoothing lowers it clearly.

        Layers whose activation is not known, in subgraphs, count as exact.
        """
        alone = {index for unit in units if len(unit) == 1 for index in unit}
        indices = sorted(index for unit in units for index in unit)
        error = {index: self.table_error(self.found.layers[index]) for index in indices}
        groups: dict[ir.Value, list[int]] = {}
        for index in indices:
            if not self.found.layers[index].is_gather:
                groups.setdefault(self.found.layers[index].a, []).append(index)
        inputs, remedies = list(groups), []
        for start in range(0, len(inputs), _PROBED_AT_ONCE):
            part = inputs[start : start + _PROBED_AT_ONCE]
            for place, a in self.trial.probe(part, self.trial.feeds[0], shapes=False).items():
                group = groups[part[place]]
                before = [self.layer_error(index, a, None) for index in group]
                error.update(zip(group, before, strict=True))
                divisors = smoothing(a) if a.size and alone.issuperset(group) else None
                if divisors is not None:
                    after = max(self.layer_error(index, a / divisors, divisors) for index in group)
                    if after < _CLEARLY * max(before):
                        remedies.append((tuple(group), divisors))
        return error, remedies

    def layer_error(self, index: int, a: Floats, divisors: Floats | None) -> float:
        layer = replace(self.found.layers[index], smooth=divisors)
        rows = a.reshape(-1, a.shape[-1])
        step = max(1, len(rows) // _PROBED_ROWS)
        return product_error(rows[::step], layer.matrix(), rounded(layer, self.scheme, self.known))

    def table_error(self, layer: Layer) -> float:
        """The relative error of a table's rows; 0 for a product."""
        if not layer.is_gather:
            return 0.0
        table = layer.matrix()
        size = float(np.linalg.norm(table))
        error = rounded(layer, self.scheme, self.known).floats() - table
        return float(np.linalg.norm(error)) / size if size else 0.0


def _product(rows: int, k: int, n: int) -> ir.Model:
    """A model y = x w + b with x [rows, k] and random weights."""
    helper, kind, rng = onnx.helper, onnx.TensorProto.FLOAT, np.random.default_rng(0)
    weights = {"w": rng.standard_normal((k, n), np.float32), "b": rng.standard_normal(n, np.float32)}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"], "product"), helper.make_node("Add", ["t", "b"], ["y"], "add")],
        "alone",
        [helper.make_tensor_value_info("x", kind, [rows, k])],
        [helper.make_tensor_value_info("y", kind, [rows, n])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    infer_model(model)
    return model
