"""Candidates: changed copies of a model, judged by what they compute and how fast they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from accelc import ir
from accelc.budget import Budget, Judgement
from accelc.context import Context
from accelc.errors import VerifyError
from accelc.measure import Comparison, compare
from accelc.runner import RuntimeFailure, Session

_MOST_BYTES = 1_900_000_000
"""A model in memory; a protobuf holds at most 2 GiB."""
_SHARE = 0.9
"""Of the budget: what comes after the search rounds as well."""


class Trial:
    """One model, and the samples on which its copies are tried. Copies are never made in place."""

    def __init__(self, model: ir.Model, ctx: Context) -> None:
        self.model, self.ctx = model, ctx
        self.samples = [sample for sample in ctx.samples if not sample.feed.edge]
        self.folder = _folder(model)

    @property
    def feeds(self) -> list[Mapping[str, Any]]:
        return [sample.feed.values for sample in self.samples]

    @property
    def timed(self) -> list[Mapping[str, Any]]:
        """Inputs of the usual size, to measure on."""
        return [feed.values for feed in self.ctx.measuring]

    def obstacle(self) -> str:
        """Why nothing can be tried; empty when it can."""
        if not self.samples:
            return "there are no inputs on which the original runs, so quality and speed cannot be checked"
        held = sum(
            tensor.nbytes
            for graph in ir.all_graphs(self.model)
            for value in graph.initializers.values()
            if (tensor := value.const_value) is not None and not isinstance(tensor, ir.ExternalTensor)
        )
        return f"{held / 1e9:.1f} GB of weights are too many to try variants in memory" if held > _MOST_BYTES else ""

    def copy(self, change: Callable[[ir.Model], object] | None = None) -> ir.Model:
        """A copy of the model with a change made to it; weights that stay are shared."""
        model = self.model.clone()
        model.meta.update(self.model.meta)
        if change is not None:
            change(model)
        return model

    def load(self, model: ir.Model | onnx.ModelProto, *, optimize: bool) -> Session:
        """Raises RuntimeFailure."""
        proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
        data = proto.SerializeToString()
        if optimize and self.ctx.backend is not None:
            return self.ctx.backend.load(self.ctx.runner, data, folder=self.folder)
        threads = None if optimize else 1
        return self.ctx.runner.load(data, optimize=optimize, threads=threads, folder=self.folder)

    def quality(self, candidate: ir.Model, most: int | None = None) -> Judgement:
        """How good a candidate's outputs are beside the original's, by the user's budget; most: so many samples.

        It runs under the runtime's own optimizations, which alone make integer kernels of quantized operators.
        """
        samples = self.samples if most is None else self.samples[:: max(1, len(self.samples) // most)][:most]
        try:
            session = self.load(candidate, optimize=True)
            try:
                outputs = [self.ctx.runner.run(session, sample.feed.values) for sample in samples]
            finally:
                self.ctx.runner.close(session)
            return self.budget.judge(samples, outputs)
        except (RuntimeFailure, VerifyError) as error:
            return Judgement(str(error))

    @property
    def budget(self) -> Budget:
        """What candidates may lose: a little less than the result, which is judged on the whole graph."""
        budget = self.ctx.settings.budget
        return replace(budget, drop=_SHARE * budget.drop)

    def compare(self, candidates: Sequence[ir.Model], seconds: float) -> list[Comparison]:
        """Candidates against the model, interleaved, under the runtime's defaults. Raises RuntimeFailure."""
        with ExitStack() as stack:
            sessions = []
            for each in [self.model, *candidates]:
                sessions.append(self.load(each, optimize=True))
                stack.callback(self.ctx.runner.close, sessions[-1])
            return compare(self.ctx.runner, sessions[0], sessions[1:], self.timed, seconds, seed=self.ctx.settings.seed)

    def probe(self, values: Sequence[ir.Value], feed: Mapping[str, Any], *, shapes: bool) -> dict[int, Any]:
        """What values of the main graph hold on one input, or their shapes, by position; {} when it does not run."""
        proto = ir.to_proto(self.model)
        wanted = {}
        for index, value in enumerate(values):
            if value.graph is self.model.graph:
                name = wanted[index] = f"accelc_probe_{index}"
                proto.graph.node.add(op_type="Shape" if shapes else "Identity", input=[str(value.name)], output=[name])
                kind = onnx.TensorProto.INT64 if shapes else onnx.TensorProto.FLOAT
                proto.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
        try:
            session = self.load(proto, optimize=False)
            try:
                found = self.ctx.runner.run(session, feed, list(wanted.values()))
            finally:
                self.ctx.runner.close(session)
        except RuntimeFailure:
            return {}
        return {index: np.asarray(found[name]) for index, name in wanted.items()}


def ratio_text(comparison: Comparison) -> str:
    """A ratio with its interval, where there were rounds enough for one."""
    if not isfinite(comparison.high):
        return f"{comparison.ratio:.2f} (in {comparison.rounds} round(s), too few to tell)"
    return f"{comparison.ratio:.2f} ({comparison.low:.2f} to {comparison.high:.2f})"


def _folder(model: ir.Model) -> Path | None:
    """The folder of the model's external data, or None when it has none."""
    for graph in ir.all_graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                return Path(value.const_value.base_dir)
    return None
