"""What is left of the shipped models after fusion, for the CPU and in portable form."""

from collections import Counter
from pathlib import Path

import pytest

import accelc
from accelc import ir

MODELS = Path(__file__).resolve().parents[2] / "models"


def optimized(name: str, *, portable: bool) -> ir.Model:
    return accelc.optimize(MODELS / f"{name}.onnx", level=2, portable=portable, measure=False).model


@pytest.mark.parametrize(("portable", "opset"), [(False, 17), (True, 20)])
def test_every_gelu_of_the_text_encoder_is_fused(portable: bool, opset: int) -> None:
    """Without vendor operators the opset is raised to the one that has Gelu."""
    model = optimized("text_encoder", portable=portable)
    counts = Counter((node.domain, node.op_type) for node in ir.walk(model))
    assert counts["", "Erf"] == 0
    assert counts[("", "Gelu") if portable else ("com.microsoft", "BiasGelu")] == 3
    assert model.graph.opset_imports[""] == opset


def test_no_batch_normalization_is_left_in_the_digits_cnn() -> None:
    counts = Counter(node.op_type for node in ir.walk(optimized("digits_cnn", portable=False)))
    assert counts["BatchNormalization"] == 0
    assert counts["Conv"] == 11
