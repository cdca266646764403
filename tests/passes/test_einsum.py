"""Einsum as MatMul with transposes: every order of the labels, and sums that are no product of matrices."""

from __future__ import annotations

import numpy as np
import pytest

from accelc import ir
from accelc.infer import infer_model
from accelc.passes import einsum as p
from accelc.rewrite import Driver
from accelc.testing import check, context, same_numbers, unchanged

SIZES = {"b": 2, "h": 3, "q": 4, "k": 5, "d": 6, "n": 7, "e": 8}


def text(equation: str, *, symbols: str = "", sizes: dict[str, int] = SIZES, kind: str = "float") -> str:
    inputs, _, out = equation.partition("->")
    shapes = [
        ",".join(each.upper() if each in symbols else str(sizes[each]) for each in part) for part in inputs.split(",")
    ]
    given = ", ".join(f"{kind}[{shape}] x{index}" for index, shape in enumerate(shapes))
    names = ", ".join(f"x{index}" for index in range(len(shapes)))
    result = ",".join(each.upper() if each in symbols else str(sizes[each]) for each in out)
    return f'({given}) => ({kind}[{result}] y) {{ y = Einsum <equation = "{equation}"> ({names}) }}'


PRODUCTS = {
    "bhqd,bhkd->bhqk": ["Transpose", "MatMul"],
    "bqhd,bkhd->bhqk": ["Transpose", "Transpose", "MatMul"],
    "bhqk,bhkd->bhqd": ["MatMul"],
    "bhqk,bkhd->bqhd": ["Transpose", "MatMul", "Transpose"],
    "bqhd,bkhd->bhkq": ["Transpose", "Transpose", "MatMul"],
    "qd,dk->qk": ["MatMul"],
    "qd,dk->kq": ["Transpose", "Transpose", "MatMul"],
    "bqd,dk->bqk": ["MatMul"],
    "bqe,ehd->bqhd": ["Reshape", "MatMul", "Reshape"],
    "bqhd,hde->bqe": ["Reshape", "Reshape", "MatMul"],
    "bqe,behd->bqhd": ["Reshape", "MatMul", "Reshape"],
}


@pytest.mark.parametrize(("equation", "kinds"), PRODUCTS.items(), ids=PRODUCTS.keys())
def test_einsum_product(equation: str, kinds: list[str]) -> None:
    check(p.einsum_product, text(equation), kinds)


def test_einsum_product_of_integers() -> None:
    check(p.einsum_product, text("bhqk,bhkd->bhqd", kind="int32"), ["MatMul"])


@pytest.mark.parametrize("equation", ["bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", "bqe,ehd->bqhd", "bqhd,hde->bqe"])
def test_any_batch_and_length(equation: str) -> None:
    model = ir.parse(text(equation, symbols="bqk"))
    before = ir.to_proto(model).SerializeToString()
    infer_model(model)
    assert Driver([p.einsum_product]).run(model, context()) == 1
    rng = np.random.default_rng(0)
    inputs = equation.partition("->")[0].split(",")
    for batch, queries, keys in ((1, 1, 1), (3, 5, 2)):
        sizes = {**SIZES, "b": batch, "q": queries, "k": keys}
        feeds = {
            f"x{index}": rng.standard_normal([sizes[each] for each in part]).astype(np.float32)
            for index, part in enumerate(inputs)
        }
        same_numbers(before, ir.to_proto(model).SerializeToString(), feeds, exact=False)


WRONG = {
    "bqd,bqd->bq": "is no product of matrices",
    "bq,dk->bqdk": "is no product of matrices",
    "bqd,bd->bq": "is no product of matrices",
    "bqd,dk->qk": "one operand alone is summed",
    "bqnd,bkd->bqnk": "would become one",
    "bqd,bqd": "does not name every dimension",
}


@pytest.mark.parametrize(("equation", "reason"), WRONG.items(), ids=WRONG.keys())
def test_what_is_no_product(equation: str, reason: str) -> None:
    unchanged(p.einsum_product, text(equation), reason=reason)


def test_what_is_not_written_out() -> None:
    source = text("bhqk,bhkd->bhqd")
    unchanged(p.einsum_product, source.replace("bhqk,bhkd->bhqd", "...qk,...kd->...qd"), reason="does not name every")
    square = text("bqq,bqd->bqd").replace("y)", "y)")
    unchanged(p.einsum_product, square, reason="names a dimension twice")


def test_dimensions_that_may_be_stretched() -> None:
    """The runtime's Einsum stretches a dimension of one element, which a product does not."""
    one = text("bhqk,bhkd->bhqd").replace("float[2,3,5,6]", "float[2,3,1,6]")
    unchanged(p.einsum_product, one, reason="not known to be equal")
    unknown = text("bhqk,bhkd->bhqd").replace("float[2,3,5,6]", "float[2,3,N,6]")
    unchanged(p.einsum_product, unknown, reason="not known to be equal")


def test_dimensions_that_become_one_must_be_known() -> None:
    unchanged(p.einsum_product, text("bqhd,hde->bqe", symbols="h"), reason="would become one and are not known")


@pytest.mark.parametrize("equation", ["bqd->dbq", "qd->dq", "bhqd->bhqd"])
def test_einsum_transpose(equation: str) -> None:
    check(p.einsum_transpose, text(equation), ["Transpose"])


def test_einsum_that_sums() -> None:
    unchanged(p.einsum_transpose, text("bqd->bq"), reason="dimensions are summed")
    unchanged(p.einsum_transpose, text("qq->q"), reason="names a dimension twice")
