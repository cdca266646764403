"""Winograd's minimal filtering written as plain operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fusion_graphs import TARGET

from accelc import ir
from accelc.context import Context
from accelc.infer import infer_model
from accelc.passes.winograd import Winograd, winograd_conv
from accelc.pipeline import Pipeline
from accelc.rewrite import Driver
from accelc.testing import context, run, unchanged
from accelc.why import explain

HERE = Path()
BOUND = 2e-4
"""Share of the output's range by which results may differ."""


class _Chosen(Context):
    """A context that always decides for one graph, and keeps what was asked."""

    wanted = "winograd"

    def decide(self, rule: str, case: str, default: str, build: Callable[[], Any], **_: Any) -> str:
        self.asked = (rule, case, default, build)
        return self.wanted


def chosen(isa: str = "") -> _Chosen:
    return _Chosen(replace(TARGET, isa=frozenset([isa])) if isa else TARGET)


def model_of(
    channels: int, outputs: int, size: tuple[int, int], batch: Any = 2, *, bias: bool = True, **attrs: Any
) -> Any:
    """A Conv with random weights as a proto."""
    rng = np.random.default_rng(0)
    group, kernel = attrs.get("group", 1), attrs.pop("kernel", (3, 3))
    shape = (outputs, channels // group, *kernel)
    weights = [
        onnx.numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), "w")
    ]
    if bias:
        weights.append(onnx.numpy_helper.from_array(rng.standard_normal(outputs).astype(np.float32), "b"))
    node = onnx.helper.make_node("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["c"], **attrs)
    last = onnx.helper.make_node("Relu", ["c"], ["y"])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node, last],
        "main",
        [info("x", onnx.TensorProto.FLOAT, [batch, channels, *size])],
        [info("y", onnx.TensorProto.FLOAT, None)],
        weights,
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def transformed(proto: onnx.ModelProto, ctx: Context) -> tuple[int, onnx.ModelProto]:
    model = ir.from_proto(proto, HERE)
    infer_model(model)
    fired = Driver([winograd_conv]).run(model, ctx)
    return fired, ir.to_proto(model)


def same(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Mapping[str, Any]) -> None:
    old, new = run(before.SerializeToString(), feeds)[0], run(after.SerializeToString(), feeds)[0]
    assert old.shape == new.shape
    assert np.abs(old - new).max() <= BOUND * np.abs(old).max()


@pytest.mark.parametrize(
    ("size", "attrs"),
    [
        ((14, 14), {"pads": [1, 1, 1, 1]}),
        ((16, 16), {"pads": [1, 1, 1, 1]}),
        ((15, 21), {"pads": [1, 1, 1, 1]}),
        ((17, 18), {}),
        ((16, 17), {"auto_pad": "SAME_UPPER"}),
        ((16, 17), {"auto_pad": "SAME_LOWER"}),
        ((18, 16), {"auto_pad": "VALID"}),
        ((15, 16), {"pads": [0, 1, 2, 1]}),
        ((15, 16), {"pads": [2, 2, 0, 0], "strides": [1, 1], "dilations": [1, 1], "kernel_shape": [3, 3]}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_every_padding_and_size(size: tuple[int, int], attrs: dict[str, Any], bias: bool) -> None:
    before = model_of(128, 136, size, bias=bias, **attrs)
    fired, after = transformed(before, chosen())
    assert fired == 1
    x = np.random.default_rng(1).standard_normal((2, 128, *size)).astype(np.float32)
    same(before, after, {"x": x})


def test_a_batch_of_any_size() -> None:
    before = model_of(128, 128, (14, 14), "N", pads=[1, 1, 1, 1])
    fired, after = transformed(before, chosen())
    assert fired == 1
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 128, 14, 14)).astype(np.float32)
        same(before, after, {"x": x})


def test_many_channels_and_large_values_stay_within_the_bound() -> None:
    before = model_of(512, 128, (14, 14), pads=[1, 1, 1, 1])
    fired, after = transformed(before, chosen())
    assert fired == 1
    x = 1000 + 100 * np.random.default_rng(1).standard_normal((2, 512, 14, 14)).astype(np.float32)
    same(before, after, {"x": np.maximum(x, 0).astype(np.float32)})


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (model_of(128, 128, (14, 14), pads=[1, 1, 1, 1], strides=[2, 2]), "strides"),
        (model_of(128, 128, (16, 16), pads=[2, 2, 2, 2], dilations=[2, 2]), "dilated"),
        (model_of(256, 128, (14, 14), pads=[1, 1, 1, 1], group=2), "groups"),
        (model_of(128, 128, (14, 14), kernel=(1, 1)), "not 3x3"),
        (model_of(128, 128, (18, 18), kernel=(5, 5)), "not 3x3"),
        (model_of(128, 128, (14, 14), pads=[3, 3, 3, 3]), "pads more"),
        (model_of(64, 128, (14, 14), pads=[1, 1, 1, 1]), "too small"),
        (model_of(128, 128, (7, 7), pads=[1, 1, 1, 1]), "too small"),
        (model_of(128, 128, ("H", 14), pads=[1, 1, 1, 1]), "not fixed"),  # type: ignore[arg-type]
    ],
)
def test_other_convolutions_stay(model: onnx.ModelProto, reason: str) -> None:
    assert transformed(model, chosen())[0] == 0
    assert reason in explain(winograd_conv, ir.from_proto(model, HERE), chosen()).reason


def test_other_types_providers_and_opsets_stay() -> None:
    source = (
        '<ir_version: 8, opset_import: ["": {0}]> main ({1}[1,1,14,14] x) => ({1}[1,1,14,14] y) '
        "<{1}[1,1,3,3] w = {{1,1,1,1,1,1,1,1,1}}> {{ y = Conv<pads = [1,1,1,1]>(x, w) }}"
    )
    unchanged(winograd_conv, source.format(17, "double"), reason="x is DOUBLE")
    unchanged(winograd_conv, source.format(11, "float"), reason="opset 13")
    cuda = context(target=replace(TARGET, name="cuda", provider="CUDAExecutionProvider"))
    unchanged(winograd_conv, source.format(17, "float"), reason="CPU provider only", ctx=cuda)


@pytest.mark.parametrize(
    ("isa", "channels", "pixels", "default"),
    [
        ("avx512", 256, 28, "winograd"),
        ("avx512", 512, 14, "conv"),
        ("avx512", 512, 20, "winograd"),
        ("avx2", 512, 14, "winograd"),
        ("avx2", 256, 14, "conv"),
        ("neon", 512, 28, "conv"),
    ],
)
def test_what_is_shipped_depends_on_the_processor(isa: str, channels: int, pixels: int, default: str) -> None:
    ctx = chosen(isa)
    transformed(model_of(channels, channels, (pixels, pixels), pads=[1, 1, 1, 1]), ctx)
    assert ctx.asked[:3] == ("winograd_conv", f"{channels} to {channels} channels, {pixels}x{pixels} pixels", default)
    without = context(target=replace(TARGET, isa=frozenset([isa])))
    fired, _ = transformed(model_of(channels, channels, (pixels, pixels), pads=[1, 1, 1, 1]), without)
    assert fired == (default == "winograd")


def test_both_graphs_can_be_measured() -> None:
    ctx = chosen()
    asked: dict[str, onnx.ModelProto] = {}

    def decide(rule: str, case: str, default: str, build: Callable[[], Any], **_: Any) -> str:
        asked.update(build())
        return "conv"

    ctx.decide = decide  # type: ignore[method-assign]
    fired, _ = transformed(model_of(128, 128, (14, 14), pads=[1, 1, 1, 1]), ctx)
    assert fired == 0
    assert list(asked) == ["conv", "winograd"]
    x = np.random.default_rng(0).standard_normal((2, 128, 14, 14)).astype(np.float32)
    (name,) = {each.graph.input[0].name for each in asked.values()}
    same(asked["conv"], asked["winograd"], {name: x})


def test_the_file_does_not_grow_and_the_runtime_transforms_the_weight_once(tmp_path: Any) -> None:
    before = model_of(256, 256, (28, 28), 1, pads=[1, 1, 1, 1])
    model = ir.from_proto(before, HERE)
    infer_model(model)
    ctx = chosen()
    Pipeline.parse("winograd, O2").run(model, ctx)
    after = ir.to_proto(model)
    assert any(node.op_type == "DepthToSpace" for node in after.graph.node)
    assert after.ByteSize() < before.ByteSize() + 20_000
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    ort.InferenceSession(after.SerializeToString(), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx")
    weights = {each.name: tuple(each.dims) for each in loaded.graph.initializer}
    products = [node for node in loaded.graph.node if "MatMul" in node.op_type]
    assert len(products) == 2
    assert any(weights.get(name) == (36, 256, 256) for node in products for name in node.input)


def test_the_pass_is_content_with_its_result() -> None:
    model = ir.from_proto(model_of(256, 256, (28, 28), 1, pads=[1, 1, 1, 1]), HERE)
    infer_model(model)
    ctx = chosen()
    assert Winograd().run(model, ctx).changes == 1
    assert Winograd().run(model, ctx).changes == 0
