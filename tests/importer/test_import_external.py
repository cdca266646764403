"""External data: what may be read is decided before a file is opened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from import_helpers import model_of, value
from onnx import TensorProto, helper

from accelc.errors import ModelError
from accelc.importer import external, import_proto, read_model
from accelc.importer.external import FileRange, open_data_file, read_range


def _tensor(name: str = "w", shape: tuple[int, ...] = (2, 4), **entries: str) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def _model(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    names = [tensor.name for tensor in tensors]
    nodes = [helper.make_node("Sum", ["x", *names], ["y"])]
    return model_of(nodes, [value("x")], [value("y")], tensors)


def _write(folder: Path, model: onnx.ModelProto, size: int = 64) -> Path:
    (folder / "w.bin").write_bytes(np.arange(size // 4, dtype=np.float32).tobytes())
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_model(path)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.fixture
def never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test when a data file is opened."""

    def fail(*_: object) -> int:
        raise AssertionError("a data file was opened")

    monkeypatch.setattr(external, "open_data_file", fail)


def test_external_data_stays_external(tmp_path: Path) -> None:
    path = _write(tmp_path, _model(_tensor(location="w.bin", offset="32", length="32")))
    result = read_model(path)
    assert result.repairs == ()
    assert result.proto.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert result.bytes == path.stat().st_size + 32


def test_offset_and_length_may_be_left_out(tmp_path: Path) -> None:
    assert read_model(_write(tmp_path, _model(_tensor(location="w.bin")))).repairs == ()


def test_a_sub_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = _write(tmp_path, _model(_tensor(location="data/./w.bin")))
    (tmp_path / "w.bin").rename(tmp_path / "data" / "w.bin")
    assert read_model(path).repairs == ()


def test_shared_bytes_count_once(tmp_path: Path) -> None:
    tensors = [
        _tensor("a", location="w.bin", offset="0"),
        _tensor("b", location="w.bin", offset="0"),
        _tensor("c", location="w.bin", offset="16"),
    ]
    path = _write(tmp_path, _model(*tensors))
    assert read_model(path).bytes == path.stat().st_size + 48


def test_a_model_in_memory_needs_a_folder(tmp_path: Path) -> None:
    model = _model(_tensor(location="w.bin"))
    with pytest.raises(ModelError, match="no folder"):
        import_proto(model)
    _write(tmp_path, model)
    assert import_proto(model, tmp_path).proto is model


def test_small_shapes_are_read_for_inference(tmp_path: Path) -> None:
    """A Reshape whose target is external is as well known as any other."""
    shape = TensorProto(name="s", data_type=TensorProto.INT64, dims=[2], data_location=TensorProto.EXTERNAL)
    shape.external_data.add(key="location", value="s.bin")
    (tmp_path / "s.bin").write_bytes(np.array([4, 2], np.int64).tobytes())
    model = model_of([helper.make_node("Reshape", ["x", "s"], ["y"])], [value("x")], [value("y", shape=None)], (shape,))
    result = import_proto(model, tmp_path)
    assert [dim.dim_value for dim in result.proto.graph.output[0].type.tensor_type.shape.dim] == [4, 2]


@pytest.mark.parametrize("location", ["/etc/passwd", "\\windows\\w.bin", "C:\\w.bin", "c:w.bin"])
@pytest.mark.usefixtures("never_opened")
def test_absolute_locations(tmp_path: Path, location: str) -> None:
    _refused(_write(tmp_path, _model(_tensor(location=location))), "absolute path")


@pytest.mark.parametrize("location", ["../w.bin", "a/../w.bin", "..", "a\\..\\w.bin"])
@pytest.mark.usefixtures("never_opened")
def test_locations_that_leave_the_folder(tmp_path: Path, location: str) -> None:
    _refused(_write(tmp_path, _model(_tensor(location=location))), "'..'")


@pytest.mark.parametrize("location", [".", "./", "a\0b"])
@pytest.mark.usefixtures("never_opened")
def test_locations_that_name_no_file(tmp_path: Path, location: str) -> None:
    _refused(_write(tmp_path, _model(_tensor(location=location))), "not a file name")


@pytest.mark.usefixtures("never_opened")
def test_no_location(tmp_path: Path) -> None:
    _refused(_write(tmp_path, _model(_tensor(offset="0"))), "names no file")
    _refused(_write(tmp_path, _model(_tensor(location=""))), "names no file")


@pytest.mark.usefixtures("never_opened")
def test_an_entry_given_twice(tmp_path: Path) -> None:
    model = _model(_tensor(location="w.bin"))
    model.graph.initializer[0].external_data.add(key="location", value="other.bin")
    _refused(_write(tmp_path, model), "given twice")


@pytest.mark.usefixtures("never_opened")
def test_a_missing_file(tmp_path: Path) -> None:
    _refused(_write(tmp_path, _model(_tensor(location="gone.bin"))), "missing", "gone.bin")


@pytest.mark.usefixtures("never_opened")
def test_a_name_too_long_for_the_system(tmp_path: Path) -> None:
    _refused(_write(tmp_path, _model(_tensor(location="a" * 5000))), "cannot be looked at")


@pytest.mark.usefixtures("never_opened")
def test_a_link_to_a_file(tmp_path: Path) -> None:
    path = _write(tmp_path, _model(_tensor(location="link.bin")))
    (tmp_path / "link.bin").symlink_to("w.bin")
    _refused(path, "behind a link")


@pytest.mark.usefixtures("never_opened")
def test_a_link_to_a_folder_on_the_way(tmp_path: Path) -> None:
    path = _write(tmp_path, _model(_tensor(location="here/w.bin")))
    (tmp_path / "here").symlink_to(".")
    _refused(path, "behind a link")


@pytest.mark.usefixtures("never_opened")
def test_a_file_on_the_way(tmp_path: Path) -> None:
    path = _write(tmp_path, _model(_tensor(location="w.bin/w.bin")))
    _refused(path, "not below a folder")


@pytest.mark.usefixtures("never_opened")
def test_a_folder(tmp_path: Path) -> None:
    path = _write(tmp_path, _model(_tensor(location="folder")))
    (tmp_path / "folder").mkdir()
    _refused(path, "not a regular file")


@pytest.mark.usefixtures("never_opened")
def test_a_pipe(tmp_path: Path) -> None:
    path = _write(tmp_path, _model(_tensor(location="pipe")))
    os.mkfifo(tmp_path / "pipe")
    _refused(path, "not a regular file")


@pytest.mark.usefixtures("never_opened")
def test_a_device() -> None:
    model = _model(_tensor(location="zero"))
    with pytest.raises(ModelError, match="not a regular file"):
        import_proto(model, Path("/dev"))


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize("text", ["-48", "abc", "", "1e3", "0x10", " 8", "9" * 30, str(2**63), "٣"])
@pytest.mark.usefixtures("never_opened")
def test_bad_numbers(tmp_path: Path, key: str, text: str) -> None:
    _refused(_write(tmp_path, _model(_tensor(location="w.bin", **{key: text}))), f"bad {key}")


@pytest.mark.parametrize("length", ["8", "31", "33", "0"])
@pytest.mark.usefixtures("never_opened")
def test_a_length_that_does_not_fit_the_tensor(tmp_path: Path, length: str) -> None:
    _refused(_write(tmp_path, _model(_tensor(location="w.bin", length=length))), "needs 32 bytes")


@pytest.mark.parametrize("offset", ["33", "64", str(2**63 - 1)])
@pytest.mark.usefixtures("never_opened")
def test_past_the_end_of_the_file(tmp_path: Path, offset: str) -> None:
    _refused(_write(tmp_path, _model(_tensor(location="w.bin", offset=offset))), "past the end")


@pytest.mark.usefixtures("never_opened")
def test_a_file_too_short_for_the_shape(tmp_path: Path) -> None:
    _refused(_write(tmp_path, _model(_tensor(shape=(1000, 1000), location="w.bin"))), "past the end")


@pytest.mark.usefixtures("never_opened")
def test_external_and_inside(tmp_path: Path) -> None:
    model = _model(_tensor(location="w.bin"))
    model.graph.initializer[0].raw_data = bytes(32)
    _refused(_write(tmp_path, model), "stored twice")


@pytest.mark.usefixtures("never_opened")
def test_external_strings(tmp_path: Path) -> None:
    model = _model(_tensor(location="w.bin"))
    model.graph.initializer[0].data_type = TensorProto.STRING
    _refused(_write(tmp_path, model), "string")


@pytest.mark.usefixtures("never_opened")
def test_packed_types_count_in_bits(tmp_path: Path) -> None:
    tensor = _tensor(shape=(129,), location="w.bin")
    tensor.data_type = TensorProto.INT4
    _refused(_write(tmp_path, _model(tensor)), "bytes 0 to 65")


@pytest.mark.parametrize("place", ["constant", "subgraph", "sparse", "training"])
@pytest.mark.usefixtures("never_opened")
def test_external_data_anywhere_in_the_model(tmp_path: Path, place: str) -> None:
    outside = _tensor(location="../w.bin")
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], [value("x")], [value("y")])
    if place == "constant":
        model.graph.node.append(helper.make_node("Constant", [], ["k"], value=outside))
    elif place == "subgraph":
        body = helper.make_graph([helper.make_node("Identity", ["w"], ["t"])], "b", [], [value("t")], [outside])
        model.graph.input.append(value("c", TensorProto.BOOL, ()))
        model.graph.node.append(helper.make_node("If", ["c"], ["k"], then_branch=body, else_branch=body))
    elif place == "sparse":
        sparse = model.graph.sparse_initializer.add(dims=[20])
        sparse.values.CopyFrom(_tensor(shape=(8,), location="../w.bin"))
        sparse.indices.CopyFrom(helper.make_tensor("", TensorProto.INT64, [8], range(8)))
    else:
        model.training_info.add().initialization.initializer.append(outside)
    _refused(_write(tmp_path, model), "'..'")


def test_a_file_that_became_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match="cannot be opened"):
        read_range(FileRange(tmp_path, ("w.bin",), 0, 8), "weight 'w'")


def test_a_folder_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "etc").symlink_to("/etc")
    with pytest.raises(ModelError, match="cannot be opened"):
        open_data_file(FileRange(tmp_path, ("etc", "passwd"), 0, 8), "weight 'w'")


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(ModelError, match="not a regular file"):
        open_data_file(FileRange(tmp_path, ("w.bin",), 0, 8), "weight 'w'")


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(4))
    with pytest.raises(ModelError, match="ended early"):
        read_range(FileRange(tmp_path, ("w.bin",), 0, 8), "weight 'w'")
