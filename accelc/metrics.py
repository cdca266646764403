"""Scores of a model on data: how good a result's outputs are beside the original's, by labels where there are any."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelc.data.functions import load_function
from accelc.errors import AccelcError, UsageError

Array = NDArray[Any]
Outputs = Mapping[str, Any]
Function = Callable[[list[dict[str, Array]], Array | None, list[dict[str, Array]]], float]

NAMES = ("top1", "topk", "cosine", "mse", "psnr", "f1")
_DEFAULT_K = 5
_HINT = "it is one of top1, topk=5, cosine, mse, psnr, f1, or module:function"


@dataclass(frozen=True)
class Score:
    """What a metric says of a result beside the original.

    output: the output that is judged; empty for a function, which sees all. drop: what is lost; a share when
    `relative`, else in the metric's unit; negative where the result is better. against: "labels", or "original" where
    the original's own outputs are what a result should hit. count: samples.
    """

    metric: str
    output: str
    before: float
    after: float
    drop: float
    relative: bool
    higher_is_better: bool
    against: str
    count: int

    def __str__(self) -> str:
        of = "" if self.against == "labels" else ", against the original's outputs"
        return f"{self.metric} {self.before:.5g} before, {self.after:.5g} after{of}"


@dataclass(frozen=True)
class _Figures:
    """A score before it is set against a budget. share: what is lost, where it is a share by itself."""

    before: float
    after: float
    higher: bool = True
    share: float | None = None
    labelled: bool = False


@dataclass(frozen=True)
class Metric:
    """How outputs are scored; `str` gives the text that `parse` reads.

    top1, topk: the share of samples whose label is the class of the highest score, or among the k highest. f1: the
    mean over classes of 2 TP / (2 TP + FP + FN). Without labels the original's own highest class is the label. Classes
    lie along the last axis, in outputs of rank 4 along axis 1; labels have the output's shape without that axis.
    cosine: the mean over samples (the first axis) of the cosine similarity with the original. mse, psnr: against
    labels of the output's shape; else against the original: its error energy as a share, and decibels below its
    largest element, where the drop is the error as a share of that element (1 % is 40 dB). function: called with
    (outputs of each feed set by name, labels or None, outputs of the original); higher is better.
    output: which output; None for the first one of floats.
    """

    name: str
    k: int = 1
    output: str | None = None
    function: Function | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, output: str | None = None) -> Metric:
        """Raises UsageError for an unknown metric, or a function that cannot be loaded."""
        name = text.strip()
        if ":" in name:
            return cls(name, output=output, function=load_function(name, "the metric"))
        name = name.lower()
        found = re.fullmatch(r"top-?(?:k\s*(?:=\s*)?)?(\d+)", name)
        if found and int(found[1]):
            k = int(found[1])
            return cls("topk" if k > 1 else "top1", k, output)
        if name in NAMES:
            return cls(name, _DEFAULT_K if name == "topk" else 1, output)
        raise UsageError(f"there is no metric {text!r}", hint=_HINT)

    def __str__(self) -> str:
        return f"top{self.k}" if self.name == "topk" else self.name

    def score(self, before: Sequence[Outputs], after: Sequence[Outputs], labels: Array | None, relative: bool) -> Score:
        """The result's outputs (`after`) beside the original's (`before`): one mapping for each feed set.

        labels: over all feed sets along the first axis. relative: give the drop as a share of the original's score.
        Raises UsageError when labels do not fit, an output is missing, or a function fails.
        """
        name = "" if self.function is not None else self._output(before)
        if self.function is not None:
            figures = self._call(before, after, labels)
        else:
            pair = [[np.asarray(each[name]) for each in side] for side in (before, after)]
            if any(one.shape != two.shape for one, two in zip(*pair, strict=True)):
                raise UsageError(f"output {name} has other shapes than the original's")
            if not any(each.size for each in pair[0]):
                raise UsageError(f"{self} cannot be computed", why=f"output {name} is empty on all samples")
            figures = _SCORES[self.name](self, pair[0], pair[1], labels)
        figures = replace(figures, before=float(figures.before), after=float(figures.after))
        against = "labels" if figures.labelled else "original"
        shares = relative or figures.share is not None
        lost, count = _drop(figures, relative), _count(before, name)
        return Score(str(self), name, figures.before, figures.after, lost, shares, figures.higher, against, count)

    def _output(self, outputs: Sequence[Outputs]) -> str:
        if not outputs:
            raise UsageError(f"{self} has nothing to score", why="there are no inputs")
        names = list(outputs[0])
        if self.output is not None:
            if self.output not in names:
                raise UsageError(f"the model has no output {self.output}", hint=f"its outputs are {', '.join(names)}")
            return self.output
        floats = [name for name in names if getattr(outputs[0][name], "dtype", np.dtype(bool)).kind in "fV"]
        tensors = [name for name in names if isinstance(outputs[0][name], np.ndarray)]
        if not tensors:
            raise UsageError(f"{self} cannot be computed", why="no output is a tensor")
        return (floats or tensors)[0]

    def _call(self, before: Sequence[Outputs], after: Sequence[Outputs], labels: Array | None) -> _Figures:
        found = []
        for outputs in (before, after):
            given = [dict(each) for each in outputs], labels, [dict(each) for each in before]
            try:
                assert self.function is not None
                found.append(float(self.function(*given)))
            except AccelcError:
                raise
            except Exception as error:  # the user's code may raise anything
                why = f"{type(error).__name__}: {error}"
                raise UsageError("the metric fails", where=self.name, why=why) from error
        if math.isnan(found[0]):
            raise UsageError("the metric gives NaN for the original", where=self.name)
        return _Figures(found[0], found[1], labelled=labels is not None)


def _drop(figures: _Figures, relative: bool) -> float:
    if figures.share is not None:
        return figures.share
    if figures.before == figures.after:  # also where both are infinite
        return 0.0
    lost = figures.before - figures.after if figures.higher else figures.after - figures.before
    if not relative or not math.isfinite(lost):
        return lost
    return lost / abs(figures.before) if figures.before else math.copysign(math.inf, lost)


def _count(outputs: Sequence[Outputs], name: str) -> int:
    if not name:
        return len(outputs)
    return sum(np.shape(each[name])[0] if np.ndim(each[name]) else 1 for each in outputs)


# --- classes ---------------------------------------------------------------------------------------------------------


def _top(metric: Metric, before: list[Array], after: list[Array], labels: Array | None) -> _Figures:
    truth = _truth(metric, before, labels)
    hits = [_hits(metric, side, truth) for side in (before, after)]
    if labels is None:
        return _Figures(1.0, hits[1], share=1 - hits[1])
    return _Figures(hits[0], hits[1], labelled=True)


def _f1(metric: Metric, before: list[Array], after: list[Array], labels: Array | None) -> _Figures:
    truth = _truth(metric, before, labels)
    scores = [_macro_f1(truth, _joined([_classes(metric, each) for each in side])) for side in (before, after)]
    if labels is None:
        return _Figures(1.0, scores[1], share=1 - scores[1])
    return _Figures(scores[0], scores[1], labelled=True)


def _truth(metric: Metric, before: list[Array], labels: Array | None) -> Array:
    """The class of every sample, flat."""
    predicted = [_classes(metric, each) for each in before]
    if labels is None:
        return _joined(predicted)
    shape = (sum(len(each) for each in predicted), *predicted[0].shape[1:])
    if labels.shape != shape:
        why = f"labels are {list(labels.shape)}, the classes that the outputs give {list(shape)}"
        raise UsageError(f"labels do not fit {metric}", why=why, hint="labels are class numbers, one per sample")
    return labels.reshape(-1)


def _axis(array: Array) -> int:
    return 1 if array.ndim == 4 else -1


def _classes(metric: Metric, array: Array) -> Array:
    """Class numbers [n, ...] from scores, or as they are."""
    if array.dtype.kind in "iub":
        if metric.k > 1:
            raise UsageError(f"{metric} cannot be computed", why="the output holds class numbers, not scores")
        return np.atleast_1d(array)
    if array.ndim < 2 or array.shape[_axis(array)] < 2:
        why = f"an output {list(array.shape)} has no axis of classes"
        raise UsageError(f"{metric} cannot be computed", why=why, hint="name an output of scores with --metric-output")
    return np.asarray(np.argmax(array, axis=_axis(array)))


def _joined(arrays: list[Array]) -> Array:
    return np.concatenate([each.reshape(-1) for each in arrays])


def _hits(metric: Metric, outputs: list[Array], truth: Array) -> float:
    if metric.k == 1:
        return float(np.mean(_joined([_classes(metric, each) for each in outputs]) == truth))
    found, start = 0, 0
    for each in outputs:
        scores = np.moveaxis(each, _axis(each), -1)
        scores = scores.reshape(-1, scores.shape[-1]).astype(np.float64)
        best = np.argsort(-scores, axis=-1, kind="stable")[:, : metric.k]
        found += int((best == truth[start : start + len(scores), None]).any(axis=-1).sum())
        start += len(scores)
    return found / len(truth)


def _macro_f1(truth: Array, predicted: Array) -> float:
    classes, places = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    wanted, found = places[: len(truth)], places[len(truth) :]
    right = np.bincount(wanted[wanted == found], minlength=len(classes))
    total = np.bincount(wanted, minlength=len(classes)) + np.bincount(found, minlength=len(classes))
    return float(np.mean(2 * right / total))


# --- numbers ---------------------------------------------------------------------------------------------------------


def _cosine(metric: Metric, before: list[Array], after: list[Array], labels: Array | None) -> _Figures:
    found: list[Array] = []
    for one, two in zip(before, after, strict=True):
        if not one.size:
            continue
        rows = len(one) if one.ndim >= 2 else 1
        a, b = (_numbers(metric, each).reshape(rows, -1) for each in (one, two))
        kept = np.isfinite(a)
        broken = np.asarray((kept & ~np.isfinite(b)).any(axis=1))
        a, b = _unit(np.where(kept, a, 0.0)), _unit(np.where(kept & ~broken[:, None], b, 0.0))
        equal = ~a.any(axis=1) & ~b.any(axis=1) & ~broken
        found.append(np.where(broken, -1.0, np.where(equal, 1.0, (a * b).sum(axis=1))))
    mean = float(np.mean(np.concatenate(found)))
    return _Figures(1.0, mean, share=1 - mean)


def _unit(rows: Array) -> Array:
    """Rows of length one; those of zeros stay."""
    tops = np.abs(rows).max(axis=1, initial=0.0, keepdims=True)
    rows = rows / np.where(tops == 0, 1.0, tops)  # keeps the squares finite
    sizes = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(sizes == 0, 1.0, sizes))


def _mse(metric: Metric, before: list[Array], after: list[Array], labels: Array | None) -> _Figures:
    if (target := _target(before, labels)) is not None:
        errors = [_mean_square(metric, side, target) for side in (before, after)]
        return _Figures(errors[0], errors[1], higher=False, labelled=True)
    error, energy, _, _ = _sums(metric, before, after)
    share = error / energy if energy else (math.inf if error else 0.0)
    return _Figures(0.0, share, higher=False, share=share)


def _psnr(metric: Metric, before: list[Array], after: list[Array], labels: Array | None) -> _Figures:
    if (target := _target(before, labels)) is not None:
        peak = max(float(np.abs(each).max(initial=0.0)) for each in target)
        decibels = [_decibels(_mean_square(metric, side, target), peak) for side in (before, after)]
        return _Figures(decibels[0], decibels[1], labelled=True)
    error, _, peak, count = _sums(metric, before, after)
    found = _decibels(error / count if count else 0.0, peak)
    return _Figures(math.inf, found, share=math.nan if math.isnan(found) else 10 ** (-found / 20))


def _target(before: list[Array], labels: Array | None) -> list[Array] | None:
    """Labels that are outputs as they should be, by feed set."""
    if labels is None or any(each.ndim == 0 for each in before):
        return None
    if labels.shape != (sum(map(len, before)), *before[0].shape[1:]):
        why = f"labels are {list(labels.shape)}, an output {list(before[0].shape)}"
        raise UsageError("labels do not fit the output", why=why, hint="leave labels out to compare with the original")
    return np.split(labels.astype(np.float64), np.cumsum([len(each) for each in before])[:-1])


def _mean_square(metric: Metric, outputs: list[Array], target: list[Array]) -> float:
    error, _, _, count = _sums(metric, target, outputs)
    return error / count if count else 0.0


def _decibels(mean_square: float, peak: float) -> float:
    if not mean_square:
        return math.inf
    return 10 * math.log10(peak * peak / mean_square) if peak and math.isfinite(mean_square) else -math.inf


def _sums(metric: Metric, before: list[Array], after: list[Array]) -> tuple[float, float, float, int]:
    """(squared error, energy of `before`, its largest element, elements), where `before` is finite."""
    error = energy = peak = 0.0
    count = 0
    for one, two in zip(before, after, strict=True):
        a, b = _numbers(metric, one).reshape(-1), _numbers(metric, two).reshape(-1)
        kept = np.isfinite(a)
        a, b = a[kept], b[kept]
        if not np.isfinite(b).all():
            return math.inf, energy, peak, max(count, 1)
        error += float(((a - b) ** 2).sum())
        energy += float((a**2).sum())
        peak = max(peak, float(np.abs(a).max(initial=0.0)))
        count += a.size
    return error, energy, peak, count


def _numbers(metric: Metric, array: Array) -> Array:
    if array.dtype.kind not in "iubfV":
        raise UsageError(f"{metric} cannot be computed", why=f"the output holds {array.dtype}")
    return array.astype(np.float64)


_SCORES: Mapping[str, Callable[[Metric, list[Array], list[Array], Array | None], _Figures]] = {
    "top1": _top, "topk": _top, "f1": _f1, "cosine": _cosine, "mse": _mse, "psnr": _psnr,
}  # fmt: skip
