"""What the tests of quality methods share: shipped models, calibration data, rounded weights and their price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from quantized_graphs import Array, Samples

from accelc import ir
from accelc.calibration import Calibration
from accelc.context import Context
from accelc.infer import infer_model
from accelc.passes.quantization.linear import find_linear
from accelc.passes.quantization.quality import stored
from accelc.passes.quantization.snap import Grid
from accelc.pipeline import Pipeline
from accelc.runner import Runner
from accelc.testing import context, run

MODELS = Path(__file__).parents[2] / "models"


def calibrated(runner: Runner, feeds: Sequence[Mapping[str, Any]], **settings: Any) -> Context:
    plain = context(**settings)
    return Context(plain.target, plain.settings, runner=runner, calibration=Calibration(Samples(feeds), lambda: runner))


def shipped_feeds(name: str, count: int = 64) -> list[dict[str, Array]]:
    """The first samples of a shipped model's calibration data, eight in a feed set."""
    data = dict(np.load(MODELS / f"{name}.calibration.npz"))
    return [{key: array[i : i + 8] for key, array in data.items()} for i in range(0, count, 8)]


def shipped(name: str) -> ir.Model:
    """A shipped model after -O2."""
    model = ir.from_proto(onnx.load(MODELS / f"{name}.onnx"))
    infer_model(model)
    Pipeline.level(2).run(model, context())
    return model


def logits(model: ir.Model, name: str, count: int = 200) -> tuple[Array, Array]:
    """What a model computes on the first samples of the evaluation data, and the labels."""
    data = {key: array[:count] for key, array in np.load(MODELS / f"{name}.eval.npz").items()}
    labels = data.pop("labels")
    return run(ir.to_proto(model).SerializeToString(), data)[0], labels


def accuracy(model: ir.Model, name: str) -> float:
    found, labels = logits(model, name)
    return float((found.argmax(axis=1) == labels).mean())


def distance(model: ir.Model, name: str, wanted: Array) -> float:
    """How far a model's logits are from others, relative."""
    return float(np.linalg.norm(logits(model, name)[0] - wanted) / np.linalg.norm(wanted))


def round_weights(model: ir.Model, bits: int, *, per_channel: bool = True) -> ir.Model:
    """The model with the weights of all layers as `quantize` would store them."""
    for linear in find_linear(model)[0]:
        linear.store(stored(np.ascontiguousarray(linear.columns()), Grid.of(bits, per_channel)))
    return model


def outputs(model: ir.Model, feeds: Mapping[str, Any]) -> list[Array]:
    return run(ir.to_proto(model).SerializeToString(), feeds)
