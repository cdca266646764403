"""Values for one input: recognised by name and type (masks, ids, positions, lengths, rates), else by type.

A *mode* says which kind of values: MODES are ordinary, EDGE_MODES probe the ends of the type.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from accelc.data.specs import InputSpec, Value
from accelc.errors import UsageError

MODES = ("normal", "padded", "small", "unit", "bits", "ones", "zeros", "range")
EDGE_MODES = ("edge-zeros", "edge-ones", "edge-large", "edge-negative-zero", "edge-denormal", "edge-nan", "edge-inf")

Array = np.ndarray[Any, np.dtype[Any]]

_T = onnx.TensorProto
_FLOATS = {number for name, number in _T.DataType.items() if name.startswith(("FLOAT", "BFLOAT", "DOUBLE"))}
_WIDE_INTEGERS = {_T.INT16, _T.INT32, _T.INT64, _T.UINT16, _T.UINT32, _T.UINT64}
_COMPLEX = {_T.COMPLEX64, _T.COMPLEX128}
_WORDS = ("hello", "world", "a", "1", "2.5", "", "the quick brown fox", "naïve café")


@dataclass(frozen=True)
class Setting:
    """What values depend on besides their input: the mode, the sizes of roles, bounds of index inputs and the seed."""

    mode: str
    sizes: Mapping[str, int]
    bounds: Mapping[str, int]
    seed: int

    @property
    def edge(self) -> bool:
        """True when the mode probes the ends of the type."""
        return self.mode in EDGE_MODES


def make_value(spec: InputSpec, shape: tuple[int, ...], setting: Setting) -> Value:
    """A value for one input; `shape` is that of its (innermost) tensor. The same arguments give the same value.

    Raises: UsageError for kinds that no runtime can be fed with (sparse tensors, unknown kinds).
    """
    rng = np.random.default_rng([setting.seed, zlib.crc32(spec.name.encode())])
    return _value(spec, shape, setting, rng)


def _value(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Value:
    match spec.kind, spec.item:
        case "tensor", _:
            return make_tensor(spec, shape, setting, rng)
        case "sequence", InputSpec() as item:
            return [_value(item, shape, setting, rng) for _ in range(1 + setting.seed % 3)]
        case "optional", InputSpec() as item:
            return None if setting.mode == "edge-zeros" else _value(item, shape, setting, rng)
        case "map", InputSpec() as item:
            keys = _WORDS[:3] if spec.key_type == _T.STRING else range(3)
            return {key: _value(item, shape, setting, rng) for key in keys}
        case _:
            raise UsageError(
                "no values can be made for this input",
                where=f"input {spec.name}",
                why=f"its kind is {spec.kind}",
                hint="give a file with --inputs or check the model's declaration",
            )


def make_tensor(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array:
    """A tensor of the spec's type and the given shape."""
    if spec.elem_type == _T.STRING:
        words = np.array(_WORDS, dtype=object)
        return np.asarray(
            words[rng.permutation(np.arange(int(np.prod(shape))) % len(words))].reshape(shape), dtype=object
        )
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type)
    except KeyError:
        why = f"its element type is {spec.elem_type}"
        raise UsageError("no values can be made for this input", where=f"input {spec.name}", why=why) from None
    if spec.elem_type in _FLOATS:
        return _floats(spec, shape, dtype, setting, rng)
    if spec.elem_type in _COMPLEX:
        value = np.empty(shape, dtype)
        half = value.real.dtype
        value.real = _floats(spec, shape, half, setting, rng)
        value.imag = _floats(spec, shape, half, setting, rng)
        return value
    special = _special(spec, shape, setting, rng)
    if special is None:
        special = _integers(spec, shape, dtype, setting, rng)
    return np.asarray(special).astype(dtype)


# Inputs known by name and type ---------------------------------------------------------------------------------------

_Maker = Callable[[InputSpec, tuple[int, ...], Setting, np.random.Generator], Any]


def _special(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array | None:
    """Values for inputs that carry meaning, None for all others and for the modes that override meaning."""
    if setting.mode in ("bits", "ones", "zeros", "range"):
        return None
    name = re.sub(r"[^a-z0-9]+", "_", spec.name.lower()).strip("_")
    for pattern, types, make in _KNOWN:
        if spec.elem_type in types and re.search(pattern, name):
            return np.asarray(make(spec, shape, setting, rng))
    return None


def _mask(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array:
    """Ones, with a tail of zeros in the padded mode; every row keeps at least one. Padding masks are the inverse."""
    keep = np.ones(shape, np.int8)
    if setting.mode != "normal" and shape and shape[-1] > 1:
        lengths = rng.integers(max(1, shape[-1] // 2), shape[-1] + 1, shape[:1] if len(shape) > 1 else ())
        lengths = np.asarray(lengths).reshape(lengths.shape[:1] + (1,) * (len(shape) - lengths.ndim))
        keep = np.broadcast_to(np.arange(shape[-1]) < lengths, shape)
    inverted = spec.elem_type == _T.BOOL and re.search(r"pad", spec.name.lower())
    return np.asarray(1 - keep if inverted else keep)


def _token_types(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array:
    if setting.mode == "normal" or not shape:
        return np.zeros(shape)
    return np.broadcast_to(np.arange(shape[-1]) >= (shape[-1] + 1) // 2, shape)


def _positions(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array:
    start = setting.sizes.get("past", 0)
    return np.broadcast_to(np.arange(shape[-1]) + start, shape) if shape else np.full(shape, start)


def _sample_rate(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array:
    return np.full(shape, 8000 if setting.sizes.get("samples") == 256 else 16000)


def _lengths(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array:
    """Lengths of sequences: the whole length first, then anything between one and it."""
    longest = max(1, setting.sizes.get("total" if "total" in spec.name.lower() else "sequence", 4))
    return np.full(shape, longest) if setting.mode == "normal" else rng.integers(1, longest + 1, shape)


def _axes(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array:
    return np.arange(int(np.prod(shape))).reshape(shape)


def _shape(spec: InputSpec, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array:
    """Fours at first; later a shape that any tensor can be given: -1, 1, 1, ..."""
    if setting.mode != "small" or len(shape) != 1:
        return np.full(shape, 4)
    return np.where(np.arange(shape[0]) == 0, -1, 1)


def _constant(value: int) -> _Maker:
    return lambda spec, shape, setting, rng: np.full(shape, value)


_LONGEST_GENERATED = 20
_KNOWN: tuple[tuple[str, AbstractSet[int], _Maker], ...] = (
    (r"mask", _WIDE_INTEGERS | {_T.BOOL, _T.INT8, _T.UINT8}, _mask),
    (r"segment|token_type|type_id", _WIDE_INTEGERS, _token_types),
    (r"position|cache_pos", _WIDE_INTEGERS, _positions),
    (r"(^|_)sr($|_)|sample_?rate|sampling_?rate", _WIDE_INTEGERS, _sample_rate),
    (r"max_(new_)?(len|tokens)", _WIDE_INTEGERS, _constant(_LONGEST_GENERATED)),
    (r"min_(new_)?(len|tokens)|num_return|return_sequences|no_repeat", _WIDE_INTEGERS, _constant(1)),
    (r"num_|steps|(^|_)k($|_)|depth|repeats|trip_count|beams", _WIDE_INTEGERS, _constant(2)),
    (r"axis|axes", _WIDE_INTEGERS, _axes),
    (r"(^|_)starts?($|_)", _WIDE_INTEGERS, _constant(0)),
    (r"(^|_)ends?($|_)", _WIDE_INTEGERS, _constant(2)),
    (r"shape|size", _WIDE_INTEGERS, _shape),
    (r"len", _WIDE_INTEGERS, _lengths),
)


# Integers and booleans -----------------------------------------------------------------------------------------------

_VOCABULARY = 50  # Small enough for most tables; the bound read from the graph is used where there is one.


def _integers(
    spec: InputSpec, shape: tuple[int, ...], dtype: np.dtype[Any], setting: Setting, rng: np.random.Generator
) -> Array:
    mode = setting.mode
    bound = setting.bounds.get(spec.name)
    boolean = spec.elem_type == _T.BOOL
    if mode in ("ones", "edge-ones"):
        return np.ones(shape)
    if mode in ("zeros", "edge-zeros"):
        return np.zeros(shape)
    if boolean or mode == "bits":
        return rng.integers(0, min(2, bound or 2), shape)
    if mode == "range":
        last = max(1, shape[-1] if shape else 1)
        return np.broadcast_to(np.arange(last), shape) % min(last, bound or last) if shape else np.zeros(shape)
    if bound is not None:
        return rng.integers(0, min(bound, 5) if mode == "small" else bound, shape)
    if spec.elem_type not in _WIDE_INTEGERS:
        info: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
        low, high = int(info.min), int(info.max)
        if mode == "edge-large":
            return rng.choice(np.array([low, high]), shape)
        return rng.integers(0 if mode == "small" else low, min(5, high) if mode == "small" else high + 1, shape)
    return rng.integers(0, 5 if mode in ("small", "unit") else _VOCABULARY, shape)


# Floating point ------------------------------------------------------------------------------------------------------


def _floats(
    spec: InputSpec, shape: tuple[int, ...], dtype: np.dtype[Any], setting: Setting, rng: np.random.Generator
) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(_float_values(spec, shape, dtype, setting, rng)).astype(dtype)


def _float_values(
    spec: InputSpec, shape: tuple[int, ...], dtype: np.dtype[Any], setting: Setting, rng: np.random.Generator
) -> Array:
    """float64 values that `dtype` can hold."""
    name, mode = spec.name.lower(), setting.mode
    if mode in ("ones", "edge-ones"):
        return np.ones(shape)
    if mode in ("zeros", "edge-zeros"):
        return np.zeros(shape)
    if not setting.edge and "mask" in name:
        return np.asarray(_mask(spec, shape, setting, rng), dtype=np.float64)
    if mode == "range":
        return np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape) % 7
    positive = re.search(r"scale|penalty|temperature|thresh|prob|ratio|sigma|(^|_)std", name)
    if mode in ("unit", "bits") or (positive and not setting.edge):
        return rng.uniform(0.05, 0.95, shape)
    values = rng.standard_normal(shape)
    if mode == "small":
        return values * 0.1
    return _edge(values, dtype, mode, rng) if setting.edge else values


def _edge(values: Array, dtype: np.dtype[Any], mode: str, rng: np.random.Generator) -> Array:
    """Edge values of `dtype` in place of about one eighth of the values, at least one (all of them for large)."""
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    if mode == "edge-large":
        return values * min(1e4, float(info.max) / 8)
    special = {
        "edge-negative-zero": (-0.0,),
        "edge-denormal": (float(info.smallest_subnormal), -float(info.smallest_normal) / 2),
        "edge-nan": (np.nan,),
        "edge-inf": (np.inf, -np.inf),
    }[mode]
    if values.size:
        places = rng.choice(values.size, max(1, min(values.size // 8, 64)), replace=False)
        values = values.copy()
        values.reshape(-1)[places] = np.resize(np.array(special), places.size)
    return values


def changes_floats(specs: tuple[InputSpec, ...]) -> bool:
    """True when any input holds floating-point or complex values, which are what most edge modes change."""
    return any(spec.elem_type in _FLOATS | _COMPLEX for spec in specs)
