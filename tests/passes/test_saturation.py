"""Products of u8 x s8 that x86 without VNNI adds in pairs of 16 bits (vpmaddubsw): nothing may saturate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import accelc
from accelc.backends.cpu import CpuBackend
from accelc.passes.quantization.numbers import Scheme, quantize_weight
from accelc.readback import read_back
from accelc.runner import Runner
from accelc.target import Target, isa_of

Array = np.ndarray[Any, Any]
K, N = 64, 48
LARGEST = 2**15 - 1


def pairs(activations: Array, weights: Array) -> Array:
    """What vpmaddubsw adds up before it saturates: [M, K / 2, N] from [M, K] and [K, N]."""
    products = activations.astype(np.int64)[:, :, None] * weights.astype(np.int64)[None]
    return np.asarray(products[:, ::2] + products[:, 1::2])


def weight(*shape: int) -> Array:
    """Channels of nearly equal weights, the last axis of a matrix and the first of a convolution.

    All round to the top, and on no coarser grid.
    """
    sizes = 1 - 0.004 * np.random.default_rng(0).random(shape)
    channels = np.arange(shape[0] if len(shape) > 2 else shape[-1])
    signs = np.where(channels % 2, 1, -1).reshape([-1, 1, 1, 1] if len(shape) > 2 else [1, -1])
    return np.asarray(sizes * signs, np.float32)


@pytest.mark.parametrize(("bits", "fits"), [(7, True), (8, False)])
def test_the_largest_pairs(bits: int, fits: bool) -> None:
    top = Scheme(bits=bits).top
    assert (2 * 255 * top <= LARGEST) is fits
    values = quantize_weight(weight(K, N), Scheme(bits=bits)).values
    found = pairs(np.full((3, K), 255, np.uint8), values)
    assert np.abs(found).max() > 2 * 255 * (top - 2)
    saturated = found.clip(-LARGEST - 1, LARGEST).sum(axis=1)
    assert bool((saturated == found.sum(axis=1)).all()) is fits


@pytest.mark.parametrize(
    ("isa", "bits"), [("avx2", 7), ("avx512", 7), ("avx2+avx_vnni", 8), ("vnni", 8), ("amx", 8), ("neon_dot", 8)]
)
def test_bits_by_processor(isa: str, bits: int) -> None:
    chosen = Scheme.of(Target.cpu(isa=isa_of(isa)), bits=None, per_channel=True, vendor=True)
    assert (chosen.bits, chosen.unsigned) == (bits, False)


GRAPHS = {
    "MatMul": (f"(float[n,{K}] x) => (float[n,{N}] y) {{ y = MatMul(x, w) }}", weight(K, N), (K,)),
    "Conv": (
        "(float[n,32,6,6] x) => (float[n,48,6,6] y) { y = Conv<pads: ints = [1,1,1,1]>(x, w) }",
        weight(48, 32, 3, 3),
        (32, 6, 6),
    ),
}


@pytest.mark.parametrize("isa", [None, "avx2"])
@pytest.mark.parametrize(("kind", "scheme"), [("MatMul", "dynamic"), ("MatMul", "static"), ("Conv", "static")])
def test_results_are_those_of_exact_arithmetic(kind: str, scheme: str, isa: str | None, tmp_path: Path) -> None:
    text, w, shape = GRAPHS[kind]
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> main {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    onnx.save(proto, tmp_path / "float.onnx")
    # Ones round to 255, the largest integer; the zeros only make the range begin at 0.
    full = np.ones((4, *shape), np.float32)
    np.savez(tmp_path / "data.npz", x=np.concatenate([full, 0 * full]))
    result = accelc.optimize(
        tmp_path / "float.onnx",
        passes=f"quantize{{scheme={scheme}, measure=false}}",
        calibration=tmp_path / "data.npz",
        isa=isa,
        measure=False,
        output=tmp_path / "int8.onnx",
    )
    assert result.report.patches, [record.skipped for record in result.report.passes]
    with Runner() as runner:
        wanted = runner.evaluate(proto.SerializeToString(), {"x": full})["y"]
        session = CpuBackend().load(runner, tmp_path / "int8.onnx")
        assert read_back(runner, CpuBackend(), tmp_path / "int8.onnx").integer
        found = runner.run(session, {"x": full})["y"]
    # Saturated pairs would give half of it; rounding costs less than one step of the result, 1 / 127.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=float(np.abs(wanted).max()) / 120)
