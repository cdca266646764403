"""Values between the processes: what a model takes and returns, as plain numpy arrays and Python objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# ml_dtypes name -> (ONNX element type, bits). numpy itself knows the other ONNX types.
EXTENDED_TYPES: Mapping[str, tuple[int, int]] = {
    "bfloat16": (16, 16),
    "float8_e4m3fn": (17, 8),
    "float8_e4m3fnuz": (18, 8),
    "float8_e5m2": (19, 8),
    "float8_e5m2fnuz": (20, 8),
    "uint4": (21, 4),
    "int4": (22, 4),
    "float4_e2m1fn": (23, 4),
    "float8_e8m0fnu": (24, 8),
    "uint2": (25, 2),
    "int2": (26, 2),
}
EXTENDED_NAMES: Mapping[int, str] = {number: name for name, (number, _) in EXTENDED_TYPES.items()}
_RUNTIME_NAMES = (  # as the runtime writes them inside tensor(...), in the order of EXTENDED_TYPES
    "bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz uint4 int4 float4e2m1 float8e8m0 uint2 int2"
)
RUNTIME_TYPES: Mapping[str, int] = {
    f"tensor({name})": number for name, (number, _) in zip(_RUNTIME_NAMES.split(), EXTENDED_TYPES.values(), strict=True)
}


def encode(value: Any) -> Any:
    """A value as the wire carries it: (kind, ...) tuples of plain numpy arrays and Python objects.

    Kinds: none; array (a type numpy knows); packed (ONNX type, shape, bytes as the runtime lays them out);
    sequence; object (maps and scalars). Raises TypeError for a type ONNX does not have.
    """
    if value is None:
        return ("none",)
    if isinstance(value, (list, tuple)):
        return ("sequence", [encode(item) for item in value])
    if isinstance(value, dict):
        return ("object", value)
    array = np.asarray(value)
    if array.dtype.name in EXTENDED_TYPES:
        number, bits = EXTENDED_TYPES[array.dtype.name]
        return ("packed", number, array.shape, _pack(array, bits))
    if array.dtype.kind in "VMm":
        raise TypeError(f"{array.dtype.name} is not a type of ONNX")
    if array.dtype.kind == "U":
        array = array.astype(object)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return ("array", array)


def decode(wire: Any) -> Any:
    """The value of an encoded tuple; 4-bit to bfloat16 tensors come as arrays of the ml_dtypes type."""
    kind = wire[0]
    if kind == "none":
        return None
    if kind == "sequence":
        return [decode(item) for item in wire[1]]
    if kind == "packed":
        return _unpack(*wire[1:])
    return wire[1]


def _pack(array: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    raw: NDArray[np.uint8] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if bits >= 8:
        return raw
    per_byte = 8 // bits
    raw = np.concatenate([raw & ((1 << bits) - 1), np.zeros(-raw.size % per_byte, np.uint8)]).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(raw << shifts, axis=1).astype(np.uint8)
    return packed


def _unpack(number: int, shape: Sequence[int], raw: NDArray[np.uint8]) -> NDArray[Any]:
    import ml_dtypes

    name = EXTENDED_NAMES[number]
    bits = EXTENDED_TYPES[name][1]
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    if bits >= 8:
        whole: NDArray[Any] = raw.view(dtype)
        return whole.reshape(shape)
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    codes: NDArray[np.uint8] = ((raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)
    codes = codes[: int(np.prod(shape, dtype=np.int64))]
    return codes.view(dtype).reshape(shape)
