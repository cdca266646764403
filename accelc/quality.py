"""How close two sets of outputs are, where equality is not the rule (int8, lower precision, pruning)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc.data.specs import Value
from accelc.errors import VerifyError
from accelc.output_parts import Parts

Array = np.ndarray[Any, np.dtype[Any]]
Values = Mapping[str, Value]

_NUMBERS = "iubfcV"


@dataclass(frozen=True)
class OutputQuality:
    """One output over all feed sets.

    cosine: the lowest cosine similarity of a feed set's flattened output, -1..1. relative_error: the highest
    max|a-b| / max|a| of a feed set. rmse_relative: sqrt(sum (a-b)^2 / sum a^2) over all sets. top1: the share of rows
    (last axis) with the same largest element, for floats of rank 2 and more; for other types the share of equal
    elements; 0..1, None for floats of lower rank. Elements that are not finite are left out where both sides are equal,
    else they make the errors infinite and the cosine -1.
    """

    name: str
    cosine: float
    relative_error: float
    rmse_relative: float
    top1: float | None

    @property
    def lost(self) -> float:
        """1 - cosine or half the squared relative error, whichever is more, 0..2: equal for errors of any direction.

        About proportional to the squares of small errors.
        """
        return min(max(1 - self.cosine, self.rmse_relative**2 / 2), 2.0)


@dataclass(frozen=True)
class Quality:
    """All outputs, and the worst figure of each kind over them."""

    outputs: tuple[OutputQuality, ...]

    @property
    def cosine(self) -> float:
        """The lowest cosine similarity; 1.0 without outputs."""
        return min((output.cosine for output in self.outputs), default=1.0)

    @property
    def relative_error(self) -> float:
        """The highest max|a-b| / max|a|."""
        return max((output.relative_error for output in self.outputs), default=0.0)

    @property
    def rmse_relative(self) -> float:
        """The highest root of sum (a-b)^2 / sum a^2."""
        return max((output.rmse_relative for output in self.outputs), default=0.0)

    @property
    def lost(self) -> float:
        """The most that an output lost, 0..2."""
        return max((output.lost for output in self.outputs), default=0.0)

    @property
    def top1(self) -> float | None:
        """The lowest top-1 agreement, None when no output has one."""
        return min((output.top1 for output in self.outputs if output.top1 is not None), default=None)

    def __str__(self) -> str:
        text = f"cosine {self.cosine:.5f}, relative error {self.relative_error:.3g}"
        return text if self.top1 is None else f"{text}, top-1 agreement {self.top1:.1%}"


def over_budget(quality: Quality, max_drop: float) -> str:
    """Why a quality is outside the budget, else an empty text.

    Inside it the cosine is at least 1 - max_drop and the root of sum (a-b)^2 / sum a^2 at most sqrt(2 max_drop), which
    is the same for errors that are not aligned with the values.
    """
    if quality.cosine < 1 - max_drop:
        return f"cosine similarity {quality.cosine:.5f} is below {1 - max_drop:g}"
    if quality.rmse_relative > math.sqrt(2 * max_drop):
        return f"relative error {quality.rmse_relative:.4f} is above {math.sqrt(2 * max_drop):.4f}"
    return ""


@dataclass
class _Sums:
    """Running totals of one output."""

    cosine: float = 1.0
    relative_error: float = 0.0
    squared_error: float = 0.0
    squared: float = 0.0
    agreeing: int = 0
    rows: int = 0


def measure_quality(
    expected: Sequence[Values], actual: Sequence[Values], parts: Mapping[str, Parts] | None = None
) -> Quality:
    """The quality of `actual` against `expected`: one mapping of outputs by name for each feed set, in the same order.

    parts: of outputs that are several things in one, which are judged apart. Raises VerifyError when names, kinds,
    lengths, shapes or types of numbers do not belong together.
    """
    if len(expected) != len(actual):
        raise VerifyError("cannot compare", why=f"{len(expected)} sets of outputs against {len(actual)}")
    sums: dict[str, _Sums] = {}
    for one, two in zip(expected, actual, strict=True):
        if one.keys() != two.keys():
            raise VerifyError("cannot compare", why=f"outputs {sorted(one)} against {sorted(two)}")
        for name in one:
            for label, a, b in _apart(name, one[name], two[name], (parts or {}).get(name)):
                _add(label, a, b, sums.setdefault(label, _Sums()))
    return Quality(tuple(_result(name, total) for name, total in sums.items()))


def _apart(name: str, one: Value, two: Value, parts: Parts | None) -> Iterator[tuple[str, Value, Value]]:
    """An output, or its parts where both sides have them."""
    places = []
    if parts is not None and isinstance(one, np.ndarray) and isinstance(two, np.ndarray) and one.shape == two.shape:
        places = list(parts.slices(one.shape))
    if not places:
        yield name, one, two
    for number, place in enumerate(places, 1):
        yield f"{name}, part {number} of {len(places)}", one[place], two[place]


def _result(name: str, total: _Sums) -> OutputQuality:
    rmse = math.sqrt(_ratio(total.squared_error, total.squared))
    top1 = total.agreeing / total.rows if total.rows else None
    return OutputQuality(name, total.cosine, total.relative_error, rmse, top1)


def _ratio(error: float, size: float) -> float:
    return error / size if size else (0.0 if error == 0 else math.inf)


def _add(name: str, expected: Value, actual: Value, total: _Sums) -> None:
    if isinstance(expected, dict) and isinstance(actual, dict) and expected.keys() == actual.keys():
        for key in expected:
            _add(f"{name}[{key!r}]", expected[key], actual[key], total)
        return
    if isinstance(expected, list | tuple) and isinstance(actual, list | tuple) and len(expected) == len(actual):
        for place, (one, two) in enumerate(zip(expected, actual, strict=True)):
            _add(f"{name}[{place}]", one, two, total)
        return
    if expected is None and actual is None:
        return
    one, two = np.asarray(expected), np.asarray(actual)
    if expected is None or actual is None or one.shape != two.shape or type(expected) is not type(actual):
        why = f"{_describe(expected)} against {_describe(actual)}"
        raise VerifyError("cannot compare", where=f"output {name}", why=why)
    if one.size:
        _add_arrays(one, two, total)


def _describe(value: Value) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _add_arrays(one: Array, two: Array, total: _Sums) -> None:
    if one.dtype.kind not in _NUMBERS or two.dtype.kind not in _NUMBERS or one.dtype.kind in "iub":
        total.agreeing += int(np.count_nonzero(one == two))
        total.rows += int(one.size)
        if one.dtype.kind not in _NUMBERS or two.dtype.kind not in _NUMBERS:
            total.cosine = total.cosine if bool(np.all(one == two)) else min(total.cosine, 0.0)
            return
    elif one.ndim >= 2 and one.shape[-1] >= 2 and one.dtype.kind != "c":
        rows = np.argmax(one, axis=-1) == np.argmax(two, axis=-1)
        total.agreeing += int(np.count_nonzero(rows))
        total.rows += int(rows.size)
    _add_errors(_wide(one), _wide(two), total)


def _wide(array: Array) -> Array:
    return array.reshape(-1).astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _add_errors(one: Array, two: Array, total: _Sums) -> None:
    finite = np.isfinite(one) & np.isfinite(two)
    if not finite.all():
        equal = (one == two) | (np.isnan(one) & np.isnan(two))
        if not (finite | equal).all():
            total.cosine, total.relative_error, total.squared_error = -1.0, math.inf, math.inf
            return
        one, two = one[finite], two[finite]
        if not one.size:
            return
    top = float(np.abs(one).max())
    total.relative_error = max(total.relative_error, _ratio(float(np.abs(one - two).max()), top))
    scale = max(top, float(np.abs(two).max())) or 1.0
    one, two = one / scale, two / scale  # keeps the squares finite
    norms = float(np.linalg.norm(one)), float(np.linalg.norm(two))
    if norms[0] and norms[1]:
        cosine = float(np.real(np.vdot(one, two))) / (norms[0] * norms[1])
    else:
        cosine = 1.0 if norms[0] == norms[1] else 0.0
    total.cosine = min(total.cosine, max(-1.0, min(1.0, cosine)))
    total.squared_error += (float(np.linalg.norm(one - two)) * scale) ** 2
    total.squared += (norms[0] * scale) ** 2
