import pytest

from accelc.passes.residual import residual_sum
from accelc.target import Target
from accelc.testing import check, context, unchanged

SCALE = "<float[4] g = {1, 2, 3, 4}>"


def test_residual_sum() -> None:
    check(
        residual_sum,
        f"(float[n,4] x, float[n,4] y) => (float[n,4] z) {SCALE} {{ a = Add(x, y)  z = LayerNormalization(a, g) }}",
        f"(float[n,4] x, float[n,4] y) => (float[n,4] z) {SCALE} {{ a = Sum(x, y)  z = LayerNormalization(a, g) }}",
    )


def test_residual_sum_serves_the_next_block_too() -> None:
    check(
        residual_sum,
        f"(float[2,4] x, float[2,4] y) => (float[2,4] z, float[2,4] w) {SCALE} "
        "{ a = Add(x, y)  z = LayerNormalization(a, g)  w = Relu(a) }",
        f"(float[2,4] x, float[2,4] y) => (float[2,4] z, float[2,4] w) {SCALE} "
        "{ a = Sum(x, y)  z = LayerNormalization(a, g)  w = Relu(a) }",
    )


def test_residual_sum_where_the_runtime_finds_no_attention() -> None:
    graph = (
        "(float[2,4] u, float[4,4] w) => (float[2,4] z, float[2,4] q, float[2,4] k, float[2,4] v) "
        f"{SCALE} {{ x = LayerNormalization(u, g)  q = MatMul(x, w)  k = MatMul(x, w)  v = MatMul(x, w) "
        "t = Relu(u)  a = Add(t, x)  z = LayerNormalization(a, g) }"
    )
    check(residual_sum, graph, graph.replace("Add", "Sum"))


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (
            f"(float[2,4] x, float[4] y) => (float[2,4] z) {SCALE} {{ a = Add(x, y)  z = LayerNormalization(a, g) }}",
            "differ",
        ),
        ("(float[2,4] x, float[2,4] y) => (float[2,4] z) { a = Add(x, y)  z = Relu(a) }", "no LayerNormalization"),
        (
            (
                "(double[2,4] x, double[2,4] y) => (double[2,4] z) <double[4] g = {1, 2, 3, 4}> "
                "{ a = Add(x, y)  z = LayerNormalization(a, g) }"
            ),
            "DOUBLE",
        ),
        (
            (
                "(float[4,4] u, float[4,4] w) => (float[4,4] z, float[4,4] k, float[4,4] v) "
                f"{SCALE} {{ x = LayerNormalization(u, g)  q = MatMul(x, w)  k = MatMul(x, w)  v = MatMul(x, w) "
                "p = Softmax(q)  r = MatMul(p, v)  t = MatMul(r, w)  a = Add(t, x)  z = LayerNormalization(a, g) }"
            ),
            "attention",
        ),
        ("(float[2,4] x, float[4] g) => (float[2,4] z) { a = Add(x, x)  z = LayerNormalization(x, a) }", ""),
    ],
    ids=["broadcast", "no norm", "double", "attention", "scale"],
)
def test_residual_sum_stays(graph: str, reason: str) -> None:
    unchanged(residual_sum, graph, reason=reason)


def test_residual_sum_is_for_the_cpu() -> None:
    ctx = context(target=Target("cuda", "CUDAExecutionProvider"))
    graph = f"(float[2,4] x, float[2,4] y) => (float[2,4] z) {SCALE} {{ a = Add(x, y)  z = LayerNormalization(a, g) }}"
    unchanged(residual_sum, graph, reason="gains from SkipLayerNormalization", ctx=ctx)


def test_a_sum_of_embeddings_is_left_to_the_runtime() -> None:
    unchanged(
        residual_sum,
        """(int64[2,3] i, int64[2,3] j) => (float[2,3,2] y)
        <float[2,2] a = {1, 2, 3, 4}, float[2,2] b = {5, 6, 7, 8}, float[2] g = {1, 1}> {
          p = Gather(a, i)  q = Gather(b, j)  s = Add(p, q)  y = LayerNormalization(s, g)
        }""",
        reason="embeddings",
    )
