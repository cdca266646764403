"""Images with a declared preprocessing, and tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T

from accelc.data import Dataset, InputSpec, Preprocessing, open_dataset
from accelc.data.preprocessing import EXAMPLE
from accelc.errors import UsageError


def tensor(name: str, elem_type: int, *shape: int | str | None) -> InputSpec:
    return InputSpec(name, "tensor", elem_type, shape)


ROWS = (tensor("x", T.FLOAT, "batch", 4), tensor("ids", T.INT64, "batch", "seq"))
ONE = (tensor("x", T.FLOAT, "batch", 4),)
IMAGE = (tensor("image", T.FLOAT, "batch", 3, 4, 4),)


def numbers(count: int, width: int = 4) -> np.ndarray[Any, Any]:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def values(data: Dataset, name: str = "x") -> list[np.ndarray[Any, Any]]:
    return [feed.values[name] for feed in data]


# --- images


def test_preprocessing_reads_what_it_writes(tmp_path: Path) -> None:
    given = Preprocessing.parse(EXAMPLE)
    assert given == Preprocessing((256,), (224,), 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    other = Preprocessing.parse("resize=224x320, layout=nhwc, channels=gray, filter=bicubic, mean=0.5")
    for each in (given, other, Preprocessing()):
        assert Preprocessing.parse(str(each)) == each
    (tmp_path / "p.toml").write_text('resize = 256\ncrop = [224, 224]\nscale = "1/255"\n', encoding="utf-8")
    (tmp_path / "p.json").write_text('{"resize": 256, "crop": "224x224", "scale": 0.00392156862745098}')
    assert Preprocessing.parse(str(tmp_path / "p.toml")) == Preprocessing.parse(str(tmp_path / "p.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resize", "resize has no value; an example is resize=256"),
        ("size=3", "preprocessing has no size; it has resize, crop"),
        ("crop=big", "crop cannot be 'big'"),
        ("crop=1x2x3", "crop cannot be 1x2x3; it is a size such as 224 or 224x320"),
        ("scale=1/0", "scale cannot be '1/0'"),
        ("mean=1:2", "mean cannot be 1.0:2.0; it is one number or 3 joined by ':'"),
        ("std=0", "std cannot be 0; it is other than zero"),
        ("layout=chw", "layout cannot be chw; it is nchw or nhwc"),
        ("channels=cmyk", "channels cannot be cmyk; it is one of rgb, bgr, gray"),
        ("crop=3,crop=4", "crop is given twice"),
        ("gone.toml", "gone.toml: cannot read the preprocessing"),
    ],
)
def test_preprocessing_that_makes_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocessing.parse(text)


def save_image(path: Path, array: np.ndarray[Any, Any]) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    path.parent.mkdir(exist_ok=True, parents=True)
    pillow.fromarray(array.astype(np.uint8)).save(path)


def test_images_of_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pillow.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a.png: cannot be read as an image: it holds more than 8 bits"):
        open_dataset(tmp_path, IMAGE, preprocessing="crop=4")


def test_images_are_prepared_as_declared(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3))
    save_image(tmp_path / "cat" / "a.png", pixels)
    save_image(tmp_path / "dog" / "b.png", pixels[::-1])
    text = "crop=4,scale=1/255,mean=0.1:0.2:0.3,std=0.5:0.25:0.125"
    data = open_dataset(tmp_path, IMAGE, preprocessing=text)
    first = values(data, "image")[0]
    wanted = (pixels[1:5, 2:6] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.125]
    np.testing.assert_allclose(first, wanted.transpose(2, 0, 1)[None], rtol=1e-5, atol=1e-6)
    assert first.dtype == np.float32
    assert data.labels is not None
    assert (data.count, data.labels.tolist()) == (2, [0, 1])
    assert "classes are the sub-folders in sorted order: 0 cat, 1 dog" in data.notes[0]
    turned = (tensor("image", T.FLOAT, 1, 4, 4, 3),)
    nhwc = open_dataset(tmp_path, turned, preprocessing="crop=4,layout=nhwc,channels=bgr")
    assert np.array_equal(values(nhwc, "image")[0][0], pixels[1:5, 2:6, ::-1].astype(np.float32))
    raw = (tensor("image", T.UINT8, None, 3, 6, 8),)
    assert np.array_equal(
        values(open_dataset(tmp_path, raw, preprocessing=""), "image")[0][0], pixels.transpose(2, 0, 1)
    )
    shrunk = open_dataset(tmp_path, (tensor("image", T.FLOAT, None, 1, 3, 4),), preprocessing="resize=3,channels=gray")
    assert values(shrunk, "image")[0].shape == (1, 1, 3, 4)
    pair = (tensor("image", T.FLOAT, 2, 3, 6, 8),)
    both = open_dataset(tmp_path, pair, preprocessing="")
    assert (both.count, [each.shape for each in values(both, "image")]) == (1, [(2, 3, 6, 8)])


def test_samples_that_fill_no_batch_are_named(tmp_path: Path) -> None:
    for place in range(5):
        save_image(tmp_path / f"{place}.png", np.full((4, 4, 3), place))
    data = open_dataset(tmp_path, (tensor("image", T.FLOAT, 2, 3, 4, 4),), preprocessing="")
    assert [each[:, 0, 0, 0].tolist() for each in values(data, "image")] == [[0, 1], [2, 3]]
    assert any("the last 1 samples are left out: the model takes 2 at a time" in note for note in data.notes)
    assert [each[:, 0, 0, 0].tolist() for each in values(data.shard(1, 2), "image")] == [[2, 3]]


def test_classes_of_images_come_from_numbers_and_lists(tmp_path: Path) -> None:
    for place in (2, 10):
        save_image(tmp_path / "n" / str(place) / "a.png", np.zeros((4, 4, 3)))
    data = open_dataset(tmp_path / "n", IMAGE, preprocessing="crop=4")
    assert data.labels is not None
    assert sorted(data.labels.tolist()) == [2, 10]
    for name in ("a.png", "b.png"):
        save_image(tmp_path / "l" / name, np.zeros((4, 4, 3)))
    assert open_dataset(tmp_path / "l", IMAGE, preprocessing="crop=4").labels is None
    listing = tmp_path / "l" / "labels.csv"
    listing.write_text("file,class\nb.png,7\na.png,3\n", encoding="utf-8")
    labels = open_dataset(tmp_path / "l", IMAGE, preprocessing="crop=4").labels
    assert labels is not None
    assert labels.tolist() == [3, 7]
    listing.write_text("a.png,3\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"labels.csv: has no line for b.png"):
        open_dataset(tmp_path / "l", IMAGE, preprocessing="crop=4")
    listing.write_text("a.png,3\nb.png,cat\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"line 2 is not file,class: b\.png,cat; a class is a number"):
        open_dataset(tmp_path / "l", IMAGE, preprocessing="crop=4")


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", np.zeros((4, 4, 3)))
    with pytest.raises(UsageError, match='not declared; say it with --preprocess, such as "resize=256'):
        open_dataset(tmp_path, IMAGE)
    with pytest.raises(UsageError, match=r"wants images 3x4x4: the preprocessing gives 4x4x3 \(layout=nhwc\)"):
        open_dataset(tmp_path, IMAGE, preprocessing="layout=nhwc")
    with pytest.raises(UsageError, match=r"a.png: is smaller than the crop 9x9"):
        open_dataset(tmp_path, IMAGE, preprocessing="crop=9")
    with pytest.raises(UsageError, match=r"only a model with one input of rank 3 or 4: x of rank 2, ids of rank 2"):
        open_dataset(tmp_path, ROWS, preprocessing="crop=4")
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"b.png: cannot be read as an image"):
        list(open_dataset(tmp_path, IMAGE, preprocessing=""))


# --- parquet


def save_table(path: Path, **columns: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=3)


def float_lists(rows: Iterator[Any] | list[Any]) -> Any:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return pyarrow.array(list(rows), pyarrow.list_(pyarrow.float32()))


def test_rows_of_tables_are_samples(tmp_path: Path) -> None:
    columns = {"x": float_lists(numbers(7).tolist()), "ids": [[1] * (2 + place % 2) for place in range(7)]}
    save_table(tmp_path / "a.parquet", **columns, labels=list(range(7)))
    save_table(tmp_path / "b.parquet", **columns, labels=list(range(7, 14)))
    data = open_dataset(tmp_path, ROWS)
    assert np.array_equal(np.concatenate(values(data)), np.concatenate([numbers(7)] * 2))
    assert [each.shape for each in values(data, "ids")][:2] == [(1, 2), (1, 3)]
    assert data.labels is not None
    assert (data.count, data.labels.tolist()) == (14, list(range(14)))
    assert [int(labels[0]) for _, labels in data.shard(3, 5).labelled() if labels is not None] == [3, 8, 13]
    assert next(iter(open_dataset(tmp_path / "a.parquet", ROWS))).description == "a.parquet[0]"
    nested = (tensor("x", T.FLOAT, "batch", 2, 2), ROWS[1])
    assert values(open_dataset(tmp_path, nested))[0].shape == (1, 2, 2)


def test_tables_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    save_table(file, x=float_lists(numbers(3).tolist()), idx=[1, 2, 3])
    with pytest.raises(UsageError, match="column idx is not an input of the model; did you mean ids"):
        open_dataset(file, ROWS)
    save_table(file, x=float_lists([[1.0] * 4, None]))
    with pytest.raises(UsageError, match=r"a.parquet\[1\]: column x has no value"):
        list(open_dataset(file, ONE))
    save_table(file, x=float_lists([[1.0] * 4, [1.0, 2.0, 3.0, None]]))
    with pytest.raises(UsageError, match=r"a.parquet\[1\]: column x has no value"):
        list(open_dataset(file, ONE))
    save_table(file, x=float_lists([[1.0] * 4, [1.0] * 3]))
    with pytest.raises(UsageError, match=r"a.parquet\[1\]: input x wants shape batchx4, got 1x3"):
        list(open_dataset(file, ONE))
    save_table(file, x=float_lists([]))
    with pytest.raises(UsageError, match="holds no samples"):
        list(open_dataset(file, ONE))
    file.write_bytes(b"no table")
    with pytest.raises(UsageError, match=r"a.parquet: cannot be read as .parquet"):
        open_dataset(file, ONE)
