"""Sums and embeddings in normalizations: fused for CUDA, computed here by the processor's kernels of those names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from accelc.backends.cuda import CudaBackend
from accelc.context import Context
from accelc.passes.skip_norm import (
    SkipNorm,
    embed_norm,
    embed_norm_segments,
    skip_norm,
    skip_norm_bias,
    skip_norm_first,
    skip_norm_sum,
)
from accelc.testing import check, context, same_numbers, unchanged


class Measured(Context):
    """A context where everything fused was measured to be faster."""

    def decide(self, rule: str, case: str, default: str, build: Callable[[], Mapping[str, Any]]) -> str:
        models = build()
        assert (list(models), default) == (["parts", "fused"], "parts")
        inputs = models["parts"].graph.input
        feeds = {value.name: np.arange(128).reshape(1, 128) % 2 for value in inputs}
        same_numbers(*(model.SerializeToString() for model in models.values()), feeds, exact=False)
        return "fused"


def measured() -> Context:
    return Measured(CudaBackend().target())


IO = "(float[B,S,8] x, float[B,S,8] y)"
G = "float[8] g = {1,2,3,4,5,6,7,8}"
H = "float[8] h = {8,7,6,5,4,3,2,1}"
OPSET_23 = '<ir_version: 11, opset_import: ["": 23, "com.microsoft": 1]> main'


def cuda(**more: object) -> Context:
    return context(target=CudaBackend().target(), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("total", ["Add(x, y)", "Sum(x, y)"])
def test_skip_norm(total: str) -> None:
    check(
        skip_norm,
        f"{IO} => (float[B,S,8] z) <{G}, {H}> {{ s = {total}  z = LayerNormalization<epsilon=0.01>(s, g, h) }}",
        f"{IO} => (float[B,S,8] z) <{G}, {H}> {{ z = com.microsoft.SkipLayerNormalization<epsilon=0.01>(x, y, g, h) }}",
        ctx=cuda(),
    )


def test_skip_norm_gives_the_default_epsilon_of_the_norm() -> None:
    check(
        skip_norm,
        f"{IO} => (float[B,S,8] z) <{G}> {{ s = Add(x, y)  z = LayerNormalization<axis=2>(s, g) }}",
        f"{IO} => (float[B,S,8] z) <{G}> {{ z = com.microsoft.SkipLayerNormalization<epsilon=1e-5>(x, y, g) }}",
        ctx=cuda(),
    )


def test_skip_norm_of_a_root_mean_square() -> None:
    check(
        skip_norm,
        f"{OPSET_23} {IO} => (float[B,S,8] z) <{G}> {{ s = Add(x, y)  z = RMSNormalization<epsilon=0.01>(s, g) }}",
        f"{OPSET_23} {IO} => (float[B,S,8] z) <{G}> "
        "{ z = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.01>(x, y, g) }",
        ctx=cuda(),
    )


@pytest.mark.parametrize("skip", ["float[1,4,8]", "float[4,8]"])
@pytest.mark.parametrize("order", ["x, y", "y, x"])
def test_skip_norm_repeats_a_skip_over_the_batch(skip: str, order: str) -> None:
    check(
        skip_norm,
        f"(float[B,4,8] x, {skip} y) => (float[B,4,8] z) <{G}> {{ s = Add({order})  z = LayerNormalization(s, g) }}",
        f"(float[B,4,8] x, {skip} y) => (float[B,4,8] z) <{G}> "
        "{ z = com.microsoft.SkipLayerNormalization<epsilon=1e-5>(x, y, g) }",
        ctx=cuda(),
    )


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_skip_norm_in_half_precision(kind: str) -> None:
    from accelc import ir
    from accelc.infer import infer_model
    from accelc.pass_base import run_pass

    head = '<ir_version: 10, opset_import: ["": 20]> main'
    model = ir.parse(
        f"{head} ({kind}[B,S,8] x, {kind}[B,S,8] y, {kind}[8] g) => ({kind}[B,S,8] z) "
        "{ s = Add(x, y)  z = LayerNormalization(s, g) }"
    )
    infer_model(model)
    assert run_pass(SkipNorm(), model, cuda()).changes == 1
    assert [node.op_type for node in model.graph] == ["SkipLayerNormalization"]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("(float[B,S,8] x, float[B,T,8] y) => (float[B,S,8] z)", "not surely equal"),
        ("(float[B,S,8] x, float[B,S,1] y) => (float[B,S,8] z)", "not surely equal"),
        ("(float[A,B,S,8] x, float[A,B,S,8] y) => (float[A,B,S,8] z)", "neither a matrix"),
        ("(float[8] x, float[8] y) => (float[8] z)", "neither a matrix"),
        ("(double[B,S,8] x, double[B,S,8] y) => (double[B,S,8] z)", "DOUBLE"),
    ],
)
def test_skip_norm_refuses_sums(graph: str, reason: str) -> None:
    scale = G.replace("float", "double") if "double" in graph else G
    unchanged(
        skip_norm, f"{graph} <{scale}> {{ s = Add(x, y)  z = LayerNormalization(s, g) }}", reason=reason, ctx=cuda()
    )


@pytest.mark.parametrize(
    ("norm", "scale", "reason"),
    [
        ("LayerNormalization<axis=1>(s, g)", "float[4,8] g", "last dimension alone"),
        ("LayerNormalization<stash_type=11>(s, g)", G.partition(" =")[0], "not computed in float32"),
        ("LayerNormalization(s, g)", "float g", "not one row"),
        ("LayerNormalization(s, g)", "float[1,8] g", "not one row"),
    ],
)
def test_skip_norm_refuses_norms(norm: str, scale: str, reason: str) -> None:
    graph = f"(float[2,4,8] x, float[2,4,8] y, {scale}) => (float[2,4,8] z) {{ s = Add(x, y)  z = {norm} }}"
    unchanged(skip_norm, graph, reason=reason, ctx=cuda())


def test_skip_norm_keeps_mean_and_deviation() -> None:
    graph = f"{IO} => (float[B,S,8] z, float[B,S,1] m) <{G}> {{ s = Add(x, y)  z, m = LayerNormalization(s, g) }}"
    unchanged(skip_norm, graph, ctx=cuda())


def test_nothing_is_fused_on_the_processor_or_in_portable_files() -> None:
    graph = f"{IO} => (float[B,S,8] z) <{G}> {{ s = Add(x, y)  z = LayerNormalization(s, g) }}"
    unchanged(skip_norm, graph, reason="processor's kernel is slower")
    unchanged(skip_norm, graph, reason="portable", ctx=cuda(portable=True))


def test_a_sum_that_is_used_elsewhere_becomes_an_output() -> None:
    model = check(
        SkipNorm(),
        f"{IO} => (float[B,S,8] z, float[B,S,8] w) <{G}, {H}> "
        "{ s = Add(x, y)  z = LayerNormalization<epsilon=0.01>(s, g, h)  w = Add(s, x) }",
        ["SkipLayerNormalization", "Add"],
        fires=2,
        ctx=cuda(),
    )
    node = model.graph[0]
    assert [value.name != "" for value in node.outputs] == [True, False, False, True]


def test_a_sum_that_is_an_output_of_the_model() -> None:
    check(
        SkipNorm(),
        f"{IO} => (float[B,S,8] z, float[B,S,8] s) <{G}> {{ s = Add(x, y)  z = LayerNormalization(s, g) }}",
        ["SkipLayerNormalization"],
        fires=2,
        ctx=cuda(),
    )


def test_two_norms_of_one_sum() -> None:
    check(
        SkipNorm(),
        f"{IO} => (float[B,S,8] z, float[B,S,8] w) <{G}, {H}> "
        "{ s = Add(x, y)  z = LayerNormalization(s, g, h)  w = LayerNormalization(s, h, g) }",
        ["SkipLayerNormalization", "LayerNormalization"],
        fires=2,
        ctx=cuda(),
    )


def test_skip_norm_sum_needs_parameters_that_are_there_already() -> None:
    graph = (
        "(float[B,S,8] x, float[B,S,8] y, float[8] a) => (float[B,S,8] z, float[B,S,8] w) "
        "{ s = Add(x, y)  w = Relu(s)  g = Exp(a)  z = LayerNormalization(s, g) }"
    )
    unchanged(skip_norm_sum, graph, reason="a parameter is computed", ctx=cuda())


def test_skip_norm_sum_leaves_a_sum_with_one_use_to_the_other_rule() -> None:
    graph = f"{IO} => (float[B,S,8] z) <{G}> {{ s = Add(x, y)  z = LayerNormalization(s, g) }}"
    unchanged(skip_norm_sum, graph, reason="only the norm takes it", ctx=cuda())


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("LayerNormalization<epsilon=0.02>(s, g)", "epsilons differ"),
        ("LayerNormalization(s, h)", "two different values"),
    ],
)
def test_skip_norm_first_wants_the_same_norm(second: str, reason: str) -> None:
    graph = (
        f"{IO} => (float[B,S,8] z, float[B,S,8] w) <{G}, {H}> "
        f"{{ f, m, v, s = com.microsoft.SkipLayerNormalization<epsilon=1e-5>(x, y, g)  w = Relu(s)  z = {second} }}"
    )
    unchanged(skip_norm_first, graph, reason=reason, ctx=cuda())


@pytest.mark.parametrize("operands", ["p, q", "q, p"])
def test_skip_norm_bias(operands: str) -> None:
    head = f"{IO} => (float[B,S,8] z) <{G}, {H}, {H.replace(' h', ' b')}> {{ r = Mul(y, h)  q = Add(r, x)"
    wanted = operands.replace("p", "x")
    check(
        skip_norm_bias,
        f"{head}  p = Add(x, b)  z = com.microsoft.SkipLayerNormalization<epsilon=0.01>({operands}, g, h) }}",
        f"{head}  z = com.microsoft.SkipLayerNormalization<epsilon=0.01>({wanted}, g, h, b) }}",
        ctx=cuda(),
    )


@pytest.mark.parametrize(
    ("operator", "more"), [("SkipLayerNormalization", "g, , b"), ("SkipSimplifiedLayerNormalization", "g, b")]
)
def test_skip_norm_bias_without_a_shift(operator: str, more: str) -> None:
    head = f"{IO} => (float[B,S,8] z) <{G}, {H.replace(' h', ' b')}> {{ r = Mul(y, g)  q = Add(r, x)"
    check(
        skip_norm_bias,
        f"{head}  p = Add(x, b)  z = com.microsoft.{operator}<epsilon=0.01>(p, q, g) }}",
        f"{head}  z = com.microsoft.{operator}<epsilon=0.01>(x, q, {more}) }}",
        ctx=cuda(),
    )


def test_skip_norm_bias_wants_one_constant_row() -> None:
    graph = (
        "(float[2,4,8] x, float[2,4,8] y, float[4,8] b) => (float[2,4,8] z) <" + G + "> "
        "{ p = Add(x, b)  z = com.microsoft.SkipLayerNormalization<epsilon=0.01>(p, y, g) }"
    )
    unchanged(skip_norm_bias, graph, reason="b is not one row", ctx=cuda())
    unchanged(skip_norm_bias, graph.replace("float[4,8] b", "float[8] b"), reason="b is not constant", ctx=cuda())


# --- embeddings ------------------------------------------------------------------------------------------------------

TABLES = (
    "float[5,8] w = {0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9}, "
    "float[3,8] p = {3,1,4,1,5,9,2,6,5,3,5,8,9,7,9,3,2,3,8,4,6,2,6,4}, "
    "float[5,8] t = {1,0,2,0,3,0,4,0,0,5,0,6,0,7,0,8,1,1,2,2,3,3,4,4,5,5,6,6,7,7,8,8,9,9,8,8,7,7,6,6}"
)
IDS = np.array([[1, 4, 0], [2, 2, 3]], np.int64)
KINDS = np.array([[0, 1, 1], [1, 0, 0]], np.int64)


def test_embed_norm() -> None:
    tables = TABLES.partition(", float[5,8] t")[0]
    check(
        embed_norm,
        f"(int64[B,3] i) => (float[B,3,8] z) <{tables}, {G}, {H}, int64[1,3] j = {{0,1,2}}> "
        "{ a = Gather(w, i)  b = Gather(p, j)  s = Add(a, b)  z = LayerNormalization(s, g, h) }",
        f"(int64[B,3] i) => (float[B,3,8] z) <{tables}, {G}, {H}, int32[1,3] j = {{0,1,2}}, int64 n = {{5}}> {{ "
        "k = Mod(i, n)  c = Cast<to=6>(k) "
        " z, m = com.microsoft.EmbedLayerNormalization<epsilon=1e-5>(c, , w, p, , g, h, , j) }",
        ctx=measured(),
        i=IDS,
    )


def test_embed_norm_with_segments_and_positions_of_a_dynamic_length() -> None:
    check(
        SkipNorm(),
        f"(int64[B,S] i, int64[B,S] k) => (float[B,S,8] z) "
        f"<{TABLES}, {G}, {H}, int64[1,3] all = {{0,1,2}}, int64[1] zero = {{0}}, int64[1] one = {{1}}> "
        "{ n = Shape<start=1, end=2>(i)  j = Slice(all, zero, n, one, one)  a = Gather(w, i)  d = Gather(t, k) "
        "  b = Gather(p, j)  s = Add(a, d)  u = Add(s, b)  z = LayerNormalization(u, g, h) }",
        ["Shape", "Slice", *["Mod", "Cast"] * 3, "EmbedLayerNormalization"],
        ctx=measured(),
        i=IDS,
        k=KINDS,
    )


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("(int64[B,3] i, int64[B,2] j) => (float[B,3,8] z)", "differ in length"),
        ("(int64[A,3] i, int64[B,3] j) => (float[A,3,8] z)", "differ in batch"),
        ("(int64[3] i, int64[3] j) => (float[3,8] z)", "not batch by length"),
    ],
)
def test_embed_norm_refuses_ids(before: str, reason: str) -> None:
    graph = (
        f"{before} <{TABLES}, {G}, {H}> "
        "{ a = Gather(w, i)  b = Gather(p, j)  s = Add(a, b)  z = LayerNormalization(s, g, h) }"
    )
    unchanged(embed_norm, graph, reason=reason, ctx=measured())


def test_embed_norm_refuses_negative_positions_and_the_processor() -> None:
    graph = (
        f"(int64[B,3] i) => (float[B,3,8] z) <{TABLES}, {G}, {H}, int64[1,3] j = {{0,1,-1}}> "
        "{ a = Gather(w, i)  b = Gather(p, j)  s = Add(a, b)  z = LayerNormalization(s, g, h) }"
    )
    unchanged(embed_norm, graph, reason="an id is negative", ctx=measured())
    unchanged(embed_norm, graph.replace("-1", "2"), reason="processor's kernel is slower")


def test_embed_norm_refuses_segments_of_another_batch() -> None:
    graph = (
        f"(int64[B,3] i, int64[1,3] k) => (float[B,3,8] z) <{TABLES}, {G}, {H}, int64[1,3] j = {{0,1,2}}> "
        "{ a = Gather(w, i)  b = Gather(p, j)  s = Add(a, b)  d = Gather(t, k)  u = Add(s, d) "
        "  z = LayerNormalization(u, g, h) }"
    )
    unchanged(embed_norm_segments, graph, reason="segments and ids differ", ctx=measured())


# --- the steps by themselves


def test_skip_norm_sum_gives_the_sum() -> None:
    check(
        skip_norm_sum,
        f"{IO} => (float[B,S,8] z, float[B,S,8] w) <{G}> "
        "{ s = Add(x, y)  z = LayerNormalization(s, g)  w = Relu(s) }",
        ["SkipLayerNormalization", "LayerNormalization", "Relu"],
        ctx=cuda(),
    )


def test_skip_norm_first_takes_what_is_there() -> None:
    # A length of 0 ends the process in the kernel; the sums let the runtime refuse it before.
    sums = "p = Add(x, g)  r = Mul(y, g)  q = Add(r, x)  k = Mul(g, h)"
    fused = f"{sums}  f, m, v, s = com.microsoft.SkipLayerNormalization<epsilon=1e-5>(p, q, k)  w = Relu(s)"
    check(
        skip_norm_first,
        f"{IO} => (float[B,S,8] z, float[B,S,8] w) <{G}, {H}> {{ {fused}  z = LayerNormalization(s, k) }}",
        ["Add", "Mul", "Add", "Mul", "SkipLayerNormalization", "Relu"],
        ctx=cuda(),
    )


def test_embed_norm_segments() -> None:
    check(
        embed_norm_segments,
        f"(int64[B,3] i, int64[B,3] k) => (float[B,3,8] z) <{TABLES}, {G}, {H}, int64[1,3] j = {{0,1,2}}> "
        "{ a = Gather(w, i)  b = Gather(p, j)  s = Add(a, b)  d = Gather(t, k)  u = Add(s, d) "
        "  z = LayerNormalization(u, g, h) }",
        [*["Mod", "Cast"] * 2, "EmbedLayerNormalization"],
        ctx=measured(),
        i=IDS,
        k=KINDS,
    )
