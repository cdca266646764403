"""Compute wide 3x3 convolutions by Winograd's minimal filtering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from accelc import estimate, ir
from accelc.context import Context
from accelc.guards import dtype_in
from accelc.pass_base import Pass, PassResult
from accelc.passes.forms import sure_dims
from accelc.pattern import Const, Maybe, Ops, Var
from accelc.rewrite import Driver
from accelc.rules import Law, Match, Rule, rule, rules_of

from ._folding import Array, optional

_OUT, _IN = 4, 6
"""F(4x4, 3x3): each tile of 6x6 pixels of the input gives 4x4 pixels of the output with 36 products instead of 144."""
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float64,
)
_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float64,
)
_OUTPUT = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float64,
)
"""The transforms for the points 0, 1, -1, 2, -2 and infinity."""

# Channels -> pixels of the output from which it gains, by instruction set. Measured inside chains of Conv and Relu.
_GAINS: Mapping[str, Mapping[int, int]] = {
    "avx512": {192: 56 * 56, 256: 28 * 28, 512: 20 * 20},
    "avx2": {256: 28 * 28, 512: 14 * 14},
}
_LEAST_CHANNELS, _LEAST_PIXELS = 128, 14 * 14
"""Below these it was slower everywhere, so that it is not worth a question."""


def _on_cpu(m: Match) -> bool | str:
    return m.ctx.target.provider == "CPUExecutionProvider" or "was measured on the CPU provider only"


@rule(exact=False)
def winograd_conv(op: Ops, x: Var, w: Const, b: Maybe) -> Law:
    """Conv(x, w, b) == A' ((G w G') . (B' x B)) A + b by tiles of F(4x4, 3x3)     kernel 3x3, stride 1, wide"""

    def after(m: Match) -> Any:
        weight = m.const("w")
        height, width, pads = _geometry(m, weight)
        outputs, inputs = weight.shape[:2]
        made_height, made_width = height + pads[0] + pads[2] - 2, width + pads[1] + pads[3] - 2
        places = made_height * made_width
        m.require(min(inputs, outputs) >= _LEAST_CHANNELS and places >= _LEAST_PIXELS, "is too small to gain")
        m.require(optional(m, "b") is None or m.const("b").shape == (outputs,), "b is not one value per channel")
        tiles = _tiles(m, weight, (height, width), pads, (made_height, made_width))
        if m["b"] is not None:
            tiles = m.op.Add(tiles, m.const("b").reshape(1, outputs, 1, 1))
        case = f"{inputs} to {outputs} channels, {height}x{width} pixels"
        default = "winograd" if _gains(m, min(inputs, outputs), places) else "conv"

        def build() -> dict[str, onnx.ModelProto]:
            plain = estimate.small_model([m.root], m.out, m.graph)
            return {"conv": plain, "winograd": estimate.small_model(m.op.nodes, tiles, m.graph)}

        chosen = m.ctx.decide(m.rule.name, case, default, build)
        m.require(chosen == "winograd", f"does not gain on this processor: {case}")
        return estimate.take_over(tiles, m.out)

    return op.Conv(x, w, b, _any=True), after, _on_cpu, dtype_in("x", {ir.DataType.FLOAT})


def _gains(m: Match, channels: int, places: int) -> bool:
    """Whether it is known to be faster on the target's processor."""
    known = next((_GAINS[name] for name in _GAINS if name in m.ctx.target.isa), {})
    return any(channels >= least and places >= pixels for least, pixels in known.items())


def _geometry(m: Match, weight: Array) -> tuple[int, int, tuple[int, ...]]:
    """(height, width, pads) of the input. A miss for any convolution but a dense one of 3x3 with stride 1."""
    m.require(weight.ndim == 4 and weight.shape[2:] == (3, 3), "its kernel is not 3x3")
    m.require(m.attr("group", 1) == 1, "convolves in groups")
    m.require(all(each == 1 for each in m.attr("strides") or ()), "it has strides")
    m.require(all(each == 1 for each in m.attr("dilations") or ()), "it is dilated")
    m.require(m.opset >= 13, "was tested from opset 13 on")
    dims = sure_dims(m.x)
    if dims is None or len(dims) != 4 or dims[1] != weight.shape[1]:
        m.fail("the shape of x is unknown")
    height, width = dims[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        m.fail("height and width are not fixed")
    kind = ir.attribute(m.root, "auto_pad", "NOTSET")
    m.require(kind in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), f"pads by {kind}")
    given = tuple(m.attr("pads") or (0, 0, 0, 0)) if kind == "NOTSET" else (int(kind != "VALID"),) * 4
    m.require(all(0 <= pad <= 2 for pad in given), "pads more than the kernel reaches")
    return height, width, given


def _tiles(m: Match, weight: Array, size: tuple[int, int], pads: tuple[int, ...], made: tuple[int, int]) -> ir.Value:
    """The convolution without its bias, for any batch. size, made: height and width of input and output."""
    op, (outputs, inputs) = m.op, weight.shape[:2]
    down, across = (-(-length // _OUT) for length in made)
    count, kind = down * across, weight.dtype
    # What the last tiles reach beyond the input; the stride leaves out what they do not need.
    end_pads = [
        _OUT * (tiles - 1) + _IN - length - pad
        for tiles, length, pad in zip((down, across), size, pads[:2], strict=True)
    ]
    image = op.Reshape(m.x, [-1, 1, *size])
    spread = np.kron(_INPUT, _INPUT).reshape(_IN * _IN, 1, _IN, _IN).astype(kind)
    seen = op.Conv(
        image, spread, kernel_shape=[_IN, _IN], strides=[_OUT, _OUT], pads=[pads[0], pads[1], *end_pads]
    )  # [batch * inputs, 36, down, across]
    by_place = op.Transpose(op.Reshape(seen, [-1, inputs, _IN * _IN, count]), perm=[0, 2, 1, 3])
    products = op.MatMul(_transformed(m, weight), by_place)  # [batch, 36, outputs, tiles]
    flat = op.Reshape(products, [-1, _IN * _IN, outputs * count])
    gathered = op.MatMul(np.kron(_OUTPUT, _OUTPUT).astype(kind), flat)
    blocks = op.Reshape(gathered, [-1, _OUT * _OUT * outputs, down, across])
    result: ir.Value = op.DepthToSpace(blocks, blocksize=_OUT, mode="DCR")
    if (down * _OUT, across * _OUT) != made:
        result = op.Slice(result, [0, 0], list(made), [2, 3])
    return result


def _transformed(m: Match, weight: Array) -> ir.Value:
    """The weight of each of the 36 products, [36, outputs, inputs], written as operators on the weight.

    The result is four times as large as the weight. The runtime computes it once, when it loads the model, so that the
    file does not grow.
    """
    outputs, inputs = weight.shape[:2]
    taps = m.op.Reshape(m.op.Transpose(m.w, perm=[2, 3, 0, 1]), [9, outputs * inputs])
    spread = m.op.MatMul(np.kron(_KERNEL, _KERNEL).astype(weight.dtype), taps)
    made: ir.Value = m.op.Reshape(spread, [_IN * _IN, outputs, inputs])
    return made


RULES = rules_of(globals())


@dataclass(frozen=True)
class Winograd(Pass):
    """Compute wide 3x3 convolutions by Winograd's minimal filtering.

    It rounds more than other rules: by up to 2e-4 of the range of the output.
    """

    name: ClassVar[str] = "winograd"
    exact: ClassVar[bool] = False
    rules: ClassVar[tuple[Rule, ...]] = RULES

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return tuple(rule.name for rule in cls.rules)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        estimate.annotate(model, ctx)
        driver = Driver(self.rules)
        changes = driver.run(model, ctx)
        return PassResult(changes, rules=tuple(driver.stats.values()))
