"""What of a model can change and in which forms, before anything is tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from accelc import ir
from accelc.calibration import Method, Observe
from accelc.context import Context
from accelc.pattern import MICROSOFT

from .layers import Found, find_layers
from .numbers import Scheme
from .plan import BLOCK_FORMS, Form, Parts, Schemes, find_units
from .recognize import recognize
from .sensitivity import channels_wanted
from .static import StaticFound, StaticScheme, find_static
from .weights import BlockScheme, refusal
from .weights_numbers import BLOCK_SIZES

_WAITING = "no calibration data"
_INSIDE = "it is quantized already"
NO_DATA = "no calibration data: static int8 was not considered (give --calibration)"


@dataclass(frozen=True)
class Wishes:
    """The options of the pass. forms: that may be used. keep: patterns of names of nodes that stay in float."""

    forms: tuple[Form, ...]
    bits: Literal[8, 7] | None
    block_size: int | None
    per_channel: bool
    symmetric: bool
    activations: Literal["u8", "s8", "u16", "s16"]
    ranges: Sequence[Method]
    embeddings: bool
    keep: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """forms: that are possible here. ranges: the calibration method to start from. refused: path of a node that stays
    in float -> why. nothing: what to say when no unit is left.
    """

    parts: Parts
    forms: tuple[Form, ...]
    ranges: str
    refused: dict[str, str]
    notes: tuple[str, ...]
    nothing: str


def prepare(model: ir.Model, ctx: Context, wishes: Wishes) -> Prepared:
    """Find all units with the forms that they may take on the target, and the ranges of their activations.

    Raises UsageError for calibration data on which the model does not run.
    """
    vendor = _has_vendor_kernels(ctx)
    size = wishes.block_size or BLOCK_SIZES[4]
    blocks = BlockScheme(4, size, wishes.symmetric, vendor=_has_block_kernels(ctx), clip=True)
    schemes = Schemes(
        Scheme.of(ctx.target, bits=wishes.bits, per_channel=wishes.per_channel, vendor=vendor),
        StaticScheme.of(
            ctx.target,
            bits=wishes.bits,
            activation=wishes.activations,
            per_channel=wishes.per_channel,
            vendor=not ctx.settings.portable,
        ),
        replace(blocks, bits=8, block_size=wishes.block_size or BLOCK_SIZES[8], clip=False),
        blocks,
    )
    no_blocks = refusal(model, ctx, blocks) if set(BLOCK_FORMS) & set(wishes.forms) else ""
    forms = tuple(form for form in wishes.forms if not (no_blocks and form in BLOCK_FORMS))
    portable = not vendor
    found = find_layers(model, embeddings=wishes.embeddings, portable=portable)
    static = StaticFound((), (), {})
    notes: tuple[str, ...] = ()
    waiting: dict[str, str] = {}
    if "static" in forms:
        static = find_static(model, portable=portable, target=ctx.target)
        if ctx.calibration is None:
            notes = (NO_DATA,) if static.units else ()
            waiting = {static.nodes[i].path: _WAITING for unit in static.units for i in unit}
            static = StaticFound((), (), {})
            forms = tuple(form for form in forms if form != "static")

    def taken(dynamic: bool, by_ranges: bool, table: bool) -> Iterable[Form]:
        if table and not dynamic:
            return [form for form in forms if form == "table"]
        able: dict[Form, bool] = {"dynamic": dynamic, "static": by_ranges, "weight8": dynamic, "weight4": dynamic}
        return [form for form in forms if able.get(form)]

    units = find_units(found, static, taken)
    known = recognize(model)
    inside = dict.fromkeys(map(ir.node_path, known.nodes), _INSIDE)
    units = tuple(unit for unit in units if not inside.keys() & set(unit.paths))
    covered = {path for unit in units for path in unit.paths}
    refused = {**waiting, **static.refused, **found.refused, **_some(inside, found, static)}
    refused = {path: reason for path, reason in refused.items() if path not in covered}
    notes += (str(known),) if known else ()
    kept = {
        path: f"kept by keep={pattern}" for unit in units for path in unit.paths if (pattern := _kept(path, wishes))
    }
    refused.update(
        {
            path: kept.get(path, "shares a weight with a node that is kept")
            for unit in units
            if any(path in kept for path in unit.paths)
            for path in unit.paths
        }
    )
    left = [unit for unit in units if not any(path in kept for path in unit.paths)]
    units = tuple(replace(unit, index=index) for index, unit in enumerate(left))
    parts = Parts(model, ctx.target, found, static, schemes, portable, wishes.embeddings, units)
    ranges = ""
    if any("static" in unit.forms for unit in units):
        ranges = _find_ranges(ctx, parts, wishes.ranges)
    else:
        forms = tuple(form for form in forms if form != "static")
    idle = [pattern for pattern in wishes.keep if pattern not in kept.values()]
    notes += tuple(f"keep={pattern} names no layer that could be quantized" for pattern in idle)
    nothing = str(known) or "no MatMul or Gemm with constant float weights"
    if no_blocks and set(wishes.forms) <= {*BLOCK_FORMS, "table"}:
        nothing = no_blocks
    if kept and not units:
        nothing = "keep leaves everything in float"
    return Prepared(parts, forms, ranges, refused, notes, nothing)


def _some(reasons: dict[str, str], found: Found, static: StaticFound) -> dict[str, str]:
    """Reasons of the nodes that were found."""
    paths = {layer.path for layer in found.layers} | {static.nodes[i].path for unit in static.units for i in unit}
    return {path: reason for path, reason in reasons.items() if path in paths}


def _kept(path: str, wishes: Wishes) -> str:
    """The pattern that keeps a node in float, or empty."""
    name = path.removeprefix("node ").rpartition(" (")[0]
    return next((each for each in wishes.keep if fnmatchcase(name, each)), "")


def _find_ranges(ctx: Context, parts: Parts, methods: Sequence[Method]) -> str:
    """Fill in the ranges by every method that is to be tried; the first of them."""
    assert ctx.calibration is not None
    ctx.progress("quantize: calibrating")
    of_ranges = parts.static.wanted(Observe(histogram=any(method.needs_histogram for method in methods)))
    wanted = dict(of_ranges)
    for name, wish in channels_wanted(parts, [layer.a for layer in parts.found.layers if not layer.is_gather]).items():
        wanted[name] = wanted.get(name, wish) | wish  # one run over the data for all that will be asked
    seen = ctx.calibration.statistics(parts.model, wanted)
    for method in methods:
        parts.ranges[str(method)] = {name: seen[name].range(method) for name in of_ranges if name in seen}
    return str(methods[0])


def _has_vendor_kernels(ctx: Context) -> bool:
    """Whether the target has the fused kernels and may use them."""
    types = {"T1": ir.DataType.FLOAT, "T2": ir.DataType.INT8}
    integers = {"T1": ir.DataType.UINT8, "T2": ir.DataType.INT8, "T3": ir.DataType.FLOAT}
    rows = {"T1": ir.DataType.UINT8, "T2": ir.DataType.FLOAT}
    kernels = {"DynamicQuantizeMatMul": types, "MatMulIntegerToFloat": integers, "GatherBlockQuantized": rows}
    return all(ctx.allows(MICROSOFT, kernel, 1, wanted) is True for kernel, wanted in kernels.items())


def _has_block_kernels(ctx: Context) -> bool:
    types = {"T1": ir.DataType.FLOAT, "T2": ir.DataType.UINT8}
    return ctx.allows(MICROSOFT, "MatMulNBits", 1, types) is True
