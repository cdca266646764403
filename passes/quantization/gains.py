"""How much time each unit saves in each form: products timed alone by shape; the decision service keeps the answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx

from accelc import ir
from accelc.calibration import Observe
from accelc.infer import infer_model

from .emit import quantize_layers
from .gains_conv import ConvCase
from .layers import find_layers
from .plan import BLOCK_FORMS, Form, Parts, Plan, Unit, lift
from .static import find_static, quantize_static
from .trial import Trial
from .weights import quantize_weights

RULE = "quantize"
"""Under this name the decisions for single shapes are kept."""
FEW_ROWS = 16
"""With more rows than this, weights that are made float before they are multiplied do not pay."""
_ALONE_S = 0.3
"""Seconds for timing one shape alone."""
_ALONE_ERROR = 0.2
_LARGE = 1 << 24
"""Elements of a weight above which int8 is taken to pay without being timed alone."""
_MANY_BYTES = 200_000_000
_FLOPS, _BYTES = 1.5e11, 2.5e10
"""Of a usual processor in a second; they only weigh layers against each other."""
_GUESSED: Mapping[Form, float] = {"dynamic": 1.5, "static": 1.8, "weight8": 1.2, "weight4": 1.1}
_GUESSED_ONE_ROW: Mapping[Form, float] = {"dynamic": 2.0, "static": 2.0, "weight8": 2.5, "weight4": 3.3}
_REACH = 4.0
"""Where the range of what is normally distributed ends, in standard deviations."""
_OF_A_TABLE = 1e-11
"""Seconds that a byte of a table counts as: tables are given up when they are what costs quality, and not before."""

_BORDERS = 0.8
"""A convolution between others in integers is left in float only if it is slower than this: there its inputs and its
results would have to be converted."""
_HARDLY = 1e-6
"""The share of its time that it then counts as saving."""

Shape = tuple[int, int, int]
Case = Shape | ConvCase
Asked = tuple[Form, Case, int]
"""(form, case, how many layers)"""


@dataclass
class Gains:
    """What is known of speed.

    rows: of the activation of each layer, the most over the inputs that are timed. images: shapes of the inputs of
    convolutions, by position. asked: the decisions asked for. rest: seconds that the model takes besides its units.
    """

    trial: Trial
    parts: Parts
    rows: dict[int, int] = field(default_factory=dict)
    images: dict[int, tuple[int, ...]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    rest: float = 0.0
    _ratios: dict[tuple[Form, Case], float | None] = field(default_factory=dict)

    def ask_again(self, asked: Iterable[Asked]) -> None:
        """Ask for what another attempt of the compile asked."""
        for form, case, layers in asked:
            self.time_alone(form, case, 0.0, layers)

    @property
    def is_large(self) -> bool:
        """Whether a candidate takes seconds to make and to judge."""
        return sum(unit.bytes for unit in self.parts.units) > _MANY_BYTES

    def find_rows(self) -> None:
        """Learn how many rows each product has and how large images are, unless that is known."""
        if self.rows or self.images:
            return
        layers = self.parts.found.layers
        convs = [node for node in self.parts.static.nodes if node.node.op_type == "Conv" and node.weight is not None]
        values = [layer.a for layer in layers] + [conv.reads[0] for conv in convs if conv.reads]
        for feed in self.trial.timed:
            for index, found in self.trial.probe(values, feed, shapes=True).items():
                shape = tuple(int(dim) for dim in found)
                if index >= len(layers):
                    conv = convs[index - len(layers)].index
                    self.images[conv] = max(shape, self.images.get(conv, ()), key=prod)
                elif not layers[index].is_gather:
                    self.rows[index] = max(self.rows.get(index, 0), prod(shape[:-1]))

    def time_shapes(self, forms: Sequence[Form], seconds: float) -> None:
        """Time every shape in these forms, the heaviest first while time is left."""
        counts: Counter[tuple[Form, Case]] = Counter()
        for unit in self.parts.units:
            for form in forms:
                if form in unit.forms and not unit.is_table:
                    counts.update((form, case) for case in self.cases(unit, form))
        end = time.monotonic() + seconds
        for number, key in enumerate(sorted(counts, key=lambda each: (-counts[each] * _cost(each[1]), str(each)))):
            self.trial.ctx.progress(f"quantize: timing shape {number + 1} of {len(counts)}")
            left = _ALONE_S if time.monotonic() < end else 0.0
            self._ratios[key] = self.time_alone(*key, left, counts[key])
            self.asked.append((*key, counts[key]))

    def shapes(self, unit: Unit) -> list[Shape]:
        """(rows, K, N) of a unit's products whose rows are known."""
        layers = self.parts.found.layers
        return [
            (self.rows[i], layers[i].k, layers[i].n)
            for i in unit.layers
            if not layers[i].is_gather and self.rows.get(i)
        ]

    def cases(self, unit: Unit, form: Form) -> list[Case]:
        """What of a unit is timed alone in a form."""
        found: list[Case] = [shape for shape in self.shapes(unit) if self.is_timed(form, shape)]
        if form == "static":
            nodes = self.parts.static.nodes
            convs = [ConvCase.of(nodes[i], self.images[i]) for i in unit.products if i in self.images]
            found += [case for case in convs if case is not None and prod(case.w) <= _LARGE]
        return found

    @staticmethod
    def is_timed(form: Form, shape: Shape) -> bool:
        rows, k, n = shape
        return k * n <= _LARGE and (form not in BLOCK_FORMS or rows <= FEW_ROWS)

    def ratio(self, unit: Unit, form: Form) -> float | None:
        """The lowest ratio of a unit's products timed alone; None where nothing was timed."""
        known = [self._ratios.get((form, case)) for case in self.cases(unit, form)]
        return min((each for each in known if each is not None), default=None)

    def seconds(self, unit: Unit) -> float:
        """About what a unit takes in float."""
        shapes = self.shapes(unit)
        costs = [max(2 * prod(shape) / _FLOPS, 4 * shape[1] * shape[2] / _BYTES) for shape in shapes]
        nodes = self.parts.static.nodes
        return sum(costs) or sum(2 * nodes[i].cost for i in unit.products) / _FLOPS

    def gain(self, unit: Unit, form: Form) -> float:
        """Seconds that a form saves; negative where it was measured to cost some."""
        if form == "table":
            return unit.bytes * _OF_A_TABLE
        ratio = self.ratio(unit, form)
        if ratio is None:
            shapes = self.shapes(unit)
            if form in BLOCK_FORMS and any(rows > FEW_ROWS for rows, _, _ in shapes):
                return -1.0
            ratio = (_GUESSED_ONE_ROW if shapes and all(rows == 1 for rows, _, _ in shapes) else _GUESSED)[form]
        elif not unit.layers and _BORDERS < ratio < 1:
            return max(self.seconds(unit), 1e-9) * _HARDLY
        return max(self.seconds(unit), 1e-9) * (1 - 1 / ratio)

    def estimate(self, plan: Plan) -> float | None:
        """The ratio that a plan is expected to reach; None where no cost is known.

        Until a whole model was timed, as if its units were all of it.
        """
        total = sum(self.seconds(unit) for unit in self.parts.units if not unit.is_table)
        left = total - self.saved(plan) + self.rest
        return (total + self.rest) / left if left > 0 and total > 0 else None

    def saved(self, plan: Plan) -> float:
        """Seconds that a plan saves, by what its units save alone."""
        units = self.parts.units
        return sum(self.gain(units[unit], form) for unit, form in plan.forms if form != "table")

    def learn(self, plan: Plan, ratio: float) -> None:
        """Find out what the model takes besides its units, from the measured ratio of a plan."""
        total = sum(self.seconds(unit) for unit in self.parts.units if not unit.is_table)
        saved = self.saved(plan)
        if ratio > 1 and saved > 0:
            self.rest = max(saved * ratio / (ratio - 1) - total, 0.0)

    def time_alone(self, form: Form, case: Case, seconds: float = _ALONE_S, layers: int = 1) -> float | None:
        """The time of a float product [rows, K] x [K, N] or a convolution over that of a form of it.

        None where nothing was timed. seconds: for the timing; with 0 only what is known counts. layers: how many are
        like it.
        """
        name = "int8" if form == "dynamic" else form
        text = str(case) if isinstance(case, ConvCase) else "[{}, {}] x [{}, {}]".format(*case[:2], *case[1:])

        def build() -> dict[str, ir.Model]:
            make = case.model if isinstance(case, ConvCase) else lambda: _product(*case)
            models = {each: make() for each in ("float", name)}
            self.change(models[name], form, case.k if isinstance(case, ConvCase) else case[1])
            return models

        operators = ", ai.onnx only" if self.parts.portable else ""
        decision = self.trial.ctx.decision(
            RULE,
            f"{text}, {self.parts.schemes.text(form)}{operators}",
            name,
            build,
            places=layers,
            tolerance=_ALONE_ERROR,  # far more than rounding; the quality is judged on the whole model
            certain=False,
            seconds=seconds,
        )
        return decision.ratio

    def change(self, model: ir.Model, form: Form, k: int) -> None:
        """Give the products of a small model, sums over k, a form."""
        schemes = self.parts.schemes
        if form == "static":
            wide = _REACH * k**0.5
            found = find_static(model, portable=self.parts.portable, target=self.parts.target)
            reach = {"x": _REACH}
            ranges = {name: (-high, high) for name in found.wanted(Observe()) for high in [reach.get(name, wide)]}
            chosen = found.with_glue(range(len(found.nodes)))
            quantize_static(model, found, chosen, ranges, schemes.static, _always, self.parts.target)
            return
        layers = find_layers(model, embeddings=False, portable=self.parts.portable).layers
        if form == "dynamic":
            quantize_layers(model, layers, schemes.dynamic, _always)
        else:
            lift(model, schemes.blocks(form))
            quantize_weights(model, layers, schemes.blocks(form), _always)


def _cost(case: Case) -> int:
    return case.cost if isinstance(case, ConvCase) else prod(case)


def _always(_rule: str, _node: str) -> bool:
    return True


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
