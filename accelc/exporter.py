"""The way out: a model is written beside its target and renamed, with large weights in one data file when it needs one.

Weights go through memory one at a time; those that are still in a file are copied from it in pieces. Large ones that
stay in the model file are written between what protobuf makes of the rest.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from accelc import ir, stamps
from accelc.errors import ModelError, UsageError
from accelc.importer.external import FileRange, location_parts, open_data_file
from accelc.importer.hollow import tag, varint
from accelc.importer.parse import MAX_PROTO_BYTES

SMALLEST = 1024
"""Weights below this many bytes stay in the model file."""

LARGEST_PROTO = 1_800_000_000
"""Bytes of weights above which a model cannot stay one file; protobuf stops at 2 GiB."""

_PAGE = 4096
_LARGE = 1 << 20
_ALIGN = 64
_PIECE = 1 << 22
_KEY = "accelc-weight-"
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # numbers of fields of ModelProto, GraphProto and TensorProto


@dataclass(frozen=True)
class _Weight:
    """A weight and where its bytes are: in memory (tensor) or in a file (range)."""

    name: str
    tensor: ir.TensorProtocol
    source: FileRange | None
    nbytes: int


@dataclass(frozen=True)
class _Placed:
    """A weight's place in the data file."""

    weight: _Weight
    offset: int


@dataclass(frozen=True)
class _Layout:
    """What is written beside the proto. placed: weights in the data file. spliced: weights in the model file, by name,
    whose tensors in the proto hold no data.
    """

    placed: list[_Placed]
    spliced: dict[str, _Weight]


def write_model(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external: bool | None = None,
    value_info: bool = True,
    stamped: bool = True,
) -> int:
    """Write a model and return the bytes written, data file included. The model is not changed.

    external: weights of at least a kilobyte go to `<name>.data` beside the model; None: only when the model's weights
    came from a data file, or are too large for one file. A data file that the model still reads is never overwritten;
    the new one then has a number in its name. value_info: whether types of inner values are written. stamped: whether
    the names of the passes that made nodes are.
    Raises: UsageError when the target cannot be written; ModelError when the model does not fit into one file.
    Nothing is left behind and nothing existing is touched when it fails.
    """
    target = Path(path)
    _check_target(target)
    attributes = _external_attributes(model)
    weights = _initializers(model)
    sources = [weight.source for weight in (*weights, *attributes.values()) if weight.source is not None]
    _refuse_own_data(target, sources)
    if external is None:
        external = bool(sources) or sum(weight.nbytes for weight in weights) > LARGEST_PROTO
    data = _data_path(target, sources)
    with _hidden(model, external) as keys:
        proto = ir.to_proto(model, value_info=value_info)
    if not stamped:
        stamps.remove(proto)
    layout = _settle(proto, {**attributes, **keys}, data.name, external)
    return _write(proto, layout, target, data)


# --- what goes where -------------------------------------------------------------------------------------------------


def _initializers(model: ir.Model) -> list[_Weight]:
    return [
        _weight(str(value.name), value.const_value)
        for graph in ir.all_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None
    ]


def _weight(name: str, tensor: ir.TensorProtocol) -> _Weight:
    source = None
    if isinstance(tensor, ir.ExternalTensor):
        parts = location_parts(os.fspath(tensor.location), f"initializer '{name}'")
        length = tensor.nbytes if tensor.length is None else tensor.length
        source = FileRange(Path(tensor.base_dir), parts, tensor.offset or 0, length)
    return _Weight(name, tensor, source, tensor.nbytes)


def _external_attributes(model: ir.Model) -> dict[tuple[str, ...], _Weight]:
    """Tensors in node attributes that are still in a file, by what their proto says about the file."""
    found: dict[tuple[str, ...], _Weight] = {}
    for node in ir.walk(model):
        for attr in node.attributes.values():
            if attr.is_ref() or attr.type not in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
                continue
            tensors = [attr.value] if attr.type == ir.AttributeType.TENSOR else attr.value
            for tensor in tensors:
                if isinstance(tensor, ir.ExternalTensor):
                    weight = _weight(f"{attr.name} of {ir.node_path(node)}", tensor)
                    other = found.setdefault(_entries(tensor), weight)
                    if other.source != weight.source:
                        raise ModelError("two data files have one name", where=weight.name, why=str(tensor.location))
    return found


def _entries(tensor: ir.ExternalTensor) -> tuple[str, ...]:
    pairs = {"location": os.fspath(tensor.location), "offset": tensor.offset, "length": tensor.length}
    return tuple(f"{key}={value}" for key, value in sorted(pairs.items()) if value is not None)


@contextmanager
def _hidden(model: ir.Model, external: bool) -> Iterator[dict[tuple[str, ...], _Weight]]:
    """Put a mark in place of each initializer that is in a file, goes to one or is large, and put them all back."""
    kept: list[tuple[ir.Value, ir.TensorProtocol]] = []
    marks: dict[tuple[str, ...], _Weight] = {}
    try:
        for graph in ir.all_graphs(model):
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None:
                    continue
                spliced = graph is model.graph and tensor.dtype != ir.DataType.STRING and tensor.nbytes >= _LARGE
                if not (spliced or _moves(tensor, external) or isinstance(tensor, ir.ExternalTensor)):
                    continue
                mark = ir.ExternalTensor(
                    f"{_KEY}{len(kept)}",
                    None,
                    None,
                    tensor.dtype,
                    shape=tensor.shape,  # type: ignore[arg-type]
                    name=str(value.name),
                    doc_string=tensor.doc_string,
                    metadata_props=dict(tensor.metadata_props),
                )
                marks[_entries(mark)] = _weight(str(value.name), tensor)
                kept.append((value, tensor))
                value.const_value = mark
        yield marks
    finally:
        for value, tensor in kept:
            value.const_value = tensor


def _moves(tensor: ir.TensorProtocol, external: bool) -> bool:
    return external and tensor.dtype != ir.DataType.STRING and tensor.nbytes >= SMALLEST


def _settle(proto: onnx.ModelProto, weights: dict[tuple[str, ...], _Weight], data_name: str, external: bool) -> _Layout:
    """Give every external tensor its place in a file, or its bytes."""
    placed: list[_Placed] = []
    spliced: dict[str, _Weight] = {}
    own = {id(tensor): tensor for tensor in proto.graph.initializer}  # what is kept alive keeps its id
    known: dict[Any, _Placed] = {}
    end = 0
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        key = tuple(sorted(f"{entry.key}={entry.value}" for entry in tensor.external_data if entry.key != "checksum"))
        weight = weights.get(key)
        if weight is None:
            raise ModelError(
                "external data cannot be moved with the model",
                where=f"tensor '{tensor.name}'",
                why="only initializers and node attributes can stay in a data file",
                hint="load the model with this tensor inside it",
            )
        del tensor.external_data[:]
        if not (external and weight.nbytes >= SMALLEST):
            tensor.ClearField("data_location")
            if weight.nbytes >= _LARGE and id(tensor) in own:
                spliced[tensor.name] = weight
            else:
                tensor.raw_data = b"".join(_pieces(weight))
            continue
        identity = weight.source or id(weight.tensor)
        if identity not in known:
            step = _step(weight)
            known[identity] = _Placed(weight, -(-end // step) * step)
            placed.append(known[identity])
            end = known[identity].offset + weight.nbytes
        place = {"location": data_name, "offset": known[identity].offset, "length": weight.nbytes}
        for name, value in place.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = name, str(value)
    return _Layout(placed, spliced)


def _step(weight: _Weight) -> int:
    """The alignment of a weight: a page when it is large; never more than it had in its old file, which could grow."""
    wanted = _PAGE if weight.nbytes >= _LARGE else _ALIGN
    if weight.source is None:
        return wanted
    return next(step for step in (wanted, _ALIGN, 1) if weight.source.offset % step == 0)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, in file order."""
    graphs = [proto.graph, *(g for info in proto.training_info for g in (info.initialization, info.algorithm))]
    todo: list[Any] = [*proto.functions[::-1], *graphs[::-1]]
    while todo:
        holder = todo.pop()
        if isinstance(holder, onnx.GraphProto):
            yield from holder.initializer
            for sparse in holder.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        inner: list[onnx.GraphProto] = []
        for node in holder.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("sparse_tensor"):
                    yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
                for sparse in attribute.sparse_tensors:
                    yield from (sparse.values, sparse.indices)
                if attribute.HasField("g"):
                    inner.append(attribute.g)
                inner.extend(attribute.graphs)
        todo.extend(reversed(inner))


def _pieces(weight: _Weight) -> Iterator[bytes | memoryview]:
    """The bytes of a weight: from its file in pieces, or at once from memory, where they are not copied."""
    if weight.source is None:
        tensor = weight.tensor
        array = tensor.numpy() if tensor.dtype.bitwidth >= 8 and sys.byteorder == "little" else None
        plain = array is not None and array.flags.c_contiguous and array.nbytes == weight.nbytes
        yield array.reshape(-1).view(np.uint8).data if array is not None and plain else tensor.tobytes()
        return
    source, where = weight.source, f"weight '{weight.name}'"
    left = source.length
    with os.fdopen(open_data_file(source, where), "rb", buffering=0) as file:
        file.seek(source.offset)
        while left:
            piece = file.read(min(_PIECE, left))
            if not piece:
                raise ModelError("the data file ended early", where=where, why=str(source.path))
            left -= len(piece)
            yield piece


# --- files -----------------------------------------------------------------------------------------------------------


def _check_target(target: Path) -> None:
    if not target.name or "\0" in str(target):
        raise UsageError("the output has no usable file name", where=repr(str(target)))
    if os.path.isdir(target):
        raise UsageError("the output is a folder", where=str(target), hint="name a file in it")
    if not os.path.isdir(target.parent):
        raise UsageError("the output folder does not exist", where=str(target.parent), hint="create it first")


def _refuse_own_data(target: Path, sources: list[FileRange]) -> None:
    if any(_is_same(target, source.path) for source in set(sources)):
        why = "the model's weights are in that file"
        raise UsageError(
            "the output would overwrite its own weights", where=str(target), why=why, hint="choose another name"
        )


def _is_same(left: Path, right: Path) -> bool:
    try:
        return left.samefile(right)
    except OSError:
        return False


def _data_path(target: Path, sources: list[FileRange]) -> Path:
    """`<name>.data`, or the first numbered one that the model does not read from."""
    paths = {source.path for source in sources}
    path, number = target.with_name(f"{target.name}.data"), 0
    while any(_is_same(path, source) for source in paths):
        number += 1
        path = target.with_name(f"{target.name}.{number}.data")
    if os.path.isdir(path):
        raise UsageError(
            "the data file's name is taken by a folder", where=str(path), hint="choose another output name"
        )
    return path


def _write(proto: onnx.ModelProto, layout: _Layout, target: Path, data: Path) -> int:
    temporary: list[Path] = []
    try:
        try:
            if layout.placed:
                _write_data(layout.placed, _create(data, temporary))
            _write_proto(proto, layout.spliced, _create(target, temporary))
            total = sum(path.stat().st_size for path in temporary)
            _publish(temporary, [data, target] if layout.placed else [target])
        finally:
            for path in temporary:
                with suppress(FileNotFoundError):
                    path.unlink()
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(
            "the output cannot be written", where=str(target), why=why, hint="choose another folder"
        ) from None
    return total


def _create(path: Path, temporary: list[Path]) -> BinaryIO:
    """A new file beside a path, open for writing; it is never an existing file or link."""
    beside = _beside(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    temporary.append(beside)
    return os.fdopen(os.open(beside, flags, 0o666), "wb")


def _beside(path: Path) -> Path:
    return path.with_name(f".accelc-{secrets.token_hex(8)}.tmp")


def _write_data(placed: list[_Placed], file: BinaryIO) -> None:
    with file:
        end = 0
        for place in placed:
            file.write(bytes(place.offset - end))
            end = place.offset
            for piece in _pieces(place.weight):
                file.write(piece)
                end += len(piece)


def _write_proto(proto: onnx.ModelProto, spliced: dict[str, _Weight], file: BinaryIO) -> None:
    with file:
        try:
            if spliced:
                _write_spliced(proto, spliced, file)
            else:
                file.write(proto.SerializeToString(deterministic=True))
        except (EncodeError, ValueError) as error:
            raise ModelError(
                "the model does not fit into one file",
                why=" ".join(str(error).split()) or "protobuf stops at 2 GiB",
                hint="write its weights as external data",
            ) from None


def _write_spliced(proto: onnx.ModelProto, spliced: dict[str, _Weight], file: BinaryIO) -> None:
    """Write a model whose large weights are not in its proto. The parts of a message may follow in any order.

    Raises ValueError when the file would be larger than a protobuf can be.
    """
    weights: list[tuple[bytes, _Weight | None]] = []
    size = 0
    for tensor in proto.graph.initializer:
        weight, message = spliced.get(tensor.name), tensor.SerializeToString(deterministic=True)
        if weight is not None:
            message += _head(_RAW_DATA, weight.nbytes)
        length = len(message) + (0 if weight is None else weight.nbytes)
        weights.append((_head(_INITIALIZER, length) + message, weight))
        size += len(weights[-1][0]) + (0 if weight is None else weight.nbytes)
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    model = proto.SerializeToString(deterministic=True)
    head = _head(_GRAPH, len(graph) + size)
    if len(model) + len(head) + len(graph) + size > MAX_PROTO_BYTES:
        raise ValueError("protobuf stops at 2 GiB")
    file.write(model + head + graph)
    for message, weight in weights:
        file.write(message)
        for piece in _pieces(weight) if weight is not None else ():
            file.write(piece)


def _head(field: int, length: int) -> bytes:
    """What stands before the content of a field."""
    return tag(field) + varint(length)


def _publish(temporary: list[Path], final: list[Path]) -> None:
    """Rename all files into place, data before the model; when one fails, the earlier ones are put back."""
    aside: list[tuple[Path, Path | None]] = []
    try:
        for source, path in zip(temporary[:-1], final[:-1], strict=True):
            old = _beside(path) if os.path.lexists(path) else None
            aside.append((path, old))
            if old is not None:
                os.rename(path, old)
            os.replace(source, path)
        os.replace(temporary[-1], final[-1])
    except BaseException:
        for path, old in aside:
            with suppress(FileNotFoundError):
                path.unlink() if old is None else os.replace(old, path)
        raise
    for _, old in aside:
        if old is not None:
            with suppress(OSError):
                old.unlink()
