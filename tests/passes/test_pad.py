"""Pad."""

from __future__ import annotations

import pytest

from accelc.passes import pad as p
from accelc.testing import check, unchanged

OLD = '<ir_version: 8, opset_import: ["": 10]> g '


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_pad_nothing(mode: str) -> None:
    head = "(float[2,3] x) => (float[2,3] y) "
    before = head + f'<int64[4] p = {{0,0,0,0}}> {{ a = Pad<mode="{mode}">(x, p) y = Relu(a) }}'
    check(p.pad_nothing, before, head + "{ y = Relu(x) }")
    check(
        p.pad_nothing,
        OLD + head + f'{{ a = Pad<mode="{mode}", pads=[0,0,0,0]>(x) y = Relu(a) }}',
        OLD + head + "{ y = Relu(x) }",
    )


def test_pad_something() -> None:
    unchanged(
        p.pad_nothing, "(float[2] x) => (float[3] y) <int64[2] p = {0,1}> { y = Pad(x, p) }", reason="adds or removes"
    )
    unchanged(p.pad_nothing, "(float[2] x, int64[2] p) => (float[N] y) { y = Pad(x, p) }", reason="not constant")


def test_pad_of_pad() -> None:
    head = "(float[2,3] x) => (float[4,7] y) "
    before = head + "<int64[4] p = {1,0,0,1}, int64[4] q = {0,2,1,1}> { a = Pad(x, p) y = Pad(a, q) }"
    check(p.pad_of_pad, before, head + "<int64[4] p = {1,2,1,2}> { y = Pad(x, p) }")
    before = (
        head
        + '<int64[4] p = {1,0,0,1}, int64[4] q = {0,2,1,1}> { a = Pad<mode="edge">(x, p) y = Pad<mode="edge">(a, q) }'
    )
    check(p.pad_of_pad, before, head + '<int64[4] p = {1,2,1,2}> { y = Pad<mode="edge">(x, p) }')
    before = OLD + head + "{ a = Pad<pads=[1,0,0,1], value=2.0>(x) y = Pad<pads=[0,2,1,1], value=2.0>(a) }"
    check(p.pad_of_pad, before, OLD + head + "{ y = Pad<pads=[1,2,1,2], value=2.0>(x) }")


def test_pad_of_pad_along_axes() -> None:
    weights = "<int64[2] p = {1,0}, int64[1] i = {0}, int64[2] q = {2,2}, int64[1] j = {-1}, float v = {3}>"
    before = f"(float[2,3] x) => (float[3,7] y) {weights} {{ a = Pad(x, p, v, i) y = Pad(a, q, v, j) }}"
    after = "(float[2,3] x) => (float[3,7] y) <int64[4] p = {1,2,0,2}, float v = {3}> { y = Pad(x, p, v) }"
    check(p.pad_of_pad, before, after)
    weights = "<int64[2] p = {1,0}, int64[1] i = {0}, int64[2] q = {2,2}, int64[1] j = {0}>"
    before = f"(float[2,3] x) => (float[7,3] y) {weights} {{ a = Pad(x, p, , i) y = Pad(a, q, , j) }}"
    after = "(float[2,3] x) => (float[7,3] y) <int64[2] p = {3,2}, int64[1] i = {0}> { y = Pad(x, p, , i) }"
    check(p.pad_of_pad, before, after)


def test_pads_that_differ() -> None:
    two = "<int64[2] p = {1,0}, int64[2] q = {2,0}, float v = {3}>"
    head = "(float[2] x) => (float[5] y) "
    unchanged(p.pad_of_pad, head + two + "{ a = Pad(x, p, v) y = Pad(a, q) }", reason="different values")
    unchanged(
        p.pad_of_pad, head + two + '{ a = Pad<mode="reflect">(x, p) y = Pad<mode="reflect">(a, q) }', reason="modes"
    )
    unchanged(p.pad_of_pad, head + two + '{ a = Pad<mode="edge">(x, p) y = Pad(a, q) }', reason="modes")
    crop = "(float[2] x) => (float[2] y) <int64[2] p = {-1,0}, int64[2] q = {1,0}> { a = Pad(x, p) y = Pad(a, q) }"
    unchanged(p.pad_of_pad, crop, reason="removes")
