"""Writing: one file or two, streamed, all or nothing."""

from __future__ import annotations

import errno
import os
import resource
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accelc import exporter, ir
from accelc.errors import AccelcError, ModelError, UsageError
from accelc.exporter import write_model
from accelc.importer import read_model

SMALL, LARGE = 8, 40_000


def _proto(sizes: tuple[int, ...] = (SMALL, LARGE, LARGE), kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A sum of one-dimensional weights, each cut down to one element so that any sizes fit."""
    weights, nodes = [], []
    for index, size in enumerate(sizes):
        data = np.random.default_rng(index).standard_normal(size).astype(np.float32)
        weights.append(numpy_helper.from_array(data, f"w{index}"))
        nodes.append(helper.make_node("ReduceSum", [f"w{index}"], [f"s{index}"], keepdims=0))
    nodes.append(helper.make_node("Sum", ["x", *(f"s{index}" for index in range(len(sizes)))], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["N"])],
        [helper.make_tensor_value_info("y", kind, ["N"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def _read(path: Path) -> ir.Model:
    found = read_model(path)
    return ir.from_proto(found.proto, found.base_dir)


def _inside(tmp_path: Path, sizes: tuple[int, ...] = (SMALL, LARGE, LARGE)) -> ir.Model:
    path = tmp_path / "inside.onnx"
    path.write_bytes(_proto(sizes).SerializeToString())
    return _read(path)


def _outside(folder: Path, threshold: int = 0) -> Path:
    """A model file whose weights are in weights.bin."""
    folder.mkdir(exist_ok=True)
    path = folder / "outside.onnx"
    onnx.save_model(_proto(), path, save_as_external_data=True, location="weights.bin", size_threshold=threshold)
    return path


def _run(path: Path) -> np.ndarray[Any, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    result: np.ndarray[Any, Any] = session.run(None, {"x": np.arange(3, dtype=np.float32)})[0]
    return result


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_with_its_weights_inside_is_one_file(tmp_path: Path) -> None:
    model = _inside(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    written = write_model(model, out / "m.onnx")
    assert _names(out) == {"m.onnx"}
    assert written == (out / "m.onnx").stat().st_size
    np.testing.assert_array_equal(_run(out / "m.onnx"), _run(tmp_path / "inside.onnx"))


def test_a_model_with_a_data_file_keeps_one(tmp_path: Path) -> None:
    source = _outside(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    written = write_model(_read(source), out / "m.onnx")
    assert _names(out) == {"m.onnx", "m.onnx.data"}
    assert written == sum(path.stat().st_size for path in out.iterdir())
    tensors = {tensor.name: tensor for tensor in onnx.load(out / "m.onnx", load_external_data=False).graph.initializer}
    assert tensors["w0"].data_location == TensorProto.DEFAULT
    assert tensors["w1"].data_location == TensorProto.EXTERNAL
    np.testing.assert_array_equal(_run(out / "m.onnx"), _run(source))
    assert read_model(out / "m.onnx").repairs == ()


@pytest.mark.parametrize("external", [True, False])
def test_either_form_can_be_asked_for(tmp_path: Path, external: bool) -> None:
    inside, outside = _inside(tmp_path), _outside(tmp_path / "in")
    for number, model in enumerate((inside, _read(outside))):
        out = tmp_path / f"out{number}"
        out.mkdir()
        write_model(model, out / "m.onnx", external=external)
        assert _names(out) == ({"m.onnx", "m.onnx.data"} if external else {"m.onnx"})
        np.testing.assert_array_equal(_run(out / "m.onnx"), _run(outside))


def test_a_model_above_the_limit_gets_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _inside(tmp_path)
    monkeypatch.setattr(exporter, "LARGEST_PROTO", 100_000)
    write_model(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").exists()


def test_writing_does_not_change_the_model(tmp_path: Path) -> None:
    for model in (_inside(tmp_path), _read(_outside(tmp_path / "in"))):
        before = {name: value.const_value for name, value in model.graph.initializers.items()}
        write_model(model, tmp_path / "m.onnx", external=True)
        assert all(value.const_value is before[name] for name, value in model.graph.initializers.items())


def test_a_failed_write_does_not_change_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _inside(tmp_path)
    before = {name: value.const_value for name, value in model.graph.initializers.items()}

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ir, "to_proto", fail)
    with pytest.raises(KeyboardInterrupt):
        write_model(model, tmp_path / "m.onnx", external=True)
    assert all(value.const_value is before[name] for name, value in model.graph.initializers.items())


@pytest.mark.parametrize("external", [True, False])
def test_the_same_model_gives_the_same_bytes(tmp_path: Path, external: bool) -> None:
    results = []
    for number in range(2):
        out = tmp_path / f"out{number}"
        out.mkdir()
        write_model(_read(_outside(tmp_path / "in")), out / "m.onnx", external=external)
        results.append(_bytes(out))
    assert results[0] == results[1]


def _offsets(path: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            found[tensor.name] = int(entries["offset"]), int(entries["length"])
    return found


def test_large_weights_start_at_a_page(tmp_path: Path) -> None:
    model = _inside(tmp_path, (300, 300_001, 300_001, 1000))
    write_model(model, tmp_path / "m.onnx", external=True)
    offsets = _offsets(tmp_path / "m.onnx")
    assert offsets["w0"] == (0, 1200)
    assert offsets["w1"][0] % 4096 == offsets["w2"][0] % 4096 == 0
    assert offsets["w3"][0] % 64 == 0
    np.testing.assert_array_equal(_run(tmp_path / "m.onnx"), _run(tmp_path / "inside.onnx"))


def test_a_packed_data_file_stays_as_small(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    model = _proto((300_001, 300_001, 301))
    offset, data = 4, b"head"
    for tensor in model.graph.initializer:
        data += tensor.raw_data
        place = {"location": "w.bin", "offset": offset, "length": len(tensor.raw_data)}
        offset += len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in place.items():
            tensor.external_data.add(key=key, value=str(text))
    (folder / "w.bin").write_bytes(data)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    write_model(_read(folder / "m.onnx"), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == len(data) - 4
    np.testing.assert_array_equal(_run(tmp_path / "m.onnx"), _run(folder / "m.onnx"))


def test_shared_bytes_are_written_once(tmp_path: Path) -> None:
    source = _outside(tmp_path / "in")
    model = onnx.load(source, load_external_data=False)
    del model.graph.initializer[2].external_data[:]
    model.graph.initializer[2].external_data.extend(model.graph.initializer[1].external_data)
    source.write_bytes(model.SerializeToString())
    write_model(_read(source), tmp_path / "m.onnx")
    offsets = _offsets(tmp_path / "m.onnx")
    assert offsets["w1"] == offsets["w2"]
    assert (tmp_path / "m.onnx.data").stat().st_size == 4 * LARGE
    np.testing.assert_array_equal(_run(tmp_path / "m.onnx"), _run(source))


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E5M2, TensorProto.BFLOAT16])
def test_types_numpy_does_not_have(tmp_path: Path, kind: int) -> None:
    values = np.arange(4001) % 7
    weight = helper.make_tensor("w", kind, [4001], values)
    outputs = [helper.make_tensor_value_info("w", kind, [4001])]
    model = helper.make_model(helper.make_graph([], "g", [], outputs, [weight]))
    model.opset_import[0].version, model.ir_version = 21, 10
    source = tmp_path / "in.onnx"
    source.write_bytes(model.SerializeToString())
    expected = numpy_helper.to_array(weight)
    write_model(_read(source), tmp_path / "a.onnx", external=True)
    write_model(_read(tmp_path / "a.onnx"), tmp_path / "b.onnx", external=True)
    write_model(_read(tmp_path / "b.onnx"), tmp_path / "c.onnx", external=False)
    for name in ("a", "b", "c"):
        (found,) = onnx.load(tmp_path / f"{name}.onnx").graph.initializer
        np.testing.assert_array_equal(numpy_helper.to_array(found).astype(np.float32), expected.astype(np.float32))


def test_strings_stay_inside(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.STRING, [1000], ["some text"] * 1000)
    outputs = [helper.make_tensor_value_info("w", TensorProto.STRING, [1000])]
    model = helper.make_model(helper.make_graph([], "g", [], outputs, [weight]))
    model.opset_import[0].version, model.ir_version = 17, 8
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    write_model(_read(tmp_path / "in.onnx"), tmp_path / "m.onnx", external=True)
    assert onnx.load(tmp_path / "m.onnx").graph.initializer[0].string_data == [b"some text"] * 1000


def test_external_constants_and_subgraphs_move_along(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    data = np.arange(1000, dtype=np.float32)

    def outside(name: str, offset: int, count: int) -> onnx.TensorProto:
        tensor = TensorProto(name=name, data_type=1, dims=[count], data_location=TensorProto.EXTERNAL)
        for key, text in {"location": "w.bin", "offset": str(offset), "length": str(count * 4)}.items():
            tensor.external_data.add(key=key, value=text)
        return tensor

    (folder / "w.bin").write_bytes(data.tobytes())
    body = [helper.make_node("Add", ["k", "inner"], ["t"])]
    value = helper.make_tensor_value_info("t", 1, [500])
    graphs = {
        name: helper.make_graph(body, name, [], [value], [outside("inner", 2000, 500)])
        for name in ("then_branch", "else_branch")
    }
    nodes = [
        helper.make_node("Constant", [], ["k"], value=outside("", 0, 500)),
        helper.make_node("Constant", [], ["few"], value=outside("", 4, 1)),
        helper.make_node("If", ["c"], ["z"], **graphs),
        helper.make_node("Add", ["z", "few"], ["y"]),
    ]
    inputs, outputs = [helper.make_tensor_value_info("c", 9, [])], [helper.make_tensor_value_info("y", 1, [500])]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs))
    model.opset_import[0].version, model.ir_version = 17, 8
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    for external in (True, False):
        out = tmp_path / str(external)
        out.mkdir()
        write_model(_read(folder / "m.onnx"), out / "m.onnx", external=external)
        loaded = onnx.load(out / "m.onnx")
        constants = [numpy_helper.to_array(node.attribute[0].t) for node in loaded.graph.node[:2]]
        np.testing.assert_array_equal(constants[0], data[:500])
        np.testing.assert_array_equal(constants[1], data[1:2])
        for attribute in loaded.graph.node[2].attribute:
            np.testing.assert_array_equal(numpy_helper.to_array(attribute.g.initializer[0]), data[500:])
        assert (out / "m.onnx.data").exists() == external


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """240 MB of weights in a data file are copied with far less than that in memory."""
    count, size = 6, 40_000_000
    folder = tmp_path / "in"
    folder.mkdir()
    with (folder / "w.bin").open("wb") as file:
        file.truncate(count * size)
    model = _proto((4,) * count)
    for index, tensor in enumerate(model.graph.initializer):
        tensor.ClearField("raw_data")
        tensor.dims[:] = [size // 4]
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in {"location": "w.bin", "offset": str(index * size), "length": str(size)}.items():
            tensor.external_data.add(key=key, value=text)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    loaded = _read(folder / "m.onnx")
    unit = 1024 if sys.platform != "darwin" else 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert write_model(loaded, tmp_path / "m.onnx") > count * size
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert after - before < 2 * size


# --- where it may be written


def test_over_the_input_itself(tmp_path: Path) -> None:
    source = _outside(tmp_path / "in")
    expected, data = _run(source), (source.parent / "weights.bin").read_bytes()
    model = _read(source)
    write_model(model, source)
    np.testing.assert_array_equal(_run(source), expected)
    assert (source.parent / "weights.bin").read_bytes() == data
    write_model(model, tmp_path / "again.onnx")
    np.testing.assert_array_equal(_run(tmp_path / "again.onnx"), expected)


def test_over_the_input_whose_data_file_has_the_name_of_ours(tmp_path: Path) -> None:
    """The model still reads its old data file, so that file stays and the new one gets a number."""
    write_model(_inside(tmp_path), tmp_path / "m.onnx", external=True)
    expected, data = _run(tmp_path / "m.onnx"), (tmp_path / "m.onnx.data").read_bytes()
    model = _read(tmp_path / "m.onnx")
    for _ in range(2):
        write_model(model, tmp_path / "m.onnx")
        np.testing.assert_array_equal(_run(tmp_path / "m.onnx"), expected)
        assert (tmp_path / "m.onnx.data").read_bytes() == data
    assert _names(tmp_path) == {"inside.onnx", "m.onnx", "m.onnx.data", "m.onnx.1.data"}


def test_never_over_the_data_file_of_the_input(tmp_path: Path) -> None:
    source = _outside(tmp_path / "in")
    data = (source.parent / "weights.bin").read_bytes()
    with pytest.raises(UsageError, match="its own weights"):
        write_model(_read(source), source.parent / "weights.bin")
    assert (source.parent / "weights.bin").read_bytes() == data


def test_an_existing_output_is_replaced(tmp_path: Path) -> None:
    model = _inside(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"old")
    (tmp_path / "m.onnx.data").write_bytes(b"old")
    write_model(model, tmp_path / "m.onnx", external=True)
    np.testing.assert_array_equal(_run(tmp_path / "m.onnx"), _run(tmp_path / "inside.onnx"))
    assert _names(tmp_path) == {"inside.onnx", "m.onnx", "m.onnx.data"}


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    model = _inside(tmp_path)
    for name in ("m.onnx", "m.onnx.data"):
        (tmp_path / f"precious_{name}").write_bytes(b"precious")
        (tmp_path / name).symlink_to(f"precious_{name}")
    write_model(model, tmp_path / "m.onnx", external=True)
    for name in ("m.onnx", "m.onnx.data"):
        assert (tmp_path / f"precious_{name}").read_bytes() == b"precious"
        assert not (tmp_path / name).is_symlink()


def test_files_get_the_rights_that_new_files_get(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_model(_inside(tmp_path), tmp_path / "m.onnx", external=True)
    wanted = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("m.onnx", "m.onnx.data")} == {wanted}


def test_a_long_name(tmp_path: Path) -> None:
    name = "m" * 244 + ".onnx"
    write_model(_inside(tmp_path), tmp_path / name, external=True)
    np.testing.assert_array_equal(_run(tmp_path / name), _run(tmp_path / "inside.onnx"))


@pytest.mark.parametrize("name", ["absent/m.onnx", "folder", "file/m.onnx", "", "m" * 300 + ".onnx", "a\0b"])
def test_targets_that_cannot_be(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / "folder").mkdir(parents=True)
    (out / "file").write_bytes(b"old")
    with pytest.raises(UsageError) as caught:
        write_model(_inside(tmp_path), os.path.join(out, name) if name else "", external=True)
    assert "\n" not in str(caught.value)
    assert _names(out) == {"folder", "file"}


def test_a_folder_where_the_data_file_goes(tmp_path: Path) -> None:
    (tmp_path / "m.onnx.data").mkdir()
    with pytest.raises(UsageError, match="taken by a folder"):
        write_model(_inside(tmp_path), tmp_path / "m.onnx", external=True)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        write_model(_inside(tmp_path), out / "m.onnx")


# --- all or nothing


def _failing(real: Callable[..., Any], at: int, error: BaseException) -> Callable[..., Any]:
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return real(*arguments, **options)

    return call


FAILURES = [
    pytest.param(exporter, "_pieces", 1, id="first-weight"),
    pytest.param(exporter, "_pieces", 2, id="second-weight"),
    pytest.param(exporter, "_write_proto", 1, id="model-file"),
    pytest.param(exporter.os, "open", 1, id="create-data"),
    pytest.param(exporter.os, "rename", 1, id="old-data-aside"),
    pytest.param(exporter.os, "replace", 1, id="data-into-place"),
    pytest.param(exporter.os, "replace", 2, id="model-into-place"),
]


@pytest.mark.parametrize(("owner", "name", "at"), FAILURES)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [True, False])
def test_nothing_is_left_behind_and_nothing_is_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    at: int,
    error: BaseException,
    existing: bool,
) -> None:
    model = _inside(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    if existing:
        (out / "m.onnx").write_bytes(b"old model")
        (out / "m.onnx.data").write_bytes(b"old data")
    elif name == "rename":
        pytest.skip("nothing to put aside")
    before = _bytes(out)
    expected = UsageError if isinstance(error, OSError) else KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _failing(getattr(owner, name), at, error))
        with pytest.raises(expected):
            write_model(model, out / "m.onnx", external=True)
    assert _bytes(out) == before
    write_model(model, out / "m.onnx", external=True)
    np.testing.assert_array_equal(_run(out / "m.onnx"), _run(tmp_path / "inside.onnx"))


@pytest.mark.parametrize("change", ["shorter", "gone", "link", "pipe"])
def test_a_data_file_that_changed_since_it_was_read(tmp_path: Path, change: str) -> None:
    source = _outside(tmp_path / "in")
    model, data = _read(source), source.parent / "weights.bin"
    if change == "shorter":
        os.truncate(data, 1000)
    else:
        data.unlink()
    if change == "link":
        data.symlink_to("/etc/passwd")
    elif change == "pipe":
        os.mkfifo(data)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(AccelcError) as caught:
        write_model(model, out / "m.onnx")
    assert "\n" not in str(caught.value)
    assert _names(out) == set()


def test_external_data_that_cannot_move(tmp_path: Path) -> None:
    """Whatever stays external without a known file is refused, not written as a dangling reference."""
    proto = _proto((SMALL,))
    sparse = proto.graph.sparse_initializer.add(dims=[20])
    sparse.values.CopyFrom(TensorProto(name="s", data_type=1, dims=[8], data_location=TensorProto.EXTERNAL))
    sparse.values.external_data.add(key="location", value="w.bin")
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [8], range(8)))
    proto.graph.output.append(helper.make_tensor_value_info("s", 1, [20]))
    (tmp_path / "w.bin").write_bytes(bytes(32))
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="cannot be moved"):
        write_model(_read(tmp_path / "in.onnx"), tmp_path / "m.onnx")
    assert _names(tmp_path) == {"in.onnx", "w.bin"}
