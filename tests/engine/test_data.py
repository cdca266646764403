"""Signatures, hints and generated feeds."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper

from accelc import data
from accelc.data import Hints, InputSpec
from accelc.data.dims import Dimensions, DimPlan, evaluate, plans
from accelc.errors import AccelcError, UsageError
from accelc.runner import Runner


def tensor(name: str, elem_type: int, *shape: int | str | None) -> InputSpec:
    return InputSpec(name, "tensor", elem_type, shape)


def shapes(feed: data.Feed) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(value) for name, value in feed.values.items()}


def ordinary(specs: tuple[InputSpec, ...], count: int = 12, **options: Any) -> list[data.Feed]:
    feeds = data.generate(specs, **options)
    return [feed for feed, _ in zip(feeds, range(count), strict=False)]


BERT = (
    tensor("input_ids", T.INT64, "batch", "sequence"),
    tensor("attention_mask", T.INT64, "batch", "sequence"),
    tensor("token_type_ids", T.INT64, "batch", "sequence"),
)
GPT2 = (
    tensor("input_ids", T.INT64, "batch_size", "sequence_length"),
    tensor("attention_mask", T.INT64, "batch_size", "past_sequence_length + sequence_length"),
    tensor("position_ids", T.INT64, "batch_size", "sequence_length"),
    tensor("past_key_values.0.key", T.FLOAT, "batch_size", 4, "past_sequence_length", 8),
)


def test_signature_leaves_out_initializers_and_reads_every_kind() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", T.FLOAT, ["n", 3, None]),
            helper.make_tensor_value_info("w", T.FLOAT, [2]),
            helper.make_tensor_value_info("u", T.INT64, None),
            helper.make_tensor_sequence_value_info("s", T.FLOAT16, ["k"]),
            helper.make_value_info("o", helper.make_optional_type_proto(helper.make_tensor_type_proto(T.BOOL, [1]))),
            helper.make_value_info(
                "m", helper.make_map_type_proto(T.STRING, helper.make_tensor_type_proto(T.FLOAT, []))
            ),
            helper.make_value_info("sp", helper.make_sparse_tensor_type_proto(T.FLOAT, [2, 2])),
        ],
        [helper.make_tensor_value_info("y", T.FLOAT, None)],
        [helper.make_tensor("w", T.FLOAT, [2], [1.0, 2.0])],
    )
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    x, u, s, o, m, sp = data.signature(helper.make_model(graph))
    assert x == tensor("x", T.FLOAT, "n", None, None)
    assert (u.shape, u.rank, u.is_static) == (None, None, False)
    assert (s.kind, s.elem_type, s.shape, s.item) == ("sequence", T.FLOAT16, ("k",), tensor("s", T.FLOAT16, "k"))
    assert (o.kind, o.is_static) == ("optional", True)
    assert (m.kind, m.key_type, m.elem_type) == ("map", T.STRING, T.FLOAT)
    assert sp.kind == "sparse"
    assert data.output_signature(helper.make_model(graph))[0].shape is None


def test_dimensions_with_one_name_have_one_size_and_several_sizes_are_tried() -> None:
    feeds = ordinary(BERT)
    for feed in feeds:
        assert len(set(shapes(feed).values())) == 1
    batches, lengths = zip(*(shapes(feed)["input_ids"] for feed in feeds[:3]), strict=True)
    assert len(set(batches)) == 3
    assert 1 in batches
    assert any(length % 8 for length in lengths)
    assert feeds[0].description == "batch=2 sequence=8 normal"


def test_total_length_is_past_plus_sequence() -> None:
    for feed in ordinary(GPT2):
        found = shapes(feed)
        total, past = found["attention_mask"][1], found["past_key_values.0.key"][2]
        assert total == past + found["input_ids"][1]
        if feed.description.endswith("normal"):
            assert (feed.values["position_ids"][0] == np.arange(past, total)).all()
    by_name = (*GPT2[:1], tensor("attention_mask", T.INT64, "batch_size", "total_sequence_length"), *GPT2[2:])
    no_names = tuple(
        tensor(s.name, s.elem_type, *(d if isinstance(d, int) else None for d in s.shape or ())) for s in GPT2
    )
    for specs in (by_name, no_names):
        found = shapes(ordinary(specs)[0])
        assert found["attention_mask"][1] == found["past_key_values.0.key"][2] + found["input_ids"][1]


def test_a_past_of_zero_is_among_the_sets() -> None:
    assert any(shapes(feed)["past_key_values.0.key"][2] == 0 for feed in data.generate(GPT2))


@pytest.mark.parametrize(
    ("text", "value"),
    [("2*a + b", 13), ("floor((a - 1)/2) + 1", 2), ("max(a, b)", 5), ("a", None), ("a b", None), ("a.b", None),
     ("a / 0", None), ("f(a)", None), ("+" * 5000 + "a", None), ("a**99999", None)],
)  # fmt: skip
def test_expressions_in_dimension_names(text: str, value: int | None) -> None:
    assert evaluate(text, {"a": 4, "b": 5}.__getitem__ if value is not None else lambda name: 4) == value


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (tensor("x", T.FLOAT, None, 3, None, None), (2, 3, 64, 64)),
        (tensor("x", T.FLOAT, "unk__1", "unk__2", "unk__3", 3), (2, 64, 64, 3)),
        (tensor("pixel_values", T.FLOAT, "batch_size", "num_channels", "height", "width"), (2, 3, 64, 64)),
        (tensor("x", T.FLOAT, None, None), (2, 8)),
        (tensor("x", T.FLOAT, 0, 4), (0, 4)),
        (tensor("state", T.FLOAT, 2, None, 128), (2, 2, 128)),
        (tensor("x", T.FLOAT), ()),
    ],
)
def test_sizes_by_name_and_place(spec: InputSpec, shape: tuple[int, ...]) -> None:
    assert shapes(ordinary((spec,))[0])[spec.name] == shape


def test_images_get_the_usual_sizes() -> None:
    sizes = {shapes(feed)["x"][2] for feed in data.generate((tensor("x", T.FLOAT, None, 3, None, None),))}
    assert {64, 96, 224} <= sizes


def test_audio_is_recognised_by_its_sample_rate() -> None:
    specs = (tensor("input", T.FLOAT, None, None), tensor("sr", T.INT64))
    seen = {(shapes(feed)["input"][1], int(feed.values["sr"])) for feed in ordinary(specs, 60)}
    assert {(512, 16000), (256, 8000)} <= seen


def test_masks_are_ones_then_padded_and_no_row_is_empty() -> None:
    feeds = [feed for feed in ordinary(BERT, 40) if feed.description.split()[-1] in ("normal", "padded")]
    masks = {feed.description: feed.values["attention_mask"] for feed in feeds}
    assert all((mask == 1).all() for name, mask in masks.items() if name.endswith("normal"))
    padded = [mask for name, mask in masks.items() if name.endswith("padded")]
    assert any((mask == 0).any() for mask in padded)
    for mask in padded:
        assert (mask[:, 0] == 1).all()
        assert (np.diff(mask, axis=1) <= 0).all(), "zeros only at the end"


def test_a_mask_needs_name_and_type() -> None:
    floats = ordinary((tensor("mask", T.FLOAT, "b", "s"),), 1)[0].values["mask"]
    assert floats.dtype == np.float32
    assert (floats == 1).all()
    other = ordinary((tensor("image", T.INT64, "b", "s"),), 1)[0].values["image"]
    assert len(np.unique(other)) > 2
    inverted = ordinary((tensor("key_padding_mask", T.BOOL, "b", "s"),), 1)[0].values["key_padding_mask"]
    assert not inverted.any()


def test_ids_token_types_and_bounds() -> None:
    feeds = ordinary(BERT, 30)
    for feed in feeds:
        assert feed.values["input_ids"].min() >= 0
        assert feed.values["input_ids"].max() < 50
        if feed.description.split()[-1] in ("normal", "padded", "small"):
            assert set(np.unique(feed.values["token_type_ids"])) <= {0, 1}
    assert any(feed.values["input_ids"].max() < 2 for feed in feeds), "a safe range is among the modes"
    bounded = ordinary(BERT, 30, hints=Hints(bounds={"input_ids": 3}))
    assert all(feed.values["input_ids"].max() < 3 for feed in bounded)
    wide = ordinary(BERT, 1, hints=Hints(bounds={"input_ids": 30000}))
    assert wide[0].values["input_ids"].max() > 50


def test_hints_come_from_the_graph() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (int64[b, s] ids, float[?, ?, h, w] image, float[n, k] x) => (float y, float z, float v)
        <float[7, 4] table = {1}, float[6, 5, 3, 3] kernel = {1}, float[9, 2] weight = {1}> {
          i = Cast<to: int = 7>(ids)
          y = Gather(table, i)
          z = Conv<group: int = 2>(image, kernel)
          v = MatMul(x, weight)
        }"""
    )
    hints = data.infer_hints(model, {"s": 3})
    assert hints.bounds == {"ids": 7}
    assert hints.axes == {("image", 1): 10}
    assert hints.symbols == {"s": 3, "k": 9}
    found = shapes(ordinary(data.signature(model), hints=hints)[0])
    assert (found["ids"][1], found["image"][1], found["x"][1]) == (3, 10, 9)


def test_unknown_rank_tries_several() -> None:
    ranks = {len(shapes(feed)["x"]) for feed in data.generate((InputSpec("x", "tensor", T.FLOAT, None),))}
    assert {0, 1, 2, 3, 4} <= ranks


ALL_TYPES = sorted(set(T.DataType.values()) - {T.UNDEFINED})


@pytest.mark.parametrize("elem_type", ALL_TYPES, ids=[T.DataType.Name(number) for number in ALL_TYPES])
def test_every_type_and_mode(elem_type: int) -> None:
    wanted = object if elem_type == T.STRING else helper.tensor_dtype_to_np_dtype(elem_type)
    feeds = list(data.generate((tensor("x", elem_type, 4, 16),)))
    assert any(feed.edge for feed in feeds)
    for feed in feeds:
        assert feed.values["x"].dtype == wanted, feed
        assert feed.values["x"].shape == (4, 16)
    if elem_type not in (T.STRING, T.FLOAT8E8M0):
        assert len(np.unique(feeds[0].values["x"].astype(np.complex128))) > 1


def test_edge_sets_reach_the_ends_of_the_type() -> None:
    edges = {f.description.split()[-1]: f.values["x"] for f in data.generate((tensor("x", T.FLOAT, 8, 8),)) if f.edge}
    assert np.isnan(edges["edge-nan"]).any()
    assert not np.isnan(edges["edge-nan"]).all()
    assert np.isposinf(edges["edge-inf"]).any()
    assert np.isneginf(edges["edge-inf"]).any()
    zeros = edges["edge-negative-zero"]
    assert (np.signbit(zeros) & (zeros == 0)).any()
    small = np.abs(edges["edge-denormal"])
    assert ((small > 0) & (small < np.finfo(np.float32).smallest_normal)).any()
    assert np.abs(edges["edge-large"]).max() > 5000
    half = [f.values["x"] for f in data.generate((tensor("x", T.FLOAT16, 64, 64),)) if "large" in f.description]
    assert all(np.isfinite(array).all() for array in half)


def test_sequences_optionals_and_maps() -> None:
    item = tensor("s", T.FLOAT, "n", 2)
    sequence = InputSpec("s", "sequence", T.FLOAT, item.shape, item)
    optional = InputSpec("o", "optional", T.FLOAT, item.shape, item)
    mapping = InputSpec("m", "map", T.FLOAT, (), tensor("m", T.FLOAT), T.INT64)
    feeds = list(data.generate((sequence, optional, mapping)))
    assert len({len(feed.values["s"]) for feed in feeds}) > 1
    assert all(value.shape[1] == 2 for feed in feeds for value in feed.values["s"])
    assert feeds[0].values["o"].shape[1] == 2
    assert any(feed.values["o"] is None for feed in feeds if feed.edge)
    assert all(isinstance(key, int) for key in feeds[0].values["m"])


def test_kinds_that_cannot_be_fed_are_named() -> None:
    with pytest.raises(UsageError, match=r"input x.*sparse"):
        next(data.generate((InputSpec("x", "sparse", T.FLOAT, (2,)),)))


def test_the_seed_decides_and_order_of_inputs_does_not() -> None:
    one, same, other = (ordinary(BERT, 5, seed=seed) for seed in (0, 0, 1))
    for first, second in zip(one, same, strict=True):
        assert all(np.array_equal(first.values[name], second.values[name]) for name in first.values)
    assert any(
        not np.array_equal(a.values["input_ids"], b.values["input_ids"]) for a, b in zip(one, other, strict=True)
    )
    turned = ordinary(BERT[::-1], 1)[0]
    assert np.array_equal(one[0].values["input_ids"], turned.values["input_ids"])


def test_size_is_bounded() -> None:
    spec = tensor("x", T.FLOAT, None, None, None, None, None)
    largest = max(np.prod(shape) for shape in _all_shapes((spec,)))
    assert largest <= data.MAX_ELEMENTS
    assert not list(data.generate((tensor("x", T.FLOAT, 1 << 20, 1 << 10),)))


def _all_shapes(specs: tuple[InputSpec, ...]) -> list[tuple[int, ...]]:
    return [shape for layout in data.Generator(specs).layouts for shape in layout.shapes.values()]


def test_the_distinct_plan_gives_unknown_names_their_own_sizes() -> None:
    specs = (tensor("a", T.FLOAT, "M", "K"), tensor("b", T.FLOAT, "K", "P"))
    distinct: DimPlan = next(plan for plan in plans() if plan.spread)
    found = Dimensions(specs, Hints()).shapes(distinct)
    assert found["a"][1] == found["b"][0]
    assert len({*found["a"], *found["b"]}) == 3


class Model:
    """A model made of a condition: rejects feeds that break it."""

    def __init__(self, accepts: Any) -> None:
        self.accepts, self.calls = accepts, 0

    def __call__(self, values: data.Values) -> data.Values:
        self.calls += 1
        if not self.accepts(values):
            raise AccelcError("rejected")
        return {"y": np.ones(2, np.float32)}


def test_find_feeds_prefers_different_sizes_and_adds_edges() -> None:
    samples = data.find_feeds(BERT, Model(lambda values: True), wanted=3, edges=2)
    assert len({np.shape(sample.feed.values["input_ids"]) for sample in samples[:3]}) == 3
    assert [sample.feed.edge for sample in samples] == [False, False, False, True, True]


def test_find_feeds_finds_narrow_models() -> None:
    safe = Model(lambda values: values["input_ids"].max() < 2)
    assert len(data.find_feeds(BERT, safe, wanted=3)) == 3
    image = tensor("x", T.FLOAT, None, None, None, None)
    square = Model(lambda values: values["x"].shape[2:] == (224, 224) and values["x"].shape[1] == 3)
    assert len(data.find_feeds((image,), square, wanted=2)) == 2
    assert square.calls < 80


def test_find_feeds_gives_up_in_time_and_does_not_hide_programming_errors() -> None:
    never = Model(lambda values: False)
    assert data.find_feeds(BERT, never, seconds=0.05) == []
    with pytest.raises(ZeroDivisionError):
        data.find_feeds(BERT, Model(lambda values: 1 // 0))


def test_find_feeds_takes_all_nan_outputs_only_without_better() -> None:
    def nan_unless_small(values: data.Values) -> data.Values:
        good = np.abs(values["x"]).max() < 1
        return {"y": np.full(2, 1.0 if good else np.nan, np.float32)}

    samples = data.find_feeds((tensor("x", T.FLOAT, 4, 4),), nan_unless_small, wanted=2)
    assert len(samples) == 2
    assert not any(np.isnan(sample.outputs["y"]).any() for sample in samples)
    always = data.find_feeds((tensor("x", T.FLOAT, 4),), lambda values: {"y": np.full(2, np.nan, np.float32)}, wanted=2)
    assert len(always) == 2


def test_a_model_without_inputs_is_run() -> None:
    assert len(data.find_feeds((), Model(lambda values: not values), wanted=2)) == 2


# Corpus --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif("ACCELC_CORPUS" not in os.environ, reason="ACCELC_CORPUS names no folder of models")
def test_corpus_models_get_at_least_two_sets() -> None:
    folder = Path(os.environ["ACCELC_CORPUS"])
    few: list[str] = []
    started = time.monotonic()
    with Runner() as runner:
        for entry in json.loads((folder / "manifest.json").read_text()):
            path = folder / entry["path"]
            try:
                session = runner.load(path, optimize=False, threads=1)
            except AccelcError:
                continue
            proto = onnx.load(path, load_external_data=False)
            specs, hints = data.signature(proto), data.infer_hints(proto)
            samples = data.find_feeds(specs, partial(runner.run, session), wanted=2, hints=hints)
            if len(samples) < 2:
                few.append(path.name)
            runner.close(session)
    assert not few
    assert time.monotonic() - started < 300
