"""Sizes for dynamic dimensions: what role a dimension plays, and plans that give every role a size.

Dimensions with the same name get the same size within a plan; names that are sums or products of others
("past_sequence_length + sequence_length") are computed from them.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from accelc.data.specs import Dim, Hints, InputSpec

Shapes = dict[str, tuple[int, ...]]
"""The size of every tensor input, by input name."""

_INTEGERS = {onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64}
_GENERIC = re.compile(
    r"(unk|unnamed|none|dim|axis|dynamic|dyn|d|s|u|sym|auto|shape|)_*(axes|axis|dim|shape|size)?_*\d*"
)
_CACHE = re.compile(r"past|cache|_mem\b|prefix_k|prefix_v")
_RECURRENT = re.compile(r"state|hidden|(^|_)[hc](_?[0n0-9])?$")  # [layers, batch, size]
_SAMPLE_RATE = re.compile(r"(^|[._/])sr($|[._/:])|sample_?rate|sampling_?rate")
_LETTERS = {"n": "batch", "b": "batch", "bs": "batch", "t": "sequence", "s": "sequence", "l": "sequence"}
_LETTERS |= {"h": "height", "w": "width", "c": "channels"}
# In order: the first pattern found in a dimension's name gives its role.
_ROLE_OF_NAME: tuple[tuple[str, str], ...] = (
    ("batch", r"batch|(^|_)bs$"),
    ("total", r"total|\+"),
    ("past", r"past|cache"),
    ("height", r"height|(^|_)h$|rows"),
    ("width", r"width|(^|_)w$|cols"),
    ("heads", r"head"),
    ("channels", r"chan"),
    ("samples", r"sample|audio|wav"),
    ("sequence", r"seq|len|time|token|frame|step|word|char|phoneme"),
    ("feature", r"feat|hidden|embed|dim$|input_size"),
)


@dataclass(frozen=True)
class DimPlan:
    """A size for every role; `default` for roles without one; `spread` gives each unknown name a size of its own."""

    name: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    default: int = 8
    ranks: tuple[int, ...] = (2, 3)
    zero: int = 0
    spread: bool = False

    def size(self, role: str) -> int:
        """The size of a role under this plan."""
        if role == "total" and "total" not in self.sizes:
            return self.size("past") + self.size("sequence")
        return self.sizes.get(role, self.default)


def _plan(name: str, batch: int, sequence: int, past: int, image: tuple[int, int], other: int, **more: int) -> DimPlan:
    height, width = image
    sizes = {"batch": batch, "sequence": sequence, "past": past, "height": height, "width": width}
    sizes |= {"channels": 3, "heads": 4, "feature": 8, "samples": 512}
    return DimPlan(name, sizes | more, other)


MAIN_PLANS = (
    _plan("usual", 2, 8, 4, (64, 64), 8),
    _plan("single", 1, 13, 3, (96, 96), 5, samples=1024),
    _plan("odd", 3, 7, 5, (96, 64), 6, samples=1536),
    _plan("decode", 1, 1, 6, (128, 128), 1, samples=256),
    _plan("first", 2, 5, 0, (64, 96), 7),
    DimPlan(
        "distinct", {"batch": 3, "sequence": 5, "past": 2, "channels": 3, "height": 96, "width": 96}, 9, spread=True
    ),
)
TYPICAL = _plan("typical", 1, 128, 128, (224, 224), 128, samples=16000)
"""Sizes as in use, for measuring: one item, a sentence, an image."""
SHORTER = tuple(
    _plan(f"typical, at most {size}", 1, size, size, (image, image), size, samples=250 * size)
    for size, image in ((64, 128), (32, 64), (16, 32), (8, 28))
)
"""The same for models that take no more, longest first."""
_FALLBACK_SIZES = (1, 2, 8, 16, 4, 3, 32, 28, 64, 224, 128, 320, 512, 640, 256, 1024, 4096, 16000)
_RANKS: Mapping[str, tuple[int, ...]] = {
    "usual": (2, 3), "single": (1,), "odd": (3, 4, 5), "decode": (), "first": (1, 3, 8, 8), "distinct": (4,),
}  # fmt: skip


def plans() -> Iterator[DimPlan]:
    """Plans from the likeliest to the last resort."""
    for plan in MAIN_PLANS:
        yield replace(plan, ranks=_RANKS[plan.name])
    for size in _FALLBACK_SIZES:
        yield DimPlan(f"size {size}", {"batch": 1, "channels": 3}, size, (size,), 1)
        yield DimPlan(f"all {size}", {}, size, (size, size), 1)


def role_of(dim: Dim, axis: int, spec: InputSpec, audio: bool = False) -> str:
    """The role of a dynamic dimension by its name, else by its place in the input."""
    if isinstance(dim, str):
        name = dim.lower()
        if name in _LETTERS:
            return _LETTERS[name]
        for role, pattern in _ROLE_OF_NAME:
            if re.search(pattern, name):
                return role
        if not _GENERIC.fullmatch(name.split(":")[-1].split("/")[-1]):
            return "other"
    return _role_by_place(axis, spec, audio)


def _role_by_place(axis: int, spec: InputSpec, audio: bool) -> str:
    shape, name = spec.shape or (), spec.name.lower()
    rank = len(shape)
    if axis == 0:
        return "batch"
    if axis == 1 and rank == 3 and isinstance(shape[0], int) and _RECURRENT.search(name):
        return "batch"
    if _CACHE.search(name) and rank >= 3:
        return {rank - 2: "past", 1: "heads"}.get(axis, "feature")
    if rank >= 4 and spec.elem_type not in _INTEGERS:
        channels_last = isinstance(shape[-1], int) and not isinstance(shape[1], int)
        if axis == (rank - 1 if channels_last else 1):
            return "channels"
        return "width" if axis == rank - (2 if channels_last else 1) else "height"
    if audio and axis == rank - 1:
        return "samples"
    if spec.elem_type in _INTEGERS or (rank >= 3 and axis == 1) or "mask" in name:
        return "sequence"
    return "feature"


class Dimensions:
    """The dynamic dimensions of a signature: turns a plan into shapes."""

    def __init__(self, specs: Sequence[InputSpec], hints: Hints) -> None:
        self.tensors = [spec for spec in map(innermost, specs) if spec is not None]
        self.hints = hints
        self.audio = any(_SAMPLE_RATE.search(spec.name.lower()) for spec in self.tensors)
        self.roles = self._symbol_roles()
        self._past = "past" in self.roles.values() or any(_CACHE.search(spec.name.lower()) for spec in self.tensors)

    def _symbol_roles(self) -> dict[str, str]:
        roles: dict[str, str] = {}
        for spec in self.tensors:
            for axis, dim in enumerate(spec.shape or ()):
                if isinstance(dim, str) and roles.get(dim, "other") == "other":
                    roles[dim] = role_of(dim, axis, spec, self.audio)
        if "past" in roles.values():
            for spec in self.tensors:
                if "mask" in spec.name.lower() and spec.shape and isinstance(spec.shape[-1], str):
                    symbol = spec.shape[-1]
                    if roles[symbol] == "sequence" and self._only_in_masks(symbol):
                        roles[symbol] = "total"
        return roles

    def _only_in_masks(self, symbol: str) -> bool:
        return all("mask" in spec.name.lower() for spec in self.tensors if symbol in (spec.shape or ()))

    def shapes(self, plan: DimPlan) -> Shapes:
        """The shape of every tensor input under a plan."""
        sizes = self.symbol_sizes(plan)
        return {spec.name: self._shape(spec, plan, sizes) for spec in self.tensors}

    def symbol_sizes(self, plan: DimPlan) -> dict[str, int]:
        """The size of every symbolic dimension under a plan; sums and products follow from their terms."""
        sizes = {symbol: plan.size(role) for symbol, role in self.roles.items()}
        if plan.spread:
            free = [symbol for symbol, role in self.roles.items() if role in ("other", "feature", "heads")]
            sizes.update({symbol: plan.default + 2 * place for place, symbol in enumerate(free)})
        sizes.update({symbol: size for symbol, size in self.hints.symbols.items() if symbol in sizes})
        for symbol in self.roles:
            if symbol not in self.hints.symbols:
                computed = evaluate(symbol, lambda term: self._term(term, sizes, plan))
                if computed is not None and computed >= 0:
                    sizes[symbol] = computed
        return sizes

    def role_sizes(self, plan: DimPlan) -> dict[str, int]:
        """The size that stands for each role under a plan: that of a dimension with this role, else the plan's own."""
        sizes = {role: plan.size(role) for role in ("past", "sequence", "total", "samples")}
        symbols = self.symbol_sizes(plan)
        return sizes | {role: symbols[symbol] for symbol, role in reversed(self.roles.items()) if role in sizes}

    def _term(self, term: str, sizes: Mapping[str, int], plan: DimPlan) -> int:
        if term in sizes:
            return sizes[term]
        if term in self.hints.symbols:
            return self.hints.symbols[term]
        return plan.size(role_of(term, 1, InputSpec("", "tensor", 0, (None, None))))

    def _shape(self, spec: InputSpec, plan: DimPlan, sizes: Mapping[str, int]) -> tuple[int, ...]:
        if spec.shape is None:
            return plan.ranks
        return tuple(self._size(dim, axis, spec, plan, sizes) for axis, dim in enumerate(spec.shape))

    def _size(self, dim: Dim, axis: int, spec: InputSpec, plan: DimPlan, sizes: Mapping[str, int]) -> int:
        if isinstance(dim, int):
            return dim or plan.zero
        if isinstance(dim, str):
            return sizes[dim]
        if (spec.name, axis) in self.hints.axes:
            return self.hints.axes[spec.name, axis]
        role = role_of(dim, axis, spec, self.audio)
        if role == "sequence" and self._past and "mask" in spec.name.lower():
            role = "total"
        return plan.size(role)

    def describe(self, plan: DimPlan) -> str:
        """The sizes of the named dimensions, such as "batch=2 sequence=8"; else the plan's name when any is dynamic."""
        sizes = self.symbol_sizes(plan)
        if sizes:
            return " ".join(f"{symbol.replace(' ', '')}={size}" for symbol, size in list(sizes.items())[:4])
        if all(spec.is_static for spec in self.tensors):
            return "fixed"
        return plan.name


def innermost(spec: InputSpec) -> InputSpec | None:
    """The tensor inside sequences, optionals and maps; None for kinds without one."""
    while spec.kind != "tensor":
        if spec.item is None:
            return None
        spec = spec.item
    return spec


_LONGEST_EXPRESSION = 200  # characters; a name is free text of the model's author
_BINARY: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Div: operator.truediv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_CALLS: Mapping[str, Callable[..., float]] = {"floor": math.floor, "ceiling": math.ceil, "ceil": math.ceil}
_CALLS = {**_CALLS, "max": max, "min": min, "Max": max, "Min": min, "trunc": math.trunc}


def evaluate(text: str, size_of: Callable[[str], int]) -> int | None:
    """The value of a dimension's name that is an expression such as "past + 2*seq"; None when it is a plain name."""
    if len(text) > _LONGEST_EXPRESSION:
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if isinstance(tree, ast.Name | ast.Constant | ast.Attribute):
        return None
    try:
        return int(_fold(tree, size_of))
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def _fold(node: ast.expr, size_of: Callable[[str], int]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            return size_of(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_fold(operand, size_of)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            values = _fold(left, size_of), _fold(right, size_of)
            if isinstance(op, ast.Pow) and abs(values[1]) > 8:
                raise ValueError("exponent too large")
            return _BINARY[type(op)](*values)
        case ast.Call(func=ast.Name(id=name), args=args) if name in _CALLS and args:
            return _CALLS[name](*(_fold(arg, size_of) for arg in args))
        case _:
            raise ValueError("not an arithmetic expression")
