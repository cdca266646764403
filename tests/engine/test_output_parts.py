"""Outputs that are several things joined into one: where their parts lie, and that each is judged."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from accelc.budget import Budget
from accelc.data import Feed, Sample
from accelc.output_parts import Parts, output_parts
from accelc.quality import measure_quality


def parts_of(text: str) -> dict[str, tuple[int, tuple[int, ...]]]:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> g {text}')
    return {name: (parts.axis, parts.sizes) for name, parts in output_parts(model).items()}


BOXES_AND_SCORES = "(float[N,4,6] boxes, float[N,3,6] scores) => (float[N,7,6] y)"


def test_boxes_and_scores() -> None:
    assert parts_of(f"{BOXES_AND_SCORES} {{ y = Concat<axis = 1>(boxes, scores) }}") == {"y": (-2, (4, 3))}
    assert parts_of(f"{BOXES_AND_SCORES} {{ y = Concat<axis = -2>(boxes, scores) }}") == {"y": (-2, (4, 3))}


def test_through_transpose_and_reshape() -> None:
    inputs = "(float[2,4,6] boxes, float[2,3,6] scores)"
    turned = f"""{inputs} => (float[2,6,7] y) {{
        a = Concat<axis = 1>(boxes, scores)  b = Identity(a)  y = Transpose<perm = [0, 2, 1]>(b) }}"""
    assert parts_of(turned) == {"y": (-1, (4, 3))}
    flat = f"""{inputs} => (float[12,7] y) <int64[2] shape = {{12, 7}}> {{
        a = Concat<axis = 1>(boxes, scores)  b = Transpose<perm = [0, 2, 1]>(a)  y = Reshape(b, shape) }}"""
    assert parts_of(flat) == {"y": (-1, (4, 3))}
    mixed = f"""{inputs} => (float[2,42] y) <int64[2] shape = {{2, 42}}> {{
        a = Concat<axis = 1>(boxes, scores)  y = Reshape(a, shape) }}"""
    assert parts_of(mixed) == {}


def test_samples_are_no_parts() -> None:
    assert parts_of("(float[2,4] a, float[3,4] b) => (float[5,4] y) { y = Concat<axis = 0>(a, b) }") == {}
    turned = """(float[2,4] a, float[2,3] b) => (float[7,2] y) {
        c = Concat<axis = 1>(a, b)  y = Transpose(c) }"""
    assert parts_of(turned) == {}
    whole = """(float[1,4] a, float[1,3] b) => (float[7] y) <int64[1] shape = {7}> {
        c = Concat<axis = 1>(a, b)  y = Reshape(c, shape) }"""
    assert parts_of(whole) == {}


def test_unknown_sizes_make_no_parts() -> None:
    text = "(float[N,4,K] a, float[N,M,K] b) => (float[N,L,K] y) { y = Concat<axis = 1>(a, b) }"
    assert parts_of(text) == {}
    assert parts_of("(float[N,4] a) => (float[N,4] y) { y = Concat<axis = 1>(a) }") == {}
    assert parts_of("(float[N,4] a) => (float[N,4] y) { y = Relu(a) }") == {}


def test_weights_that_are_joined() -> None:
    text = "(float[1,4] a) => (float[1,6] y) <float[1,2] w = {1, 2}> { y = Concat<axis = 1>(a, w) }"
    assert parts_of(text) == {"y": (-1, (4, 2))}


def test_parts_inside_parts() -> None:
    text = """(float[N,4,6] boxes, float[N,3,6] scores, float[N,32,6] masks) => (float[N,39,6] y) {
        a = Concat<axis = 1>(boxes, scores)  y = Concat<axis = 1>(a, masks) }"""
    assert parts_of(text) == {"y": (-2, (4, 3, 32))}


def test_levels_of_a_detector_are_places() -> None:
    levels_last = """(float[1,4,9] b1, float[1,3,9] s1, float[1,4,4] b2, float[1,3,4] s2) => (float[1,7,13] y) {
        one = Concat<axis = 1>(b1, s1)  two = Concat<axis = 1>(b2, s2)  y = Concat<axis = 2>(one, two) }"""
    assert parts_of(levels_last) == {"y": (-2, (4, 3))}
    levels_first = """(float[1,9,4] b1, float[1,9,3] s1, float[1,4,4] b2, float[1,4,3] s2) => (float[1,13,7] y) {
        b = Concat<axis = 1>(b1, b2)  s = Concat<axis = 1>(s1, s2)  y = Concat<axis = 2>(b, s) }"""
    assert parts_of(levels_first) == {"y": (-1, (4, 3))}
    unlike = """(float[1,4,9] b1, float[1,3,9] s1, float[1,7,4] two) => (float[1,7,13] y) {
        one = Concat<axis = 1>(b1, s1)  y = Concat<axis = 2>(one, two) }"""
    assert parts_of(unlike) == {"y": (-1, (9, 4))}


def test_a_value_that_is_joined_to_itself_again_and_again() -> None:
    steps = "\n".join(f"v{place + 1} = Concat<axis = 1>(v{place}, v{place})" for place in range(40))
    assert parts_of(f"(float[1,0] v0) => (float[1,0] v40) {{ {steps} }}") == {}


def test_slices() -> None:
    array = np.arange(2 * 7 * 3).reshape(2, 7, 3)
    pieces = [array[place] for place in Parts(-2, (4, 3)).slices(array.shape)]
    np.testing.assert_array_equal(pieces[0], array[:, :4])
    np.testing.assert_array_equal(pieces[1], array[:, 4:])
    assert not list(Parts(-2, (4, 3)).slices((2, 8, 3)))
    assert not list(Parts(-2, (4, 3)).slices((7,)))


def test_small_parts_are_judged_by_themselves() -> None:
    before = np.concatenate([np.full((1, 4, 6), 500.0), np.full((1, 3, 6), 0.5)], axis=1).astype(np.float32)
    after = before.copy()
    after[:, 4:, ::2] = 0
    parts = {"y": Parts(-2, (4, 3))}
    whole, apart = (measure_quality([{"y": before}], [{"y": after}], each) for each in (None, parts))
    assert whole.cosine > 0.9999
    assert apart.cosine == pytest.approx(np.sqrt(0.5), abs=1e-6)
    assert [each.name for each in apart.outputs] == ["y, part 1 of 2", "y, part 2 of 2"]
    sample = Sample(Feed({}, "test"), {"y": before}, parts=parts)
    assert "cosine" in Budget.parse("1%").judge([sample], [{"y": after}]).reason
