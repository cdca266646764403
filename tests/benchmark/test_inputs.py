"""What models are run on: sizes that are asked for, values that all cases share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_models import case, options, write

from accelc.benchmark.inputs import Inputs, feeds_for, fitting, shapes_in_words
from accelc.benchmark.plan import Case
from accelc.errors import BackendError, UsageError
from accelc.runner import RuntimeFailure

TWO = "two (float[batch, 4] x, int64[n] k, float[2, batch] h) => (float[batch, 4] y) { y = Mul(x, x) }"


def accept(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model that runs on everything."""
    return {"y": np.ones(1, np.float32)}


def made(one: Case, *others: Case, **more: Any) -> Inputs:
    return feeds_for(one, options(one.path, **more), accept, others)


def test_generated_inputs_have_usual_sizes_and_different_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", "a (float[batch, 3, height, width] x) => (float[1] y) { y = ReduceMean(x) }")
    found = made(case(path))
    assert [feed.values["x"].shape for feed in found.feeds] == [(1, 3, 224, 224)] * 3
    assert found.items == 1
    assert not np.array_equal(found.feeds[0].values["x"], found.feeds[1].values["x"])
    assert shapes_in_words(found.feeds[0]) == "x 1x3x224x224"


def test_a_model_that_takes_less_than_usual_is_run_on_one_item_all_the_same(tmp_path: Path) -> None:
    one = case(
        write(tmp_path / "a.onnx", "a (int64[batch, sequence] ids) => (int64[batch, sequence] y) { y = Abs(ids) }")
    )

    def short(values: Mapping[str, Any]) -> Mapping[str, Any]:
        if values["ids"].shape[1] > 40:
            raise RuntimeFailure("run", "the runtime cannot run the model", why="too long")
        return {"y": values["ids"]}

    found = feeds_for(one, options(one.path), short)
    assert [feed.values["ids"].shape for feed in found.feeds] == [(1, 32)] * 3


def test_the_same_seed_gives_the_same_values(tmp_path: Path) -> None:
    one = case(write(tmp_path / "a.onnx"))
    values = [made(one, seed=seed).feeds[0].values["x"] for seed in (3, 3, 4)]
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_a_batch_is_the_size_of_every_dimension_that_counts_items(tmp_path: Path) -> None:
    found = made(case(write(tmp_path / "two.onnx", TWO), batch=8))
    shapes = {name: value.shape for name, value in found.feeds[0].values.items()}
    assert shapes["x"] == (8, 4)
    assert shapes["h"] == (2, 8)
    assert found.items == 8


def test_inputs_larger_than_the_memory_are_refused(tmp_path: Path) -> None:
    one = case(write(tmp_path / "m.onnx", "m (float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }"), batch=1000)
    with pytest.raises(BackendError, match=r"3 feed sets take 48\.00 kB of 40\.00 kB; choose a smaller batch or shape"):
        made(one, memory_limit=40_000)
    assert made(one, memory_limit=48_000).items == 1000


def test_a_fixed_batch_is_told(tmp_path: Path) -> None:
    fixed = write(tmp_path / "fixed.onnx", "f (float[2, 4] x) => (float[2, 4] y) { y = Relu(x) }")
    assert made(case(fixed, batch=2)).items == 2
    with pytest.raises(UsageError, match=r"fixed\.onnx: input x is 2x4, a batch of 8 is asked for; leave"):
        made(case(fixed, batch=8))
    scalar = write(tmp_path / "scalar.onnx", "s (float x) => (float y) { y = Relu(x) }")
    with pytest.raises(UsageError, match="the model has no batch, a batch of 8 is asked for"):
        made(case(scalar, batch=8))


def test_shapes_fix_inputs_and_symbols(tmp_path: Path) -> None:
    path = write(tmp_path / "two.onnx", TWO)
    by_input = made(case(path, shapes={"x": (3, 4)})).feeds[0].values
    assert by_input["x"].shape == (3, 4)
    assert by_input["h"].shape == (2, 3)
    by_symbol = made(case(path, shapes={"batch": (5,), "k": ("?",)})).feeds[0].values
    assert by_symbol["x"].shape == (5, 4)


@pytest.mark.parametrize(
    ("shapes", "batch", "words"),
    [
        ({"z": (1, 2)}, None, "z=1x2: z is neither an input nor a symbol of the model"),
        ({"x": (1, 2, 3)}, None, "input x has 2 dimensions, not 3; it is batchx4"),
        ({"x": (1, 5)}, None, "dimension 1 of input x is 4, 5 is asked for"),
        ({"x": (1, 4)}, 8, "dimension 0 of input x is 1, 8 is asked for"),
        ({"x": ("wide", 4)}, None, "a dimension of x cannot be 'wide'"),
    ],
)
def test_shapes_that_do_not_fit_are_one_line(tmp_path: Path, shapes: Any, batch: int | None, words: str) -> None:
    path = write(tmp_path / "two.onnx", TWO)
    with pytest.raises(UsageError) as caught:
        made(case(path, shapes=shapes, batch=batch))
    assert str(caught.value).startswith(f"{path}: {words}")


def test_a_size_that_another_model_fixes_is_used(tmp_path: Path) -> None:
    one = case(write(tmp_path / "a.onnx"))
    other = case(write(tmp_path / "b.onnx", "b (float[6, 4] x) => (float[6, 4] y) { y = Relu(x) }"))
    assert made(one, other).feeds[0].values["x"].shape == (6, 4)
    asked = case(one.path, batch=2)
    assert made(asked, other).feeds[0].values["x"].shape == (2, 4)


def test_the_users_data_in_batches(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=np.arange(40, dtype=np.float32).reshape(10, 4))
    path = write(tmp_path / "a.onnx")
    single = made(case(path), inputs=data)
    assert len(single.feeds) == 8
    assert single.items == 1
    four = made(case(path, batch=4), inputs=data)
    assert [feed.values["x"].shape for feed in four.feeds] == [(4, 4)] * 2
    assert four.items == 4
    assert four.notes == ("1 feed set(s) without 4 items are left out",)
    with pytest.raises(UsageError, match=r"data\.npz: no 16 samples make a batch: the first feed set holds 10"):
        made(case(path, batch=16), inputs=data)


def test_data_that_does_not_fit_names_its_place(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, z=np.zeros((2, 4), np.float32))
    with pytest.raises(UsageError, match=r"data\.npz: array z is not an input of the model"):
        made(case(write(tmp_path / "a.onnx")), inputs=data)


def test_other_models_take_the_same_feeds_or_say_why_not(tmp_path: Path) -> None:
    found = made(case(write(tmp_path / "a.onnx", "a (int32[n] k) => (int32[n] y) { y = Add(k, k) }")))

    def fit(text: str) -> Any:
        return fitting(found, case(write(tmp_path / "b.onnx", text)))

    feeds, notes = fit("b (int64[n] k) => (int64[n] y) { y = Add(k, k) }")
    assert feeds[0].values["k"].dtype == np.int64
    assert notes == ("input k: int32 converted to int64",)
    with pytest.raises(UsageError, match="has other inputs: it takes j, and what it is compared with k"):
        fit("b (int32[n] j) => (int32[n] y) { y = Add(j, j) }")
    with pytest.raises(UsageError, match="input k wants shape 3, got "):
        fit("b (int32[3] k) => (int32[3] y) { y = Add(k, k) }")
    with pytest.raises(UsageError, match="input k wants bool, got int32"):
        fit("b (bool[n] k) => (bool[n] y) { y = Not(k) }")


def test_a_model_that_runs_on_nothing_says_what_the_runtime_said(tmp_path: Path) -> None:
    one = case(write(tmp_path / "a.onnx"))

    def refuse(values: Mapping[str, Any]) -> Mapping[str, Any]:
        raise RuntimeFailure("run", "the runtime cannot run the model", why="shapes differ")

    with pytest.raises(UsageError, match=r"runs on none of the generated inputs: shapes differ; give some with"):
        feeds_for(one, options(one.path), refuse)


def test_a_model_that_brings_its_process_down_is_tried_once(tmp_path: Path) -> None:
    one = case(write(tmp_path / "a.onnx"))
    tried = []

    def crash(values: Mapping[str, Any]) -> Mapping[str, Any]:
        tried.append(values)
        raise RuntimeFailure("crash", "the runtime crashed")

    with pytest.raises(RuntimeFailure, match="the runtime crashed"):
        feeds_for(one, options(one.path), crash)
    assert len(tried) == 1
