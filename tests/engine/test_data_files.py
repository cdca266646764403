"""The user's own files: how they are read, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto as T

from accelc import data
from accelc.data import InputSpec
from accelc.errors import UsageError


def tensor(name: str, elem_type: int, *shape: int | str | None) -> InputSpec:
    return InputSpec(name, "tensor", elem_type, shape)


IMAGE = (tensor("image", T.FLOAT, "n", 1, 2, 2),)
ONE = (tensor("image", T.FLOAT, 1, 1, 2, 2),)


def saved(tmp_path: Path, name: str = "d.npz", **arrays: Any) -> Path:
    path = tmp_path / name
    np.savez(path, **arrays)
    return path


def test_one_feed_set(tmp_path: Path) -> None:
    array = np.ones((2, 1, 2, 2), np.float32)
    (feed,) = data.load_feeds(saved(tmp_path, image=array), IMAGE)
    assert np.array_equal(feed.values["image"], array)


def test_dynamic_leading_axis_gives_batches_in_order(tmp_path: Path) -> None:
    array = np.arange(70 * 4, dtype=np.float32).reshape(70, 1, 2, 2)
    loaded = data.load_data(saved(tmp_path, image=array, labels=np.arange(70)), IMAGE)
    assert [len(feed.values["image"]) for feed in loaded.feeds] == [32, 32, 6]
    assert np.array_equal(np.concatenate([feed.values["image"] for feed in loaded.feeds]), array)
    assert loaded.labels is not None
    assert np.array_equal(loaded.labels, np.arange(70))


def test_fixed_leading_axis_gives_sets_of_that_size(tmp_path: Path) -> None:
    array = np.zeros((5, 1, 2, 2), np.float32)
    feeds = data.load_feeds(saved(tmp_path, image=array), ONE)
    assert [feed.values["image"].shape for feed in feeds] == [(1, 1, 2, 2)] * 5
    with pytest.raises(UsageError, match="wants shape 2x1x2x2, got 5x1x2x2"):
        data.load_feeds(tmp_path / "d.npz", (tensor("image", T.FLOAT, 2, 1, 2, 2),))


def test_extra_axis_counts_samples_and_the_rest_is_shared(tmp_path: Path) -> None:
    specs = (tensor("x", T.FLOAT, "n", 2), tensor("sr", T.INT64))
    path = saved(tmp_path, x=np.zeros((3, 5, 2), np.float32), sr=np.int64(16000))
    feeds = data.load_feeds(path, specs)
    assert [(feed.values["x"].shape, int(feed.values["sr"])) for feed in feeds] == [((5, 2), 16000)] * 3
    two = (tensor("x", T.FLOAT, 2), tensor("y", T.FLOAT, 2))
    path = saved(tmp_path, x=np.zeros((3, 2), np.float32), y=np.zeros((4, 2), np.float32))
    with pytest.raises(UsageError, match=r"different numbers of samples: x 3, y 4"):
        data.load_feeds(path, two)


def test_inputs_of_different_length_are_one_set(tmp_path: Path) -> None:
    specs = (tensor("x", T.FLOAT, "n"), tensor("y", T.FLOAT, "m"))
    assert len(data.load_feeds(saved(tmp_path, x=np.zeros(50, np.float32), y=np.zeros(60, np.float32)), specs)) == 1
    one_name = (tensor("x", T.FLOAT, "n"), tensor("y", T.FLOAT, "n"))
    with pytest.raises(UsageError, match="dimension n has two sizes: it is 50 in x and 60 in y"):
        data.load_feeds(tmp_path / "d.npz", one_name)


def test_folder_is_read_in_order_and_labels_are_joined(tmp_path: Path) -> None:
    for place in range(3):
        saved(tmp_path, f"{place}.npz", image=np.full((1, 1, 2, 2), place, np.float32), labels=np.array([place]))
    loaded = data.load_data(tmp_path, IMAGE)
    assert [float(feed.values["image"].max()) for feed in loaded.feeds] == [0, 1, 2]
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [0, 1, 2]
    saved(tmp_path, "3.npz", image=np.zeros((1, 1, 2, 2), np.float32))
    with pytest.raises(UsageError, match="some files have labels"):
        data.load_data(tmp_path, IMAGE)


def test_types_are_converted_only_when_no_value_changes(tmp_path: Path) -> None:
    loaded = data.load_data(saved(tmp_path, image=np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2)), IMAGE)
    assert loaded.feeds[0].values["image"].dtype == np.float32
    assert loaded.notes == ("d.npz: input image: uint8 converted to float32",)
    path = saved(tmp_path, image=np.full((1, 1, 2, 2), 0.1))
    with pytest.raises(UsageError, match=r"image wants float32, got float64.*save it as float32"):
        data.load_data(path, IMAGE)
    with pytest.raises(UsageError, match="wants float32, got <U1"):
        data.load_data(saved(tmp_path, image=np.full((1, 1, 2, 2), "a")), IMAGE)
    text = data.load_feeds(saved(tmp_path, s=np.array(["a", "bc"])), (tensor("s", T.STRING, 2),))
    assert text[0].values["s"].tolist() == ["a", "bc"]
    with pytest.raises(UsageError, match="wants string, got int64"):
        data.load_feeds(saved(tmp_path, s=np.array([1, 2])), (tensor("s", T.STRING, 2),))
    kept = np.array([1.5, 2.5], ml_dtypes.bfloat16)
    assert np.array_equal(data.load_feeds(saved(tmp_path, x=kept), (tensor("x", T.BFLOAT16, 2),))[0].values["x"], kept)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"imagee": np.zeros((1, 1, 2, 2), np.float32)}, "array imagee is not an input.*did you mean image"),
        ({"qqq": np.zeros(1)}, "array qqq is not an input.*the inputs are image"),
        ({"labels": np.zeros(1)}, "no array for input image"),
        ({"image": np.zeros((1, 1, 2, 3), np.float32)}, "image wants shape nx1x2x2, got 1x1x2x3"),
        ({"image": np.zeros((2, 2), np.float32)}, "image wants shape nx1x2x2, got 2x2"),
        ({"image": np.zeros((0, 1, 1, 2, 2), np.float32)}, "holds no samples"),
        ({"image": np.array([{}], dtype=object)}, "cannot be read as"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        data.load_data(saved(tmp_path, **arrays), IMAGE)
    assert "\n" not in str(caught.value)
    assert "d.npz" in str(caught.value)


def test_files_that_are_not_npz_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        data.load_data(tmp_path / "none.npz", IMAGE)
    with pytest.raises(UsageError, match=r"holds no \.npz"):
        data.load_data(tmp_path, IMAGE)
    for name, content in {"a.npz": b"", "b.npz": b"PK\x03\x04 broken", "c.npz": b"text"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=r"(cannot be read as|is not an) \.npz"):
            data.load_data(tmp_path / name, IMAGE)
    np.save(tmp_path / "single.npy", np.zeros(2))
    with pytest.raises(UsageError, match="single array"):
        data.load_data(tmp_path / "single.npy", IMAGE)
    item = tensor("s", T.FLOAT, 2)
    with pytest.raises(UsageError, match=r"input s cannot be given.*sequence"):
        data.load_data(saved(tmp_path, s=np.zeros(2)), (InputSpec("s", "sequence", T.FLOAT, (2,), item),))


def test_top1_accuracy() -> None:
    scores = [np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[0.4, 0.6]])]
    assert data.top1_accuracy(scores, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    assert data.top1_accuracy([np.array([1, 0]), np.array([1])], np.array([1, 0, 0])) == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match="4 labels for 3 samples"):
        data.top1_accuracy(scores, np.array([1, 0, 0, 1]))
    with pytest.raises(UsageError, match="do not fit"):
        data.top1_accuracy([np.zeros((2, 3, 4))], np.array([1, 0]))
