"""Files that are no model, and models that are no longer whole."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import onnx
import pytest
from import_helpers import clean, refused, relu, repaired

from accelc.errors import ModelError, UsageError
from accelc.importer import import_proto, read_model


def _refused_file(tmp_path: Path, data: bytes, *words: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_model(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    for word in words:
        assert word in line


def test_a_clean_file_needs_no_repair(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(relu().SerializeToString())
    result = read_model(path)
    assert result.repairs == ()
    assert result.bytes == path.stat().st_size
    assert result.base_dir == tmp_path
    assert result.proto == relu()


def test_a_link_to_a_model_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.onnx").write_bytes(relu().SerializeToString())
    (tmp_path / "link.onnx").symlink_to("real.onnx")
    assert read_model(tmp_path / "link.onnx").proto == relu()


def test_empty_file(tmp_path: Path) -> None:
    _refused_file(tmp_path, b"", "empty")


@pytest.mark.parametrize("text", [b"hello, this is no model", str(relu()).encode(), b'{"ir_version": 8}', b"\n\n"])
def test_text(tmp_path: Path, text: bytes) -> None:
    _refused_file(tmp_path, text, "not an ONNX model", "text")


@pytest.mark.parametrize(("data", "word"), [(b"PK\x03\x04" + bytes(40), "zip"), (b"\x89HDF\r\n" + bytes(9), "HDF5")])
def test_other_formats_are_named(tmp_path: Path, data: bytes, word: str) -> None:
    _refused_file(tmp_path, data, word)


def test_truncated(tmp_path: Path) -> None:
    data = relu().SerializeToString()
    _refused_file(tmp_path, data[: len(data) // 2], "does not parse")


@pytest.mark.parametrize("tail", [b"garbage after the model", b"\xa0\x06\x01", b"\xf8\x7f\x01"])
def test_trailing_bytes_even_when_they_parse(tmp_path: Path, tail: bytes) -> None:
    _refused_file(tmp_path, relu().SerializeToString() + tail, "damaged")


def test_two_models_in_one_file(tmp_path: Path) -> None:
    _refused_file(tmp_path, relu().SerializeToString() * 2, "'x'", "2 times")


def test_no_graph(tmp_path: Path) -> None:
    model = relu()
    model.ClearField("graph")
    _refused_file(tmp_path, model.SerializeToString(), "no graph")
    refused(model, "no graph")


def test_nested_deeper_than_a_protobuf_reader_follows(tmp_path: Path) -> None:
    graph = onnx.GraphProto(name="inner").SerializeToString()

    def field(number: int, data: bytes) -> bytes:
        size, length = b"", len(data)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + data

    for _ in range(500):
        graph = field(1, field(5, field(6, graph)))
    _refused_file(tmp_path, b"\x08\x08" + field(7, graph), "nested too deep")


def test_nested_500_deep_in_memory() -> None:
    model = relu()
    graph = model.graph
    for _ in range(500):
        attribute = graph.node.add(op_type="If").attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
        graph.name = "inner"
    with pytest.raises(ModelError, match="nested too deep"):
        import_proto(model)


def test_nested_25_deep_is_fine() -> None:
    body = "y0 = Relu(x)"
    for level in range(25):
        other = f"e{level} () => (float[2,4] z{level}) {{ z{level} = Abs(x) }}"
        then = f"t{level} () => (float[2,4] y{level}) {{ {body} }}"
        body = f"y{level + 1} = If (c) <then_branch = {then}, else_branch = {other}>"
    head = '<ir_version: 8, opset_import: ["": 17]> '
    model = onnx.parser.parse_model(head + f"g (bool c, float[2,4] x) => (float[2,4] y25) {{ {body} }}")
    clean(model)


def test_larger_than_a_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match="external data"):
        read_model(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_model(tmp_path / "absent.onnx")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder"):
        read_model(tmp_path)


def test_a_name_no_system_takes() -> None:
    with pytest.raises(UsageError):
        read_model("a\0b")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="regular file"):
        read_model(tmp_path / "m.onnx")


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("m.onnx")
        with pytest.raises(UsageError, match="regular file"):
            read_model("m.onnx")


@pytest.mark.parametrize("field", ["name", "input", "op_type", "attribute"])
def test_names_that_are_not_utf8(tmp_path: Path, field: str) -> None:
    model = relu()
    node = model.graph.node[0]
    marker = "marker_of_this_test"
    if field == "attribute":
        node.attribute.add(name=marker, type=onnx.AttributeProto.INT, i=1)
    elif field == "input":
        node.input[0] = marker
    else:
        setattr(node, field, marker)
    data = model.SerializeToString().replace(marker.encode(), b"\xff\xfe" + marker[2:].encode())
    _refused_file(tmp_path, data, "UTF-8")


def test_metadata_that_is_not_utf8(tmp_path: Path) -> None:
    model = relu()
    model.metadata_props.add(key="author", value="somebody")
    _refused_file(tmp_path, model.SerializeToString().replace(b"somebody", b"s\xffmebody"), "UTF-8")


def test_a_doc_string_that_is_not_utf8_is_removed() -> None:
    model = relu()
    model.graph.node[0].doc_string = "somebody"
    broken = onnx.ModelProto.FromString(model.SerializeToString().replace(b"somebody", b"s\xffmebody"))
    result = repaired(broken, "removed 1 doc string(s)")
    assert not result.proto.graph.node[0].HasField("doc_string")


def test_foreign_fields_inside_the_model_are_removed() -> None:
    model = relu()
    node = model.graph.node[0]
    node.MergeFromString(b"\xf8\x7f\x01")
    result = repaired(model, "no part of ONNX")
    assert result.proto == relu()


def test_what_says_nothing_is_kept() -> None:
    model = relu()
    model.doc_string, model.producer_name, model.model_version = "doc", "me", 7
    model.graph.doc_string = "graph doc"
    model.graph.node[0].doc_string = "node doc"
    model.metadata_props.add(key="author", value="ü")
    model.training_info.add().algorithm.name = "training"
    clean(model)
