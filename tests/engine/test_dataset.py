"""Data as a stream: every kind of source, what is checked against the model, shards and batches."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import numpy_helper

from accelc.data import Dataset, InputSpec, check_preprocess, load_data, open_dataset
from accelc.data import load as loading
from accelc.data.arrays import NpzPart, PackedRows, StoredRows
from accelc.errors import UsageError


def tensor(name: str, elem_type: int, *shape: int | str | None) -> InputSpec:
    return InputSpec(name, "tensor", elem_type, shape)


ROWS = (tensor("x", T.FLOAT, "batch", 4), tensor("ids", T.INT64, "batch", "seq"))
ONE = (tensor("x", T.FLOAT, "batch", 4),)


def numbers(count: int, width: int = 4) -> np.ndarray[Any, Any]:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def values(data: Dataset, name: str = "x") -> list[np.ndarray[Any, Any]]:
    return [feed.values[name] for feed in data]


def module(tmp_path: Path, text: str, function: str = "feeds") -> str:
    path = tmp_path / "user.py"
    path.write_text(f"import numpy as np\n\n{text}", encoding="utf-8")
    return f"{path}:{function}"


# --- arrays


def test_arrays_are_read_again_in_every_iteration(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=numbers(3), labels=np.array([5, 6, 7]))
    data = open_dataset(tmp_path / "d.npz", ONE)
    assert (data.count, len(values(data)), len(values(data))) == (3, 3, 3)
    assert [feed.description for feed in data] == ["d.npz[0]", "d.npz[1]", "d.npz[2]"]
    assert data.labels is not None
    assert data.labels.tolist() == [5, 6, 7]


def test_a_folder_of_npz_is_read_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(4):
        np.savez(tmp_path / f"{place}.npz", x=numbers(2) + 100 * place)
    opened: list[str] = []
    load = NpzPart.load

    def watched(self: NpzPart, name: str) -> Any:
        opened.append(self.path.name)
        return load(self, name)

    monkeypatch.setattr(NpzPart, "load", watched)
    data = open_dataset(tmp_path, ONE)
    assert (data.count, opened) == (8, [])
    first = list(itertools.islice(data, 3))
    assert opened == ["0.npz", "1.npz"]
    assert first[2].values["x"][0, 0] == 100


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_large_members_stay_in_their_file(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelc.data.arrays._WHOLE_BYTES", 0)
    save(tmp_path / "d.npz", x=numbers(5), **{"a longer name": np.zeros(1), "turned": np.asfortranarray(numbers(5))})
    part = NpzPart(tmp_path / "d.npz")
    rows = part.load("x")
    assert isinstance(rows, StoredRows if save is np.savez else PackedRows)
    assert np.array_equal(rows[1:4], numbers(5)[1:4])
    assert np.array_equal(rows[4], numbers(5)[4])
    assert np.array_equal(rows[:], numbers(5))
    assert isinstance(part.load("turned"), np.ndarray)
    save(tmp_path / "e.npz", x=numbers(5), labels=np.arange(5))
    data = open_dataset(tmp_path / "e.npz", ONE)
    assert np.array_equal(np.concatenate(values(data)), numbers(5))
    assert data.labels is not None


def test_a_packed_array_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    count, width = 256, 1 << 16
    np.savez_compressed(tmp_path / "d.npz", x=np.repeat(np.arange(count, dtype=np.float32)[:, None], width, axis=1))
    data = open_dataset(tmp_path / "d.npz", (tensor("x", T.FLOAT, "batch", width),))
    tracemalloc.start()
    try:
        seen = [feed.values["x"][0, -1] for feed in data]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == list(range(count))
    assert [feed.values["x"][0, 0] for feed in data.shard(1, 100)] == [1, 101, 201]
    assert most < 8 << 20


@pytest.mark.parametrize("large", [True, False])
def test_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    if large:
        monkeypatch.setattr("accelc.data.arrays._WHOLE_BYTES", 0)
    np.savez_compressed(tmp_path / "d.npz", x=np.random.default_rng(0).random((64, 4), np.float32))
    raw = bytearray((tmp_path / "d.npz").read_bytes())
    raw[400:500] = bytes(100)
    (tmp_path / "d.npz").write_bytes(raw)
    with pytest.raises(UsageError, match=r"d.npz: cannot be read"):
        list(open_dataset(tmp_path / "d.npz", ONE))
    (tmp_path / "n").mkdir()
    np.save(tmp_path / "n" / "x.npy", numbers(9))
    with open(tmp_path / "n" / "x.npy", "r+b") as file:
        file.truncate(200)
    with pytest.raises(UsageError, match=r"x.npy: (the file ends too early|cannot be read)"):
        list(open_dataset(tmp_path / "n", ONE))


def test_a_cache_that_is_still_empty(tmp_path: Path) -> None:
    specs = (ROWS[0], tensor("past", T.FLOAT, "batch", 2, "past_len", 3))
    np.savez(tmp_path / "d.npz", x=numbers(2), past=np.zeros((2, 2, 0, 3), np.float32))
    assert [each.shape for each in values(open_dataset(tmp_path / "d.npz", specs), "past")] == [(1, 2, 0, 3)] * 2


def test_what_is_true_of_many_files_is_said_once(tmp_path: Path) -> None:
    for place in range(20):
        np.savez(tmp_path / f"{place:02}.npz", x=numbers(2).astype(np.uint8))
    data = open_dataset(tmp_path, ONE)
    assert [len(list(each)) for each in (data.shard(0, 40), data)] == [1, 40]
    assert data.notes == ["00.npz and others: input x: uint8 converted to float32"]


def test_preprocessing_without_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=numbers(2))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    for sources in ([], [None], [tmp_path / "d.npz"], [tmp_path], ["user:feeds"]):
        with pytest.raises(UsageError, match="--preprocess is for folders of images"):
            check_preprocess("crop=4", sources)
        check_preprocess(None, sources)
    check_preprocess("crop=4", [tmp_path / "d.npz", tmp_path / "photos"])
    check_preprocess("crop=4", [tmp_path / "none"])  # what is not there is told when it is opened


def test_a_folder_of_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers(6))
    np.save(tmp_path / "model_ids_0.npy", np.ones((6, 3), np.int64))
    np.save(tmp_path / "labels.npy", np.arange(6))
    specs = (ROWS[0], tensor("model/ids:0", T.INT64, "batch", "seq"))
    data = open_dataset(tmp_path, specs)
    assert data.count == 6
    assert np.array_equal(np.concatenate(values(data)), numbers(6))
    assert data.labels is not None
    assert data.labels.tolist() == list(range(6))
    np.save(tmp_path / "labels.npy", np.arange(5))
    with pytest.raises(UsageError, match="there are 5 labels for 6 samples"):
        open_dataset(tmp_path, specs)
    (tmp_path / "x.npy").write_bytes(b"broken")
    with pytest.raises(UsageError, match=r"x.npy: cannot be read as .npy"):
        open_dataset(tmp_path, specs)


def test_a_leading_axis_of_tokens_is_one_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", ids=np.arange(70))
    (feed,) = open_dataset(tmp_path / "d.npz", (tensor("ids", T.INT64, "sequence_length"),))
    assert feed.values["ids"].shape == (70,)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": numbers(3), "labels": np.arange(4)}, "there are 4 labels for 3 samples"),
        ({"x": numbers(3), "labels": np.array(["a", "b", "c"])}, "labels are <U1, not numbers; give class numbers"),
        ({"x": np.zeros((0, 4), np.float32)}, "holds no samples"),
        ({"y": numbers(3)}, "array y is not an input of the model"),
        ({"x": numbers(3, 5)}, "input x wants shape batchx4, got 1x5"),
    ],
)
def test_what_does_not_fit_is_known_before_anything_is_read(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UsageError, match=message) as caught:
        open_dataset(tmp_path / "d.npz", ONE)
    assert "\n" not in str(caught.value)


# --- what holds for every kind


def test_shards_hold_each_feed_set_once(tmp_path: Path) -> None:
    for place in range(3):
        np.savez(tmp_path / f"{place}.npz", x=numbers(3) + 12 * place)
    data = open_dataset(tmp_path, ONE)
    shards = [data.shard(place, 4) for place in range(4)]
    assert [shard.count for shard in shards] == [3, 2, 2, 2]
    found = [[int(each[0, 0]) // 4 for each in values(shard)] for shard in shards]
    assert found == [[0, 4, 8], [1, 5], [2, 6], [3, 7]]
    assert [int(each[0, 0]) // 4 for each in values(shards[0].shard(1, 2))] == [4]
    with pytest.raises(ValueError, match="no shard 4 of 4"):
        data.shard(4, 4)


def test_samples_of_the_same_shape_are_joined(tmp_path: Path) -> None:
    text = (
        "def feeds():\n"
        "    for place, length in enumerate([3, 3, 3, 5, 3, 3]):\n"
        "        yield {'x': np.full((1, 4), place, np.float32), 'ids': np.ones((1, length), np.int64)}, place\n"
    )
    data = open_dataset(module(tmp_path, text), ROWS)
    joined = list(data.batched(2).labelled())
    assert [feed.values["ids"].shape for feed, _ in joined] == [(2, 3), (1, 3), (1, 5), (2, 3)]
    assert [labels.tolist() for _, labels in joined if labels is not None] == [[0, 1], [2], [3], [4, 5]]
    assert data.batched(2).count is None


@pytest.mark.parametrize(
    "specs",
    [
        (tensor("x", T.FLOAT, 1, 4),),
        (tensor("x", T.FLOAT, "batch", 4), tensor("y", T.FLOAT, "other", 4)),
        (tensor("x", T.FLOAT, None, 4), tensor("y", T.FLOAT, None, 4)),
        (tensor("x", T.FLOAT, "sequence", 4),),
    ],
)
def test_samples_are_not_joined_where_the_leading_axis_may_mean_something_else(
    tmp_path: Path, specs: tuple[InputSpec, ...]
) -> None:
    arrays: dict[str, Any] = {spec.name: np.zeros((1, 4), np.float32) for spec in specs}
    np.savez(tmp_path / "d.npz", **arrays)
    data = open_dataset(tmp_path / "d.npz", specs)
    assert data.batched(8) is data


def test_nan_is_noted_and_for_calibration_refused(tmp_path: Path) -> None:
    array = numbers(3)
    array[1, 2] = np.nan
    np.savez(tmp_path / "d.npz", x=array)
    assert load_data(tmp_path / "d.npz", ONE).notes == ("d.npz: x holds NaN or Inf, which hide differences",)
    data = open_dataset(tmp_path / "d.npz", ONE, finite=True)
    with pytest.raises(UsageError, match=r"d.npz\[1\]: input x holds NaN or Inf"):
        list(data)
    with pytest.raises(UsageError, match="NaN or Inf"):
        data.check()


def test_verification_data_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "d.npz", x=numbers(64))
    monkeypatch.setattr(loading, "MOST_BYTES", 600)
    with pytest.raises(UsageError, match=r"holds more than .* GiB; give fewer samples"):
        load_data(tmp_path / "d.npz", ONE)


def test_some_feed_sets_are_spread_over_the_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=numbers(20), labels=np.arange(20))
    few = load_data(tmp_path / "d.npz", ONE, batch_size=1, most=4)
    assert few.labels is not None
    assert few.labels.tolist() == [0, 5, 10, 15]
    assert len(load_data(tmp_path / "d.npz", ONE, batch_size=1, most=99).feeds) == 20


# --- functions


def test_a_function_is_called_for_every_iteration(tmp_path: Path) -> None:
    text = (
        "CALLS = []\n\n"
        "def feeds():\n"
        "    CALLS.append(1)\n"
        "    for place in range(3):\n"
        "        yield {'x': [[0.5, 1.5, 2.5, len(CALLS)]], 'labels': place}\n"
    )
    data = open_dataset(module(tmp_path, text), ONE)
    assert data.count is None
    assert [each[0, 3] for each in values(data)] == [1, 1, 1]
    assert [each[0, 3] for each in values(data.shard(1, 2))] == [2]
    assert values(data)[0].dtype == np.float32
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2]


def test_a_module_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feeds_here.py").write_text("def three():\n    return [{'x': [[1.0] * 4]}] * 3\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert len(values(open_dataset("feeds_here:three", ONE))) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    yield {'x': np.zeros((1, 4), np.float32)}\n    raise KeyError('gone')", r"fails at sample 1: KeyError"),
        ("    return iter(())", r":feeds: holds no samples; give at least one"),
        ("    return 3", "is not a list or generator of feed sets: it returns a int"),
        ("    yield np.zeros((1, 4))", r"feeds\[0\]: is no feed set: it is a ndarray; yield a dict"),
        ("    yield {'x': np.zeros((1, 5), np.float32)}", r"feeds\[0\]: input x wants shape batchx4, got 1x5"),
        ("    yield {'x': np.full((1, 4), 0.1)}", r"input x wants float32, got float64"),
        ("    yield {'z': np.zeros((1, 4))}", r"array z is not an input of the model"),
        ("    yield {'x': np.zeros((1, 4), np.float32)}, 'cat'", r"labels are str\d*, not numbers"),
        (
            "    yield {'x': [[1.0] * 4]}, 1\n    yield {'x': [[1.0] * 4]}",
            "some samples have labels and some have none",
        ),
    ],
)
def test_functions_that_give_the_wrong_thing(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        list(open_dataset(module(tmp_path, f"def feeds():\n{body}\n"), ONE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere_at_all:feeds", "nowhere_at_all:feeds: the data cannot be imported: ModuleNotFoundError"),
        ("math:no_such", "math has no no_such"),
        ("math:pi", "pi is no function"),
        ("gone.py:feeds", "gone.py: no such file"),
        ("gone.npz", "gone.npz: no such file or folder; give a .npz file or a folder of them, a folder of .npy"),
    ],
)
def test_functions_and_files_that_are_not_there(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_dataset(source, ONE)


# --- test data


def write_proto(path: Path, array: np.ndarray[Any, Any], name: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(numpy_helper.from_array(array, name).SerializeToString())


def test_test_data_by_name_or_in_graph_order(tmp_path: Path) -> None:
    for place in (0, 1, 10, 2):
        folder = tmp_path / f"test_data_set_{place}"
        names = ("ids", "x") if place == 1 else ("", "")
        arrays: list[np.ndarray[Any, Any]] = [np.full((1, 4), place, np.float32), np.ones((1, 2), np.int64)]
        for number, (array, name) in enumerate(zip(arrays[:: -1 if place == 1 else 1], names, strict=True)):
            write_proto(folder / f"input_{number}.pb", array, name)
        write_proto(folder / "output_0.pb", arrays[0])
    data = open_dataset(tmp_path, ROWS)
    assert [float(each[0, 0]) for each in values(data)] == [0, 1, 2, 10]
    assert [feed.description for feed in data][1] == "test_data_set_1"
    assert open_dataset(tmp_path / "test_data_set_2", ROWS).count == 1
    np.save(tmp_path / "labels.npy", np.array([3, 1, 2, 0]))
    labels = open_dataset(tmp_path, ROWS).labels
    assert labels is not None
    assert labels.tolist() == [3, 1, 2, 0]
    (tmp_path / "test_data_set_2" / "input_0.pb").write_bytes(b"\xff\xff")
    with pytest.raises(UsageError, match=r"input_0.pb: cannot be read as .pb"):
        list(open_dataset(tmp_path, ROWS))
    (tmp_path / "test_data_set_2" / "input_0.pb").unlink()
    with pytest.raises(UsageError, match=r"holds 1 files input_K.pb: the model has 2 inputs \(x, ids\)"):
        open_dataset(tmp_path, ROWS)


def test_test_data_holds_sequences(tmp_path: Path) -> None:
    sequence = numpy_helper.from_list([np.zeros(2, np.float32), np.ones(3, np.float32)], "s")
    (tmp_path / "input_0.pb").write_bytes(sequence.SerializeToString())
    (feed,) = open_dataset(tmp_path, (InputSpec("s", "sequence", T.FLOAT, None, tensor("s", T.FLOAT, None)),))
    assert [each.tolist() for each in feed.values["s"]] == [[0, 0], [1, 1, 1]]
