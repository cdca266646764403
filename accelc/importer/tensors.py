"""Tensors as stored: a known type, possible dimensions, and data that fits both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx

from accelc.errors import ModelError
from accelc.importer.scopes import Scan, SparseRef

_T = onnx.TensorProto
_MAX_ELEMENTS = 2**63 - 1

_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True)
class Storage:
    """How a type is stored. bits: of one element in raw data (0: never raw). field: of typed data.

    entries: entries of the typed field for n elements is ceil(n * entries).
    """

    bits: int
    field: str
    entries: float = 1


STORAGE: dict[int, Storage] = {
    _T.FLOAT: Storage(32, "float_data"),
    _T.DOUBLE: Storage(64, "double_data"),
    _T.COMPLEX64: Storage(64, "float_data", 2),
    _T.COMPLEX128: Storage(128, "double_data", 2),
    _T.INT64: Storage(64, "int64_data"),
    _T.UINT64: Storage(64, "uint64_data"),
    _T.UINT32: Storage(32, "uint64_data"),
    _T.STRING: Storage(0, "string_data"),
    _T.INT32: Storage(32, "int32_data"),
    **{kind: Storage(16, "int32_data") for kind in (_T.INT16, _T.UINT16, _T.FLOAT16, _T.BFLOAT16)},
    **{kind: Storage(8, "int32_data") for kind in (_T.INT8, _T.UINT8, _T.BOOL)},
    **{
        kind: Storage(8, "int32_data")
        for kind in (_T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ, _T.FLOAT8E8M0)
    },
    **{kind: Storage(4, "int32_data", 0.5) for kind in (_T.UINT4, _T.INT4, _T.FLOAT4E2M1)},
    **{kind: Storage(2, "int32_data", 0.25) for kind in (_T.UINT2, _T.INT2)},
    **{kind: Storage(6, "int32_data") for kind in (_T.FLOAT6E2M3, _T.FLOAT6E3M2)},
}
"""Every element type that has tensors, by its ONNX number."""


@dataclass(frozen=True)
class Surplus:
    """Data beside the data: fields that a tensor fills although they say nothing. index: into Scan.tensors."""

    index: int
    fields: tuple[str, ...]


def type_name(kind: int) -> str:
    """FLOAT, INT64, ... or the bare number of an unknown type."""
    return str(_T.DataType.Name(kind)) if kind in _T.DataType.values() else str(kind)


def elements(dims: tuple[int, ...], where: str) -> int:
    """The number of elements of a shape. Raises: ModelError when a dimension is negative or the product overflows."""
    for dim in dims:
        if dim < 0:
            raise ModelError("a tensor has a negative dimension", where=where, why=f"shape {list(dims)}")
    count = math.prod(dims)
    if count > _MAX_ELEMENTS or math.prod(dim for dim in dims if dim) > _MAX_ELEMENTS:
        raise ModelError("a tensor has impossible dimensions", where=where, why=f"shape {list(dims)} overflows 64 bits")
    return count


def stored_bytes(kind: int, count: int) -> int:
    """Bytes of n elements as raw or external data; elements below a byte are packed."""
    return (count * STORAGE[kind].bits + 7) // 8


def check_tensors(scan: Scan) -> list[Surplus]:
    """Check every tensor that is not external, and report the harmless surplus. External ones: their type and shape.

    Raises: ModelError when type, dimensions and data do not fit each other.
    """
    found = []
    for index, ref in enumerate(scan.tensors):
        surplus = _check(ref.proto, ref.where)
        if surplus:
            found.append(Surplus(index, surplus))
    for sparse in scan.sparse:
        _check_sparse(sparse)
    return found


def clear_surplus(scan: Scan, surplus: list[Surplus]) -> list[str]:
    """Remove what `check_tensors` found to say nothing."""
    for item in surplus:
        for name in item.fields:
            scan.tensors[item.index].proto.ClearField(name)
    return [f"removed data stored twice from {len(surplus)} tensor(s)"] if surplus else []


def _check(tensor: onnx.TensorProto, where: str) -> tuple[str, ...]:
    kind, dims = tensor.data_type, tuple(tensor.dims)
    storage = STORAGE.get(kind)
    if storage is None:
        raise ModelError(
            "a tensor has an unknown element type",
            where=where,
            why=f"type {kind}" if kind else "the type is not set",
            hint="the file may be damaged, or newer than the installed onnx",
        )
    count = elements(dims, where)
    if tensor.data_location == _T.EXTERNAL:
        return _check_external(tensor, where, storage)
    surplus: list[str] = ["external_data"] if tensor.external_data else []
    surplus += ["segment"] if tensor.HasField("segment") else []
    filled = {name: _length(tensor, name) for name in _FIELDS if name != "raw_data"}
    filled = {name: length for name, length in filled.items() if length}
    wanted = math.ceil(count * storage.entries)
    raw_bytes = len(tensor.raw_data)  # reading the field copies it: once is enough
    if tensor.HasField("raw_data") and (raw_bytes or not filled):
        _check_raw(tensor, where, storage, count, raw_bytes)
        if filled and not _same_twice(tensor, storage, filled, wanted):
            raise ModelError(
                "a tensor holds two different sets of data",
                where=where,
                why=f"raw_data and {', '.join(filled)}",
                hint="export the model again",
            )
        return (*surplus, *filled)
    have = filled.pop(storage.field, 0)
    if have != wanted:
        raise ModelError(
            "a tensor's data does not fit its shape",
            where=where,
            why=f"{type_name(kind)}{list(dims)} needs {wanted} entries in {storage.field}, found {have}",
            hint="the file may be damaged; export it again",
        )
    surplus += ["raw_data"] if tensor.HasField("raw_data") else []
    return (*surplus, *filled)


def _length(tensor: onnx.TensorProto, name: str) -> int:
    return len(getattr(tensor, name))


def _check_raw(tensor: onnx.TensorProto, where: str, storage: Storage, count: int, have: int) -> None:
    if not storage.bits:
        raise ModelError("a string tensor is stored as raw bytes", where=where, why="strings need string_data")
    wanted = stored_bytes(tensor.data_type, count)
    if have != wanted:
        raise ModelError(
            "a tensor's data does not fit its shape",
            where=where,
            why=f"{type_name(tensor.data_type)}{list(tensor.dims)} needs {wanted} bytes, found {have}",
            hint="the file may be damaged; export it again",
        )


def _same_twice(tensor: onnx.TensorProto, storage: Storage, filled: dict[str, int], wanted: int) -> bool:
    if filled != {storage.field: wanted}:
        return False
    typed = onnx.TensorProto()
    typed.data_type = tensor.data_type
    typed.dims.extend(tensor.dims)
    getattr(typed, storage.field).extend(getattr(tensor, storage.field))
    raw = onnx.TensorProto()
    raw.data_type = tensor.data_type
    raw.dims.extend(tensor.dims)
    raw.raw_data = tensor.raw_data
    both = (onnx.numpy_helper.to_array(typed).tobytes(), onnx.numpy_helper.to_array(raw).tobytes())
    return both[0] == both[1]


def _check_external(tensor: onnx.TensorProto, where: str, storage: Storage) -> tuple[str, ...]:
    if not storage.bits:
        raise ModelError("a string tensor is stored as external data", where=where, why="strings need string_data")
    held = [name for name in _FIELDS if _length(tensor, name)]
    if held:
        raise ModelError(
            "a tensor is stored twice",
            where=where,
            why=f"it names external data and also holds {', '.join(held)}",
            hint="export the model again",
        )
    return ("segment",) if tensor.HasField("segment") else ()


def _check_sparse(ref: SparseRef) -> None:
    """values: [n]; indices: INT64 [n] or [n, rank], ascending, unique and inside dims."""
    sparse, where = ref.proto, ref.where
    dims, values, indices = tuple(sparse.dims), tuple(sparse.values.dims), tuple(sparse.indices.dims)
    count = elements(dims, where)
    why = ""
    if len(values) != 1:
        why = f"the values have shape {list(values)}, one dimension is needed"
    elif sparse.indices.data_type != _T.INT64:
        why = f"the indices are {type_name(sparse.indices.data_type)}, INT64 is needed"
    elif indices not in ((values[0],), (values[0], len(dims))):
        why = f"the indices have shape {list(indices)} for {values[0]} values of rank {len(dims)}"
    elif values[0] > count:
        why = f"{values[0]} values in {count} elements"
    elif sparse.values.data_location != _T.EXTERNAL and sparse.indices.data_location != _T.EXTERNAL and dims:
        try:
            onnx.checker.check_sparse_tensor(sparse)
        except onnx.checker.ValidationError as error:
            why = " ".join(str(error).split("==>")[0].split())
    if why:
        raise ModelError("a sparse tensor is malformed", where=where, why=why, hint="export the model again")
