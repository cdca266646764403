"""Weights stored twice."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

from typing import Any

import numpy as np

from accelc import ir
from accelc.passes.fold import Fold
from accelc.passes.share import Share, relation
from accelc.testing import check, context, unchanged


def numbers(array: np.ndarray[Any, Any]) -> str:
    return "{" + ",".join(map(str, array.reshape(-1).tolist())) + "}"


TABLE = np.arange(24, dtype=np.float32).reshape(4, 6)
SMALL = Share(min_bytes=16)


def graph(second: str, shape: str = "6,4", head: str = "(int64[2] i) => (float[2,4] y) ") -> str:
    weights = f"<float[4,6] w = {numbers(TABLE)}, float[{shape}] v = {second}>"
    return head + weights + " { g = Gather(w, i) y = MatMul(g, v) }"


def test_a_transposed_weight_goes() -> None:
    after = "(int64[2] i) => (float[2,4] y) " + f"<float[4,6] w = {numbers(TABLE)}>"
    after += " { t = Transpose<perm=[1,0]>(w) g = Gather(w, i) y = MatMul(g, t) }"
    check(SMALL, graph(numbers(TABLE.T)), after, i=np.array([3, 0], np.int64))


def test_folding_does_not_store_it_twice_again() -> None:
    table = np.arange(32 * 33, dtype=np.float32).reshape(32, 33)
    weights = f"<float[32,33] w = {numbers(table)}, float[33,32] v = {numbers(table.T)}>"
    source = "(int64[2] i) => (float[2,32] y) " + weights + " { g = Gather(w, i) y = MatMul(g, v) }"
    model = check(Share(), source, ["Transpose", "Gather", "MatMul"], i=np.array([3, 0], np.int64))
    assert Fold().run(model, context()).changes == 0


def test_gemm_reads_the_transposed_weight_itself() -> None:
    weights = f"<float[4,6] w = {numbers(TABLE)}, float[6,4] v = {numbers(TABLE.T)}>"
    head = "(int64[2] i, float[2,6] x) => (float[2,4] y, float[2,6] g) "
    after = head + f"<float[4,6] w = {numbers(TABLE)}> {{ g = Gather(w, i) y = Gemm<transB=1>(x, w) }}"
    index = np.array([3, 0], np.int64)
    check(SMALL, head + weights + " { g = Gather(w, i) y = Gemm(x, v) }", after, i=index, x=TABLE[:2])


def test_a_weight_in_another_shape_goes() -> None:
    head = "(float[4,6] x, float[24] z) => (float[4,6] y, float[24] u) "
    weights = f"<float[4,6] w = {numbers(TABLE)}, float[24] v = {numbers(TABLE)}>"
    check(SMALL, head + weights + " { y = Add(x, w) u = Mul(z, v) }", ["Add", "Mul", "Reshape"])


def test_what_differs_stays() -> None:
    other = TABLE.T.copy()
    other[3, 2] += 1
    unchanged(SMALL, graph(numbers(other)))
    unchanged(Share(), graph(numbers(TABLE.T)))  # too small to be worth it
    shown = f"(float[4,6] x) => (float[4,6] y, float[6,4] v) <float[4,6] w = {numbers(TABLE)}, float[6,4] v = {numbers(TABLE.T)}>"
    unchanged(SMALL, shown + " { y = Add(x, w) }")


def test_zeros_of_both_signs_differ() -> None:
    zeros = "{" + ",".join(["0"] * 24) + "}"
    negative = "{" + ",".join(["0"] * 11 + ["-0.0"] + ["0"] * 12) + "}"
    head = "(float[4,6] x, float[6,4] z) => (float[4,6] y, float[6,4] u) "
    body = " { y = Add(x, w) u = Mul(z, v) }"
    unchanged(SMALL, head + f"<float[4,6] w = {zeros}, float[6,4] v = {negative}>" + body)


def test_permutations_of_more_axes() -> None:
    array = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    values = [
        ir.Value(name="w", const_value=ir.array_tensor(each)) for each in (array, array.transpose(2, 0, 1).copy())
    ]
    assert relation(*values) == (2, 0, 1)
    assert relation(values[0], values[0]) is None, "equal weights are for dedup"
