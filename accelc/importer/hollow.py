"""Large weights stay in the model's own file: it is mapped, and only what lies between them is parsed.

Every copy of a large model's bytes costs as much as all of the rest of the import. A weight that was left out says so
as external data does, with a location that no model can name: `check_external` refuses absolute ones.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from accelc.importer.tensors import STORAGE, stored_bytes

INSIDE = "//inside"
"""The location of a weight that lies in the model's own file."""

_LEAST = 1 << 16
"""Bytes of a weight that is worth leaving out."""
_SMALL_FILE = 1 << 24
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_PLAIN_FIELDS = frozenset({1, 2, 8, 12})  # dims, data_type, name, doc_string


@dataclass(frozen=True)
class Hollow:
    """A model file without its large weights. light: what is left, a model of its own. file: the whole, mapped."""

    light: bytes
    file: mmap.mmap


class _Odd(Exception):
    """The bytes are not laid out as expected; the usual reader shall say what is wrong with them, if anything."""


def hollow(path: Path) -> Hollow | None:
    """A model file without its large weights; None where it has none, is small, or is no plain model.

    Raises OSError when the file cannot be read.
    """
    if path.stat().st_size < _SMALL_FILE:
        return None
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        light = _without_weights(data)
    except (_Odd, DecodeError, IndexError):
        return None
    return None if light is None else Hollow(light, data)


def inside(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's data was left in the model's own file."""
    return any(entry.key == "location" and entry.value == INSIDE for entry in tensor.external_data)


def _without_weights(data: mmap.mmap) -> bytes | None:
    graphs = [field for field in _fields(data, 0, len(data)) if field[0] == _GRAPH]
    if len(graphs) != 1:
        return None
    _, begin, start, stop = graphs[0]
    parts: list[bytes] = []
    end, count = start, 0
    for number, field, inner, after in _fields(data, start, stop):
        if number != _INITIALIZER or after - inner < _LEAST:
            continue
        tensor = _hollow_tensor(data, inner, after)
        if tensor is not None:
            parts += [data[end:field], tag(_INITIALIZER), varint(len(tensor)), tensor]
            end, count = after, count + 1
    if not count:
        return None
    parts.append(data[end:stop])
    size = sum(map(len, parts))
    light = b"".join([data[:begin], tag(_GRAPH), varint(size), *parts, data[stop:]])
    return light if light.count(INSIDE.encode()) == count else None  # a model may not name that place by itself


def _hollow_tensor(data: mmap.mmap, start: int, stop: int) -> bytes | None:
    """The message of a tensor that names its data instead of holding it; None for one that must stay as it is."""
    fields = list(_fields(data, start, stop))
    raw = [field for field in fields if field[0] == _RAW_DATA]
    if len(raw) != 1 or not {field[0] for field in fields} - {_RAW_DATA} <= _PLAIN_FIELDS:
        return None
    _, begin, inner, after = raw[0]
    tensor = onnx.TensorProto.FromString(data[start:begin] + data[after:stop])
    storage = STORAGE.get(tensor.data_type)
    whole = storage is not None and storage.bits in (8, 16, 32, 64) and all(dim >= 0 for dim in tensor.dims)
    if not whole or stored_bytes(tensor.data_type, math.prod(tensor.dims)) != after - inner:
        return None
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", INSIDE), ("offset", inner), ("length", after - inner)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor.SerializeToString()


def _fields(data: mmap.mmap, at: int, stop: int) -> list[tuple[int, int, int, int]]:
    """(number, begin, start of the content, end) of each field of a message that lies in data[at:stop]."""
    found = []
    while at < stop:
        begin = at
        key, at = _read_varint(data, at)
        kind = key & 7
        start = at
        if kind == _BYTES:
            size, start = _read_varint(data, at)
            at = start + size
        elif kind == _VARINT:
            _, at = _read_varint(data, at)
        elif kind == _FIXED32:
            at += 4
        elif kind == _FIXED64:
            at += 8
        else:
            raise _Odd
        found.append((key >> 3, begin, start, at))
    if at != stop:
        raise _Odd
    return found


def _read_varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise _Odd


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def tag(number: int) -> bytes:
    """What begins a field that holds bytes or a message."""
    return varint(number << 3 | _BYTES)
