"""The way in: a model is read, repaired where it runs but is untidy, and refused where it is broken.

Works on protobuf messages only; weights in external files are checked by name and size and never read here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from mmap import mmap
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError

from accelc.errors import ModelError
from accelc.importer import types
from accelc.importer.external import FileRange, bytes_referred, check_external
from accelc.importer.hollow import INSIDE
from accelc.importer.names import resolve
from accelc.importer.operators import check_operators
from accelc.importer.opsets import settle_opsets
from accelc.importer.parse import read_proto
from accelc.importer.repair import has_foreign_fields, settle_ir_version, settle_names, settle_text, settle_values
from accelc.importer.scopes import Scan, scan
from accelc.importer.skeleton import skeleton
from accelc.importer.tensors import Surplus, check_tensors, clear_surplus

__all__ = ["INSIDE", "FileRange", "Imported", "import_proto", "read_model"]


@dataclass(frozen=True)
class Imported:
    """A model fit for use.

    proto: repaired; external tensors are still external. base_dir: the folder their locations are relative to.
    repairs: one plain sentence each. bytes: the model file and the external bytes it refers to, each byte once.
    generated_names: names of nodes that had none. inferred: the model without weights and with all types that onnx can
    infer. file: the model's own file, mapped, when weights were left in it (see accelc.importer.hollow).
    """

    proto: onnx.ModelProto
    base_dir: Path
    repairs: tuple[str, ...]
    bytes: int
    generated_names: frozenset[str] = frozenset()
    inferred: onnx.ModelProto = field(default_factory=onnx.ModelProto, repr=False)
    file: mmap | None = field(default=None, repr=False)


def read_model(path: str | os.PathLike[str], *, leave_weights: bool = False) -> Imported:
    """Read, repair and check the model in a file. leave_weights: large ones are left in it and named by their place.

    Raises: UsageError when there is no such file; ModelError when the model is broken.
    """
    file = Path(path)
    try:
        proto, size, mapped = read_proto(file, leave_weights=leave_weights)
        found = _import(proto, file.parent, size, owned=True, hollow=mapped is not None)
        return replace(found, file=mapped)
    except ModelError as error:
        raise _located(error, str(path)) from None


def import_proto(proto: onnx.ModelProto, base_dir: Path | None = None, where: str = "model") -> Imported:
    """Repair and check a model in memory. The caller's proto is never changed; it is copied only to be repaired.

    base_dir: the folder of external data; None: external data is refused. where: how messages name the model.
    Raises: ModelError when the model is broken.
    """
    try:
        if not proto.HasField("graph"):
            raise ModelError("the model holds no graph", hint="pass the ModelProto that an exporter made")
        return _import(proto, base_dir, None, owned=False)
    except ModelError as error:
        raise _located(error, where) from None


def _located(error: ModelError, where: str) -> ModelError:
    place = f"{where}: {error.where}" if error.where else where
    return ModelError(error.what, where=place, why=error.why, hint=error.hint)


def _import(
    proto: onnx.ModelProto, base_dir: Path | None, size: int | None, *, owned: bool, hollow: bool = False
) -> Imported:
    read = scan(proto)
    surplus = check_tensors(read)
    ranges = check_external(read, base_dir, own=hollow)
    copy = None if owned else skeleton(read, ranges)
    if copy is not None:
        trial, _ = _repair(scan(copy.proto), [])
        if trial or surplus:
            proto, owned = _copied(proto), True
            read = scan(proto)
    if owned:
        repairs, generated = _repair(read, surplus)
    else:
        repairs, generated = [], frozenset()
    used = check_operators(read)
    copy = skeleton(read, ranges) if owned else copy
    assert copy is not None
    foreign = has_foreign_fields(proto, copy.proto)
    settled = types.infer(copy, read, typed=used.typed)
    types.check(copy, used.foreign)
    if not owned and (settled.outputs or settled.stale or foreign):
        proto = _copied(proto)
    if foreign:
        proto.DiscardUnknownFields()
        repairs.append("removed fields that are no part of ONNX")
    repairs += types.apply(settled, proto)
    total = size if size is not None else _size(proto)
    folder = base_dir if base_dir is not None else Path()
    return Imported(proto, folder, tuple(repairs), total + bytes_referred(ranges.values()), generated, settled.inferred)


def _repair(read: Scan, surplus: list[Surplus]) -> tuple[list[str], frozenset[str]]:
    """Repair a model in place."""
    repairs = clear_surplus(read, surplus)
    repairs += settle_text(read)
    repairs += settle_values(read)
    repairs += settle_opsets(read)
    repairs += settle_ir_version(read)
    repairs += resolve(read)
    named, generated = settle_names(read)
    return repairs + named, generated


def _size(proto: onnx.ModelProto) -> int:
    try:
        return proto.ByteSize()
    except EncodeError:
        raise ModelError(
            "the model is larger than a protobuf can be",
            why="the limit is 2 GiB",
            hint="keep its weights as external data",
        ) from None


def _copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy
