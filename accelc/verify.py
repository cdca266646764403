"""Numbers: the original against the result, in the runtime with its optimizations off; lossy results as they will run.

The original is run once, on generated inputs or the user's; every candidate is then judged on the same samples. A model
whose weights exceed what memory should hold is run in segments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from accelc import compare, streamed
from accelc.backend_base import Backend
from accelc.budget import Budget
from accelc.data import (
    BATCH_SIZE,
    EvalData,
    Feed,
    Hints,
    Preprocessing,
    Sample,
    find_feeds,
    infer_hints,
    load_data,
    open_dataset,
    output_signature,
    signature,
    typical_feed,
)
from accelc.data.checks import is_finite
from accelc.errors import AccelcError, ModelError, UsageError, VerifyError
from accelc.importer.parse import read_proto
from accelc.output_parts import output_parts
from accelc.runner import Runner, RuntimeFailure, Session
from accelc.source import Source
from accelc.verdict import OVER_BUDGET, TIMED, Judge, Reference, Verdict

DATA_RUN_LIMIT_S = 600.0
RUN_LIMIT_S = 8.0
"""Seconds for one run on generated inputs, which are small; a model that takes longer is not verified on them."""
LOAD_LIMIT_S = 60.0
PLAIN = {"session.disable_prepacking": "1"}
"""Kernels round differently when they pack constant weights; without that, exact passes leave the very same bits."""
SEARCH_S = 20.0
EDGE_SETS = 3

EDGE = compare.Tolerance(scale=100.0, finite_only=True)
"""Extreme inputs amplify rounding: there only gross errors count, unless the passes claim to be exact."""


Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass
class Verifier:
    """Judges results against one original. It belongs to one thread at a time.

    data_path: the user's data, else inputs are generated. most: how many feed sets of it, one sample each; None for
    all. preprocessing: for images. budget: what lossy results may lose.
    """

    source: Source
    runner: Runner
    data_path: Path | None = None
    seed: int = 0
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    most: int | None = None
    budget: Budget = field(default_factory=Budget)
    _reference: Reference | None = None

    def __post_init__(self) -> None:
        # Everything about the proto is read here: later a graph takes it over while another thread runs the original.
        proto = self.source.imported.proto
        self.specs = signature(proto)
        self._parts = output_parts(proto)
        self._check_output([spec.name for spec in output_signature(proto)])
        self._hints = self._make_hints(proto) if self.data_path is None else Hints()
        self._is_big = streamed.weight_bytes(proto) > streamed.STREAMING_THRESHOLD

    def _check_output(self, names: Sequence[str]) -> None:
        metric = self.budget.metric
        if metric is not None and metric.output is not None and metric.output not in names:
            raise UsageError(f"the model has no output {metric.output}", hint=f"its outputs are {', '.join(names)}")

    @property
    def reference(self) -> Reference:
        """Computed when first asked for.

        Raises ModelError when the runtime refuses the original, UsageError when the user's data does not fit.
        """
        if self._reference is None:
            self._reference = self._prepare()
        return self._reference

    @property
    def known(self) -> Reference | None:
        """The reference if it was computed already."""
        return self._reference

    def _prepare(self) -> Reference:
        data, timed = None, tuple[Feed, ...]()
        if self.data_path is not None:
            size = BATCH_SIZE if self.most is None else 1
            steps, most = self.preprocessing, self.most
            data = load_data(self.data_path, self.specs, batch_size=size, preprocessing=steps, most=most)
            timed = tuple(islice(open_dataset(self.data_path, self.specs, preprocessing=steps), TIMED))
        try:
            run, close = self._open_original()
        except RuntimeFailure as failure:
            if failure.unsupported or failure.kind in ("timeout", "memory"):
                return Reference(skipped=f"the runtime cannot load the original: {failure.why or failure.what}")
            raise ModelError(
                "ONNX Runtime refuses the model", where=self._where(), why=failure.why or failure.what
            ) from failure
        try:
            return self._run_original(run, data, timed)
        finally:
            close()

    def _where(self) -> str:
        return str(self.source.path) if self.source.path is not None else "model"

    def _open_original(self) -> tuple[Run, Callable[[], None]]:
        if self._is_big:
            return self._streamed(self.source.path or self.source.proto())
        failure: RuntimeFailure | None = None
        for form in self.source.runnable():
            try:
                return self._session(form)
            except RuntimeFailure as error:
                failure = failure or error
                if error.kind in ("timeout", "memory"):
                    break
        assert failure is not None
        raise failure

    def _session(
        self, form: Path | bytes, on: Backend | None = None, *, as_it_runs: bool = False
    ) -> tuple[Run, Callable[[], None]]:
        """as_it_runs: under the runtime's defaults, which alone make integer kernels of quantized operators."""
        folder = self.source.base_dir if isinstance(form, bytes) else None
        load = self.runner.load if on is None else partial(on.load, self.runner)
        plain: dict[str, Any] = {} if as_it_runs else {"optimize": False, "threads": 1, "config": PLAIN}
        session: Session = load(form, folder=folder, timeout=LOAD_LIMIT_S, **plain)
        limit = RUN_LIMIT_S if self.data_path is None else DATA_RUN_LIMIT_S
        return partial(self.runner.run, session, timeout=limit), partial(self.runner.close, session)

    def _streamed(self, form: Path | onnx.ModelProto) -> tuple[Run, Callable[[], None]]:
        folder = form.parent if isinstance(form, Path) else self.source.base_dir
        return partial(streamed.run_streamed, self.runner, form, folder), lambda: None

    def _run_original(self, run: Run, data: EvalData | None, timed: tuple[Feed, ...]) -> Reference:
        if data is not None:
            samples = []
            counted = self.most is None or self.budget.metric is not None  # a few labels tell accuracy too coarsely
            for place, feed in enumerate(data.feeds):
                labels = data.parts[place] if data.parts is not None and counted else None
                samples.append(Sample(feed, self._run_on(feed, run), labels))
        else:
            quick = partial(_quickly, run)
            try:
                samples = find_feeds(
                    self.specs, quick, edges=EDGE_SETS, seed=self.seed, hints=self._hints, seconds=SEARCH_S
                )
            except _TooSlow:
                return Reference(skipped=f"one run of the original takes more than {RUN_LIMIT_S:g} s")
            typical = typical_feed(self.specs, run, seed=self.seed, hints=self._hints) if samples else None
            timed = () if typical is None else (typical,)
        if not samples:
            return Reference(
                skipped="the original runs on none of the generated inputs; give some with --eval data.npz"
            )
        unstable: frozenset[str] = frozenset()
        try:
            unstable = compare.random_outputs(run, samples[0].feed.values)
        except AccelcError as error:
            return Reference(skipped=f"the original runs once but not twice: {error}")
        decided = frozenset[str]() if data is None else _distributions(samples)
        samples = [replace(sample, parts=self._parts, decided=decided) for sample in samples]
        told = self.budget.check([sample for sample in samples if not sample.feed.edge])
        notes = (*(data.notes if data is not None else ()), *([told] if told else []))
        return Reference(tuple(samples), data, unstable, notes=notes, timed=timed)

    def _run_on(self, feed: Feed, run: Run) -> Mapping[str, Any]:
        """The original's outputs on a feed set of the user's data.

        Raises UsageError where it does not run, and where NaN or Inf in the data makes outputs that say nothing.
        """
        try:
            outputs = run(feed.values)
        except RuntimeFailure as failure:
            where, why = str(self.data_path), failure.why or failure.what
            raise UsageError("the original does not run on this data", where=where, why=why) from failure
        given, made = _not_finite(feed.values), _not_finite(outputs)
        if given and made:
            why, hint = f"the original's output {made} is not finite either", "leave such samples out"
            raise UsageError(f"input {given} holds NaN or Inf", where=feed.description, why=why, hint=hint)
        return outputs

    def _make_hints(self, proto: onnx.ModelProto) -> Hints:
        """What the graph and the shapes the user fixed say about the inputs."""
        symbols = {name: int(dims[0]) for name, dims in self.shapes.items() if len(dims) == 1 and _is_size(dims[0])}
        axes: dict[tuple[str, int], int] = {}
        for spec in self.specs:
            for axis, (have, wanted) in enumerate(zip(spec.shape or (), self.shapes.get(spec.name, ()), strict=False)):
                if _is_size(wanted) and not isinstance(have, int):
                    axes[spec.name, axis] = int(wanted)
                    if have is not None:
                        symbols[have] = int(wanted)
        found = infer_hints(proto, symbols)
        return replace(found, axes={**found.axes, **axes})

    def judge(self, result: Path, judge: Judge, on: Backend | None = None) -> Verdict:
        """Run a result on the reference's samples and compare. on: where, instead of the processor."""
        reference = self.reference
        if reference.skipped:
            return Verdict("skipped", reference.skipped)
        proto = read_proto(result, leave_weights=True)[0]
        big = streamed.weight_bytes(proto) > streamed.STREAMING_THRESHOLD
        try:
            run, close = self._streamed(result) if big else self._session(result, on, as_it_runs=judge.lossy)
        except AccelcError as error:
            return Verdict("different", f"the result does not load: {getattr(error, 'why', '') or error}")
        try:
            return self._compare(run, reference.fitting(signature(proto)), judge)
        finally:
            close()

    def _compare(self, run: Run, reference: Reference, judge: Judge) -> Verdict:
        actual: list[Mapping[str, Any]] = []
        for sample in reference.samples:
            try:
                actual.append(run(sample.feed.values))
            except AccelcError as error:
                if sample.feed.edge:
                    actual.append({})
                    continue
                return Verdict(
                    "different", f"the result does not run on {sample.feed}: {getattr(error, 'why', '') or error}"
                )
        if not reference.samples:
            return Verdict("skipped", "none of the inputs has the sizes that the result takes")
        left_out = reference.unstable
        descriptions = tuple(str(sample.feed) for sample in reference.samples)
        ordinary = [(s, out) for s, out in zip(reference.samples, actual, strict=True) if not s.feed.edge]
        try:
            found = self.budget.judge([sample for sample, _ in ordinary], [out for _, out in ordinary], left_out)
        except VerifyError as error:
            return Verdict("different", str(error), samples=len(actual), descriptions=descriptions)
        verdict = partial(
            Verdict,
            quality=found.quality,
            accuracy=found.accuracy,
            samples=len(actual),
            descriptions=descriptions,
            score=found.score,
            limit=str(self.budget),
        )
        random = f"random, so not compared: {', '.join(sorted(left_out))}" if left_out else ""
        if left_out and all(name in left_out for sample in reference.samples for name in sample.outputs):
            return verdict("skipped", "every output is random")
        for sample, outputs in zip(reference.samples, actual, strict=True):
            if reason := _broken(sample, outputs, left_out):
                return verdict("different", f"{reason} on {sample.feed}")
        if judge.changes_function:
            return verdict("reported", "the passes change the function on purpose")
        if judge.lossy:
            return verdict(OVER_BUDGET, found.reason) if found.reason else verdict("within budget", random)
        for sample, outputs in zip(reference.samples, actual, strict=True):
            reason = _difference(sample, outputs, judge.exact, left_out)
            if reason:
                return verdict("different", f"{reason} on {sample.feed}")
        return verdict("same", random)


class _TooSlow(Exception):
    """Ends the search for inputs: the next ones would take as long."""


def _quickly(run: Run, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return run(feeds)
    except RuntimeFailure as failure:
        if failure.kind == "timeout":
            raise _TooSlow from failure
        raise


def _broken(sample: Sample, outputs: Mapping[str, Any], random: frozenset[str]) -> str:
    """What no budget excuses: not running, another type or shape, NaN or Inf where the original has numbers.

    Of random outputs only the type is the same on every run.
    """
    if sample.outputs and not outputs:
        return "the result does not run where the original does"
    for name, expected in sample.outputs.items():
        actual = outputs.get(name)
        if not isinstance(expected, np.ndarray) or not isinstance(actual, np.ndarray):
            continue
        if expected.dtype == actual.dtype and name in random:
            continue
        if (expected.dtype, expected.shape) != (actual.dtype, actual.shape):
            return f"{name}: {actual.dtype}{list(actual.shape)} instead of {expected.dtype}{list(expected.shape)}"
        if expected.dtype.kind == "f" and not sample.feed.edge and (np.isfinite(expected) & ~np.isfinite(actual)).any():
            return f"{name}: NaN or Inf where the original has numbers"
    return ""


def _not_finite(values: Mapping[str, Any]) -> str:
    """The name of the first tensor with NaN or Inf, or an empty text."""
    return next((name for name, value in values.items() if not is_finite(value)), "")


def _distributions(samples: Sequence[Sample]) -> frozenset[str]:
    """Outputs whose rows are probabilities in all samples: their highest element is the answer."""

    def is_one(value: Any) -> bool:
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim < 2 or value.shape[-1] < 2:
            return False
        return bool(value.size and value.min() >= 0 and np.allclose(value.sum(axis=-1), 1, atol=1e-3))

    names = samples[0].outputs if samples else ()
    return frozenset(name for name in names if all(is_one(sample.outputs.get(name)) for sample in samples))


def _is_size(dim: int | str) -> bool:
    return isinstance(dim, int) or dim.isdecimal()


def _difference(sample: Sample, outputs: Mapping[str, Any], exact: bool, left_out: frozenset[str]) -> str:
    """The first difference of one sample, or an empty text. Edge inputs count where the original's output is finite."""
    tolerance = compare.EXACT if exact else (EDGE if sample.feed.edge else compare.DEFAULT)
    for name, expected in sample.outputs.items():
        if name in left_out:
            continue
        found = compare.compare_values(name, expected, outputs.get(name), tolerance=tolerance)
        if found is not None:
            return str(found)
    return ""
