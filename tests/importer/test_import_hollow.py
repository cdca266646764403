"""Large weights stay in the model's file and are the same arrays there; nothing else may claim to be such a weight."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accelc import ir
from accelc.errors import ModelError
from accelc.exporter import write_model
from accelc.importer import hollow, read_model
from accelc.importer.hollow import INSIDE
from accelc.source import Source

SIZE = 70_001


@pytest.fixture(autouse=True)
def _any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hollow, "_SMALL_FILE", 0)


def proto(kind: int = TensorProto.FLOAT, name: str = "w") -> onnx.ModelProto:
    array = np.arange(SIZE) % 100
    raw = array.astype(helper.tensor_dtype_to_np_dtype(kind)).tobytes()
    large = helper.make_tensor(name, kind, [SIZE], raw, raw=True)
    large.doc_string = "large"
    small = numpy_helper.from_array(np.array([2.0], np.float32), "s")
    nodes = [helper.make_node("Cast", [name], ["c"], to=TensorProto.FLOAT), helper.make_node("Mul", ["c", "s"], ["m"])]
    nodes.append(helper.make_node("Add", ["a", "m"], ["r"]))
    ports = [helper.make_tensor_value_info(each, TensorProto.FLOAT, [SIZE]) for each in ("a", "r")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [large, small])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def saved(model: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


KINDS = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.INT64]


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_left_in_the_file_and_is_the_same(kind: int, tmp_path: Path) -> None:
    path = saved(proto(kind), tmp_path)
    imported = read_model(path, leave_weights=True)
    assert imported.file is not None
    assert not imported.proto.graph.initializer[0].raw_data
    assert (imported.bytes, imported.repairs) == (path.stat().st_size, read_model(path).repairs)
    weight = Source.of(path).fresh().graph.initializers["w"]
    plain = ir.from_proto(read_model(path).proto).graph.initializers["w"]
    assert weight.const_value is not None
    assert plain.const_value is not None
    assert weight.const_value.dtype == plain.const_value.dtype
    assert weight.const_value.doc_string == "large"
    assert weight.const_value.tobytes() == plain.const_value.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_written_as_it_was(kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelc import exporter

    monkeypatch.setattr(exporter, "_LARGE", 1 << 12)
    model = proto(kind)
    path = saved(model, tmp_path)
    out = tmp_path / "out.onnx"
    source = Source.of(path)
    size = write_model(source.fresh(), out, value_info=False)
    again = onnx.load(out)
    assert size == out.stat().st_size
    assert list(again.graph.initializer) == list(model.graph.initializer)
    assert [node.op_type for node in again.graph.node] == ["Cast", "Mul", "Add"]
    onnx.checker.check_model(again)


def test_every_attempt_gets_the_weights(tmp_path: Path) -> None:
    source = Source.of(saved(proto(), tmp_path))
    first, second = source.fresh(), source.fresh()
    for model in (first, second):
        array = ir.const(model.graph.initializers["w"])
        assert array is not None
        assert array.sum() == float((np.arange(SIZE) % 100).sum())
    assert len(source.proto().graph.initializer[0].raw_data) == 4 * SIZE


def test_over_the_input_itself(tmp_path: Path) -> None:
    path = saved(proto(), tmp_path)
    model = Source.of(path).fresh()
    write_model(model, path, value_info=False)
    assert onnx.load(path).graph.initializer[0].raw_data == proto().graph.initializer[0].raw_data
    array = ir.const(model.graph.initializers["w"])
    assert array is not None
    assert array[99] == 99


def test_a_file_of_a_few_megabytes_is_read_as_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hollow, "_SMALL_FILE", 1 << 24)
    assert read_model(saved(proto(), tmp_path), leave_weights=True).file is None


def claim(model: onnx.ModelProto, where: int) -> None:
    tensor = model.graph.initializer[where]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", INSIDE), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize("leave", [True, False])
def test_a_model_may_not_claim_a_place_in_its_file(leave: bool, tmp_path: Path) -> None:
    model = proto()
    claim(model, 1)
    path = saved(model, tmp_path)
    with pytest.raises(ModelError, match="absolute path"):
        read_model(path, leave_weights=leave)


@pytest.mark.parametrize("change", ["short data", "typed data too", "strange type", "negative length", "two graphs"])
def test_what_is_odd_is_judged_by_the_usual_reader(change: str, tmp_path: Path) -> None:
    model = proto()
    tensor = model.graph.initializer[0]
    data = b""
    if change == "short data":
        tensor.raw_data = tensor.raw_data[:-4]
    elif change == "typed data too":
        tensor.float_data.append(1.0)
    elif change == "strange type":
        tensor.data_type = 77
    elif change == "negative length":
        tensor.dims[0] = -SIZE
    else:
        data = onnx.ModelProto(graph=onnx.GraphProto(doc_string="again")).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString() + data)
    said = []
    for leave in (False, True):
        try:
            said.append(str(read_model(path, leave_weights=leave).repairs))
        except ModelError as error:
            said.append(str(error))
    assert said[0] == said[1]


@pytest.mark.parametrize("end", [-1, -100, -SIZE, 40, 12])
def test_a_file_that_ends_early(end: int, tmp_path: Path) -> None:
    path = saved(proto(), tmp_path)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ModelError, match="damaged"):
        read_model(path, leave_weights=True)


def test_any_bytes_are_refused_or_read_alike(tmp_path: Path) -> None:
    good = proto().SerializeToString()
    places = [*range(200), *range(len(good) - 200, len(good))]
    path = tmp_path / "m.onnx"
    generator = np.random.default_rng(0)
    started = time.monotonic()
    for at in places:
        data = bytearray(good)
        data[at] ^= int(generator.integers(1, 256))
        path.write_bytes(bytes(data))
        said = []
        for leave in (False, True):
            try:
                said.append(str(read_model(path, leave_weights=leave).repairs))
            except ModelError as error:
                said.append(str(error))
        assert said[0] == said[1], at
        if time.monotonic() - started > 5:
            break
