"""Is B the same as A? Tolerances by type, differences that say where, and quality where equality is not the rule.

The rule for floating point. With `range` = the largest finite magnitude of the expected output, an element passes when

    |expected - actual| <= rtol * |expected| + atol * range + floor

and the output passes when every element does. Fused models may let single elements drift through cancellation, so an
output also passes when at most 1 in 20,000 elements fail the line above and none is off by more than `drift` * range.
Relating the absolute part to the output's range, not to 1, keeps the rule meaningful for outputs of any size; `floor`
covers outputs that are zero up to rounding. NaN equals NaN, infinities are equal by sign; where one side is not finite
and the other is, they differ. Types and shapes must be equal.

Integers, booleans and strings must be equal, and so must float8 and float4 (one step there is 6 % or more).

exact=True asks for the same bits: 0.0 and -0.0 differ; any NaN equals any NaN, because IEEE 754 leaves sign and payload
of a computed NaN open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc.data.specs import InputSpec, Value
from accelc.quality import OutputQuality, Quality, measure_quality

__all__ = [
    "DEFAULT",
    "EXACT",
    "LIMITS",
    "REPEATABLE",
    "Difference",
    "Limits",
    "OutputQuality",
    "Quality",
    "Tolerance",
    "compare_arrays",
    "compare_outputs",
    "compare_values",
    "contradicted_outputs",
    "is_deterministic",
    "measure_quality",
    "random_outputs",
]

Array = np.ndarray[Any, np.dtype[Any]]
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Limits:
    """How far a floating-point type may be off; see the module's rule."""

    rtol: float
    atol: float
    floor: float
    drift: float


LIMITS: Mapping[str, Limits] = {
    "float64": Limits(1e-8, 1e-9, 1e-11, 1e-7),
    "float32": Limits(5e-4, 2e-5, 1e-6, 5e-4),
    "float16": Limits(1e-2, 1e-3, 1e-4, 5e-4),
    "bfloat16": Limits(3e-2, 5e-3, 1e-4, 5e-4),
}
LIMITS = {**LIMITS, "complex128": LIMITS["float64"], "complex64": LIMITS["float32"]}
_DRIFTING_SHARE = 5e-5
_LARGEST_RANGE = 1e30  # beyond it an output has overflowed for any later use, and its range excuses nothing
_CHUNK = 1 << 20  # elements compared at a time, so that float64 copies stay small


@dataclass(frozen=True)
class Tolerance:
    """What counts as the same.

    exact: the same bits. scale: a factor on the limits of floating-point types. integer_ties: the share of elements in
    an integer or boolean output that may differ (argmax and rounding of floats that are almost equal); 8-bit integers
    that differ may do so by one step only. finite_only: where the expected float is NaN or Inf nothing is asked of the
    actual one, for edge feeds on which the original overflows (without effect on exact).
    """

    exact: bool = False
    scale: float = 1.0
    integer_ties: float = 0.0
    finite_only: bool = False


EXACT = Tolerance(exact=True)
DEFAULT = Tolerance()
REPEATABLE = Tolerance(scale=1e-3)
"""For two runs of the same model: rounding may differ between runs, random numbers differ by far more."""


@dataclass(frozen=True)
class Difference:
    """Why an output is not the same.

    reason: the kind of difference in words. max_abs: the largest absolute error over finite elements. max_relative:
    that error divided by the expected output's range. index: the worst element, with its two values. count of total
    elements fail. The numbers are None where the kind of difference has none.
    """

    output: str
    reason: str
    max_abs: float | None = None
    max_relative: float | None = None
    index: tuple[int, ...] | None = None
    expected: Value = None
    actual: Value = None
    count: int = 0
    total: int = 0

    def __str__(self) -> str:
        text = f"{self.output}: {self.reason}"
        if self.index is not None:
            text += (
                f": expected {_short(self.expected)}, got {_short(self.actual)} at [{', '.join(map(str, self.index))}]"
            )
        elif self.expected is not None or self.actual is not None:
            text += f": expected {_short(self.expected)}, got {_short(self.actual)}"
        if self.max_abs is not None and self.max_relative is not None:
            text += f", largest error {self.max_abs:.3g} ({self.max_relative:.3g} of the range)"
        if self.total:
            text += f", {self.count} of {self.total} elements differ"
        return text


def _short(value: Value) -> str:
    text = f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def compare_outputs(expected: Values, actual: Values, tolerance: Tolerance = DEFAULT) -> tuple[Difference, ...]:
    """All differences between two sets of outputs by name; empty when they are the same."""
    found: list[Difference] = []
    for name, value in expected.items():
        if name not in actual:
            found.append(Difference(name, "the output is missing"))
            continue
        difference = compare_values(name, value, actual[name], tolerance=tolerance)
        if difference is not None:
            found.append(difference)
    found.extend(Difference(name, "the output is not expected") for name in actual if name not in expected)
    return tuple(found)


def compare_values(name: str, expected: Value, actual: Value, *, tolerance: Tolerance = DEFAULT) -> Difference | None:
    """The first difference inside a value (tensor, sequence, map, optional), None when the values are the same."""
    if expected is None or actual is None:
        if expected is actual:
            return None
        words = ("nothing" if expected is None else "a value", "nothing" if actual is None else "a value")
        return Difference(name, "presence differs", expected=words[0], actual=words[1])
    kinds = _kind(expected), _kind(actual)
    if kinds[0] != kinds[1]:
        return Difference(name, "kind differs", expected=kinds[0], actual=kinds[1])
    if kinds[0] == "sequence":
        return _compare_sequences(name, expected, actual, tolerance)
    if kinds[0] == "map":
        return _compare_maps(name, expected, actual, tolerance)
    return compare_arrays(name, _array(expected), _array(actual), tolerance)


def _kind(value: Value) -> str:
    return "map" if isinstance(value, dict) else "sequence" if isinstance(value, list | tuple) else "tensor"


def _array(value: Value) -> Array:
    """A tensor as it is; a scalar out of a map as the float32, int64 or string that ONNX maps hold."""
    return (
        np.asarray(value, dtype=np.float32) if isinstance(value, float) and type(value) is float else np.asarray(value)
    )


def _compare_sequences(name: str, expected: Value, actual: Value, tolerance: Tolerance) -> Difference | None:
    if len(expected) != len(actual):
        return Difference(name, "length differs", expected=len(expected), actual=len(actual))
    pairs = enumerate(zip(expected, actual, strict=True))
    return _first(compare_values(f"{name}[{place}]", one, two, tolerance=tolerance) for place, (one, two) in pairs)


def _compare_maps(name: str, expected: Value, actual: Value, tolerance: Tolerance) -> Difference | None:
    if expected.keys() != actual.keys():
        keys = sorted(map(str, expected)), sorted(map(str, actual))
        return Difference(name, "keys differ", expected=keys[0], actual=keys[1])
    return _first(
        compare_values(f"{name}[{key!r}]", expected[key], actual[key], tolerance=tolerance) for key in expected
    )


def _first(found: Iterator[Difference | None]) -> Difference | None:
    return next((difference for difference in found if difference is not None), None)


def compare_arrays(name: str, expected: Array, actual: Array, tolerance: Tolerance = DEFAULT) -> Difference | None:
    """The difference between two tensors, None when they are the same."""
    if _dtype_name(expected) != _dtype_name(actual):
        return Difference(name, "type differs", expected=_dtype_name(expected), actual=_dtype_name(actual))
    if expected.shape != actual.shape:
        return Difference(name, "shape differs", expected=list(expected.shape), actual=list(actual.shape))
    if not expected.size:
        return None
    limits = LIMITS.get(expected.dtype.name)
    if tolerance.exact or limits is None:
        return _compare_equal(name, expected, actual, tolerance)
    return _compare_close(name, expected, actual, _scaled(limits, tolerance.scale), tolerance.finite_only)


def _dtype_name(array: Array) -> str:
    return "string" if array.dtype.kind in "OUS" else str(array.dtype.name)


def _scaled(limits: Limits, scale: float) -> Limits:
    return Limits(limits.rtol * scale, limits.atol * scale, limits.floor * scale, limits.drift * scale)


def _compare_equal(name: str, expected: Array, actual: Array, tolerance: Tolerance) -> Difference | None:
    """Bits of numbers, text of strings; `integer_ties` applies to integers and booleans unless exact is asked for."""
    differs = _unequal(expected, actual, tolerance.exact)
    count = int(np.count_nonzero(differs))
    if not count:
        return None
    is_integer = expected.dtype.kind in "iub"
    if is_integer and not tolerance.exact and count <= tolerance.integer_ties * expected.size:
        one_step = expected.dtype.kind == "b" or expected.dtype.itemsize > 1
        if one_step or int(np.abs(expected.astype(np.int16) - actual.astype(np.int16)).max()) <= 1:
            return None
    index = _unravel(int(np.argmax(differs)), expected.shape)
    numbers: dict[str, float] = {}
    if expected.dtype.kind not in "OUSb":
        flat = expected.reshape(-1), actual.reshape(-1)
        scan = _scan(*flat, Limits(0.0, 0.0, 0.0, 0.0))
        numbers = {"max_abs": scan.max_abs, "max_relative": scan.relative}
        if scan.max_abs > 0:
            index = _unravel(scan.worst, expected.shape)
    pair = {"expected": _element(expected, index), "actual": _element(actual, index)}
    reason = "bits differ" if tolerance.exact and expected.dtype.kind not in "OUS" else "values differ"
    return Difference(name, reason, index=index, count=count, total=int(expected.size), **numbers, **pair)


def _unequal(expected: Array, actual: Array, exact: bool) -> Array:
    """[size] booleans: where values differ, NaN equal to NaN; exact also tells 0.0 from -0.0."""
    one, two = expected.reshape(-1), actual.reshape(-1)
    if one.dtype.kind in "OUSiub":
        return np.asarray(one != two, dtype=bool)
    if one.dtype.kind == "c":
        halves = [_unequal(part(one), part(two), exact) for part in (np.real, np.imag)]
        return np.asarray(halves[0] | halves[1])
    if one.dtype.kind == "V":  # float32 holds every value of bfloat16 and of the 8-bit and 4-bit types
        one, two = one.astype(np.float32), two.astype(np.float32)
    same = one == two
    if exact:
        same &= np.signbit(one) == np.signbit(two)
    return np.asarray(~(same | (np.isnan(one) & np.isnan(two))))


@dataclass
class _Scan:
    """What a pass over two flat arrays found."""

    max_abs: float = 0.0
    range: float = 0.0
    worst: int = 0
    failing: int = 0
    misplaced: int = 0
    misplaced_at: int = 0

    @property
    def relative(self) -> float:
        return self.max_abs / self.range if self.range else (math.inf if self.max_abs else 0.0)


def _compare_close(name: str, expected: Array, actual: Array, limits: Limits, finite_only: bool) -> Difference | None:
    one, two = np.ascontiguousarray(expected).reshape(-1), np.ascontiguousarray(actual).reshape(-1)
    bits = one.view(np.uint8), two.view(np.uint8)
    if np.array_equal(*bits):
        return None
    scan = _scan(one, two, limits, finite_only)
    total = int(one.size)
    if scan.misplaced:
        index = _unravel(scan.misplaced_at, expected.shape)
        pair = {"expected": _element(expected, index), "actual": _element(actual, index)}
        return Difference(name, "NaN or Inf in other places", index=index, count=scan.misplaced, total=total, **pair)
    within_drift = scan.max_abs <= limits.drift * scan.range and scan.failing <= _DRIFTING_SHARE * total
    if not scan.failing or within_drift:
        return None
    index = _unravel(scan.worst, expected.shape)
    pair = {"expected": _element(expected, index), "actual": _element(actual, index)}
    numbers = {"max_abs": scan.max_abs, "max_relative": scan.relative}
    return Difference(name, "values differ", index=index, count=scan.failing, total=total, **numbers, **pair)


def _scan(expected: Array, actual: Array, limits: Limits, finite_only: bool = False) -> _Scan:
    """One pass for the range, one for the errors; the worst element is the one furthest beyond its limit."""
    scan = _Scan()
    for one, two, _ in _chunks(expected, actual):
        finite = np.isfinite(one) & np.isfinite(two)
        if finite.any():
            scan.range = min(max(scan.range, float(np.abs(one[finite]).max())), _LARGEST_RANGE)
    furthest = -math.inf
    for one, two, start in _chunks(expected, actual):
        finite = np.isfinite(one) & np.isfinite(two)
        same = (np.isnan(one) & np.isnan(two)) | (~finite & (one == two))
        misplaced = ~finite & ~same & (np.isfinite(one) if finite_only else True)
        if misplaced.any():
            if not scan.misplaced:
                scan.misplaced_at = start + int(np.argmax(misplaced))
            scan.misplaced += int(np.count_nonzero(misplaced))
        error = np.where(finite, np.abs(np.where(finite, one, 0) - np.where(finite, two, 0)), 0.0)
        allowed = limits.rtol * np.abs(np.where(finite, one, 0)) + limits.atol * scan.range + limits.floor
        excess = error - allowed
        scan.failing += int(np.count_nonzero(excess > 0))
        scan.max_abs = max(scan.max_abs, float(error.max()))
        if float(excess.max()) > furthest:
            furthest, scan.worst = float(excess.max()), start + int(np.argmax(excess))
    return scan


def _chunks(expected: Array, actual: Array) -> Iterator[tuple[Array, Array, int]]:
    """Pieces in double precision with their starting index."""
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    flat = expected.reshape(-1), actual.reshape(-1)
    for start in range(0, flat[0].size, _CHUNK):
        yield flat[0][start : start + _CHUNK].astype(wide), flat[1][start : start + _CHUNK].astype(wide), start


def _unravel(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.unravel_index(place, shape)) if shape else ()


def _element(array: Array, index: tuple[int, ...]) -> Value:
    value = array[index]
    return value.item() if isinstance(value, np.generic) and hasattr(value, "item") else value


def random_outputs(run: Callable[[Values], Values], feeds: Values, *, repeats: int = 2) -> frozenset[str]:
    """The outputs that differ between runs on the same feeds: what random operators reach. They cannot be compared."""
    first = run(feeds)
    found: set[str] = set()
    for _ in range(repeats - 1):
        found |= {difference.output.split("[")[0] for difference in compare_outputs(first, run(feeds), REPEATABLE)}
    return frozenset(name for name in first if name in found)


def is_deterministic(run: Callable[[Values], Values], feeds: Values) -> bool:
    """True when two runs on the same feeds give the same outputs."""
    return not random_outputs(run, feeds)


def contradicted_outputs(declared: tuple[InputSpec, ...], outputs: Values) -> tuple[Difference, ...]:
    """Where a model computes another type or shape than it declares for its outputs.

    The model is wrong about itself there, so the result's declaration is not a reason to fail it.
    """
    found = []
    for spec in declared:
        value = outputs.get(spec.name)
        if spec.kind != "tensor" or spec.shape is None or not isinstance(value, np.ndarray):
            continue
        fits = len(spec.shape) == value.ndim and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, value.shape, strict=True)
        )
        if not fits:
            wanted = ["?" if dim is None else dim for dim in spec.shape]
            found.append(
                Difference(
                    spec.name, "declared shape is not what is computed", expected=wanted, actual=list(value.shape)
                )
            )
    return tuple(found)
