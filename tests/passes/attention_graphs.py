"""Attention blocks in the forms that exporters write, as ONNX text built from parts.

A block reads x [B, S, E] (and a mask), projects it with constant weights and returns y. E = heads * size.
"""

from __future__ import annotations

from dataclasses import dataclass

HEADS, SIZE = 2, 4
WIDTH = HEADS * SIZE


@dataclass(frozen=True)
class Form:
    """How one block is written.

    scale: where 1 / sqrt(D) stands: scores, divided, q, both (half on q, half on k) or none. mask: none, bool (with
    `low`), chosen (scores replaced), bias (an input that is added), causal, or two (causal and padding). guard: rows of
    NaN become zeros. keys: how k gets its last two dimensions exchanged: once, twice, or merged (heads with the batch).
    """

    scale: str = "scores"
    mask: str = "none"
    low: str = "-inf"
    guard: bool = False
    keys: str = "once"
    merged: bool = False
    batch: str = "B"
    length: str = "S"
    opset: int = 17


def text(form: Form) -> str:
    """The model of one block."""
    body = [*_projections(), *_keys(form), *_scores(form), *_masked(form), *_weights(form)]
    body += [
        "o4 = MatMul(p, vt)" if not form.merged else _merged_product("p", "vt", "o4", form),
        "o = Transpose <perm = [0, 2, 1, 3]> (o4)",
        "y0 = Reshape(o, flat)",
        "y = MatMul(y0, wo)",
    ]
    inputs = [f"float[{form.batch},{form.length},{WIDTH}] x"]
    if form.mask in ("bool", "chosen", "two"):
        inputs.append(f"bool[{form.batch},1,1,{form.length}] mask")
    if form.mask == "bias":
        inputs.append(f"float[{form.batch},1,{form.length},{form.length}] mask")
    lines = "\n  ".join(body)
    return (
        f'<ir_version: 8, opset_import: ["": {form.opset}, "com.microsoft": 1]>\n'
        f"block ({', '.join(inputs)}) => (float[{form.batch},{form.length},{WIDTH}] y)\n"
        f"<{', '.join(_weights_text(form))}> {{\n  {lines}\n}}"
    )


def _matrix(name: str, seed: int) -> str:
    numbers = ", ".join(f"{((i * 7 + seed * 13) % 19 - 9) / 12:.4f}" for i in range(WIDTH * WIDTH))
    return f"float[{WIDTH},{WIDTH}] {name} = {{{numbers}}}"


def _weights_text(form: Form) -> list[str]:
    bias = ", ".join(f"{i / 10:.1f}" for i in range(WIDTH))
    return [
        *(_matrix(name, seed) for seed, name in enumerate(("wq", "wk", "wv", "wo"))),
        f"float[{WIDTH}] bq = {{{bias}}}",
        f"int64[4] split = {{0, 0, {HEADS}, {SIZE}}}",
        f"int64[3] flat = {{0, 0, {WIDTH}}}",
        f"float whole = {{{SIZE**-0.5}}}",
        f"float root = {{{SIZE**0.5}}}",
        f"float half = {{{SIZE**-0.25}}}",
        "float zero = {0}",
        f"float low = {{{form.low}}}" if form.low != "-inf" else "float low_ = {0}",
        f"int64[3] merge = {{-1, {form.length if form.length.isdigit() else 5}, {SIZE}}}",
    ]


def _projections() -> list[str]:
    lines = ["q0 = MatMul(x, wq)", "q = Add(q0, bq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)"]
    for name in "qkv":
        lines.append(f"{name}4 = Reshape({name}, split)")
    return [*lines, "qt = Transpose <perm = [0, 2, 1, 3]> (q4)", "vt = Transpose <perm = [0, 2, 1, 3]> (v4)"]


def _keys(form: Form) -> list[str]:
    if form.keys == "once":
        return ["kt = Transpose <perm = [0, 2, 3, 1]> (k4)"]
    heads = "kh = Transpose <perm = [0, 2, 1, 3]> (k4)"
    if form.keys == "twice":
        return [heads, "kt = Transpose <perm = [0, 1, 3, 2]> (kh)"]
    back = f"int64[4] {{{form.batch}, {HEADS}, {SIZE}, {form.length}}}"
    return [
        heads,
        "km = Reshape(kh, merge)",
        "kx = Transpose <perm = [0, 2, 1]> (km)",
        f"unmerge = Constant <value = {back}> ()",
        "kt = Reshape(kx, unmerge)",
    ]


def _merged_product(a: str, b: str, out: str, form: Form) -> str:
    rows, inner, columns = (form.length, form.length, SIZE) if a == "p" else (form.length, SIZE, form.length)
    shapes = {
        f"{out}_sa": f"int64[3] {{-1, {rows}, {inner}}}",
        f"{out}_sb": f"int64[3] {{-1, {inner}, {columns}}}",
        f"{out}_so": f"int64[4] {{{form.batch}, {HEADS}, {rows}, {columns}}}",
    }
    lines = [f"{name} = Constant <value = {value}> ()" for name, value in shapes.items()]
    lines += [
        f"{out}_a = Reshape({a}, {out}_sa)",
        f"{out}_b = Reshape({b}, {out}_sb)",
        f"{out}_c = MatMul({out}_a, {out}_b)",
        f"{out} = Reshape({out}_c, {out}_so)",
    ]
    return "\n  ".join(lines)


def _scores(form: Form) -> list[str]:
    product = _merged_product("qs", "ks", "s0", form) if form.merged else "s0 = MatMul(qs, ks)"
    ways = {
        "scores": ["qs = Identity(qt)", "ks = Identity(kt)", product, "s = Mul(s0, whole)"],
        "divided": ["qs = Identity(qt)", "ks = Identity(kt)", product, "s = Div(s0, root)"],
        "q": ["qs = Mul(qt, whole)", "ks = Identity(kt)", product, "s = Identity(s0)"],
        "both": ["qs = Mul(qt, half)", "ks = Mul(kt, half)", product, "s = Identity(s0)"],
        "none": ["qs = Identity(qt)", "ks = Identity(kt)", product, "s = Identity(s0)"],
    }
    return ways[form.scale]


def _masked(form: Form) -> list[str]:
    # ONNX text has no infinity: -1 / 0 makes one.
    low = ["minus = Constant <value_float = -1.0> ()", "low = Div(minus, zero)"] if form.low == "-inf" else []
    causal = [
        "sx = Shape <start = 1, end = 2> (x)",
        "one = Constant <value_ints = [0]> ()",
        "n = Squeeze(sx, one)",
        "begin = Constant <value_int = 0> ()",
        "step = Constant <value_int = 1> ()",
        "r = Range(begin, n, step)",
        "ra = Constant <value_ints = [0, 1, 3]> ()",
        "ca = Constant <value_ints = [0, 1, 2]> ()",
        "rows = Unsqueeze(r, ra)",
        "columns = Unsqueeze(r, ca)",
        "causal = LessOrEqual(columns, rows)",
    ]
    ways = {
        "none": ["z = Identity(s)"],
        "bool": [*low, "bias = Where(mask, zero, low)", "z = Add(s, bias)"],
        "chosen": [*low, "z = Where(mask, s, low)"],
        "bias": ["z = Add(s, mask)"],
        "causal": [*low, *causal, "bias = Where(causal, zero, low)", "z = Add(s, bias)"],
        "two": [*low, *causal, "both = And(causal, mask)", "bias = Where(both, zero, low)", "z = Add(s, bias)"],
    }
    return ways[form.mask]


def _weights(form: Form) -> list[str]:
    if not form.guard:
        return ["p = Softmax <axis = -1> (z)"]
    return ["p0 = Softmax <axis = -1> (z)", "nan = IsNaN(p0)", "p = Where(nan, zero, p0)"]
