from acme_passes.square import Square, pow_two

from accelc.testing import check, unchanged


def test_pow_two() -> None:
    check(
        pow_two,
        "(float[2,3] x) => (float[2,3] y) <float two = {2}> { p = Pow(x, two)  y = Relu(p) }",
        "(float[2,3] x) => (float[2,3] y) { p = Mul(x, x)  y = Relu(p) }",
    )


def test_pow_two_leaves_cubes_alone() -> None:
    cube = "(float[2,3] x) => (float[2,3] y) <float e = {3}> { p = Pow(x, e)  y = Relu(p) }"
    unchanged(pow_two, cube, reason="wants the constant 2.0")


def test_pow_two_leaves_integers_alone() -> None:
    whole = "(int64[2,3] x) => (int64[2,3] y) <int64 e = {2}> { p = Pow(x, e)  y = Abs(p) }"
    unchanged(pow_two, whole, reason="x is INT64")


def test_the_pass_applies_the_rule_everywhere() -> None:
    check(
        Square(),
        "(float[2] x) => (float[2] y) <float two = {2}> { p = Pow(x, two)  y = Pow(p, two) }",
        "(float[2] x) => (float[2] y) { p = Mul(x, x)  y = Mul(p, p) }",
        fires=2,
    )
