"""From a file to a ModelProto: what is no ONNX protobuf is refused, with a guess at what it is instead."""

from __future__ import annotations

import stat
from mmap import mmap
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from accelc.errors import ModelError, UsageError
from accelc.importer.hollow import hollow

MAX_PROTO_BYTES = 2**31 - 1
"""The largest protobuf message that any reader accepts."""

_MAGIC = (
    (0, b"PK\x03\x04", "a zip archive (PyTorch saves those)"),
    (0, b"\x80\x02", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x89HDF", "an HDF5 file (Keras saves those)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x7fELF", "a program"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "an ONNX Runtime .ort model"),
)


def read_proto(path: Path, *, leave_weights: bool = False) -> tuple[onnx.ModelProto, int, mmap | None]:
    """The parsed model file, its size in bytes, and the file where weights were left in it. External data is not
    touched.

    Raises: UsageError when there is no such regular file; ModelError when it is not an ONNX protobuf.
    """
    size = _size(path)
    try:
        found = hollow(path) if leave_weights else None
        data = path.read_bytes() if found is None else found.light
    except OSError as error:
        raise UsageError("the file cannot be read", where=str(path), why=_reason(error)) from None
    size = size if found is not None else len(data)
    if size == 0:
        raise ModelError("the file is empty", why="0 bytes", hint="download or export the model again")
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise _not_protobuf(data, str(error)) from None
    _refuse_foreign(proto, data)
    return proto, size, None if found is None else found.file


def _size(path: Path) -> int:
    """The size of a regular file that may be a model."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path), hint="check the path") from None
    except (OSError, ValueError) as error:
        raise UsageError("the file cannot be opened", where=str(path), why=_reason(error)) from None
    if stat.S_ISDIR(status.st_mode):
        raise UsageError("this is a folder", where=str(path), hint="name the .onnx file in it")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError("this is not a regular file", where=str(path), hint="write the model to a file first")
    if status.st_size > MAX_PROTO_BYTES:
        raise ModelError(
            "the file is larger than a protobuf can be",
            why=f"{status.st_size:,} bytes, the limit is 2 GiB",
            hint="save the model with its weights as external data",
        )
    return status.st_size


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _not_protobuf(data: bytes, reason: str) -> ModelError:
    if "MaxDepth" in reason or "depth" in reason.lower():
        return ModelError(
            "subgraphs are nested too deep",
            why="protobuf readers, ONNX Runtime's among them, stop at 100 levels of messages (32 subgraphs)",
            hint="flatten the control flow",
        )
    kind = _kind(data)
    if kind:
        return ModelError("this is not an ONNX model", why=f"the file is {kind}", hint="export the model to ONNX")
    if _is_text(data):
        return ModelError(
            "this is not an ONNX model",
            why="the file is text, not a binary protobuf",
            hint="if it is an ONNX text format, load it with onnx and save it as .onnx",
        )
    return ModelError(
        "the file is damaged or not an ONNX model",
        why="it does not parse as a protobuf",
        hint="download or export it again",
    )


def _kind(data: bytes) -> str:
    return next((name for at, magic, name in _MAGIC if data[at : at + len(magic)] == magic), "")


def _is_text(data: bytes) -> bool:
    head = data[:512]
    return all(byte >= 32 or byte in b"\t\n\r" for byte in head)


def _refuse_foreign(proto: onnx.ModelProto, data: bytes) -> None:
    """Refuse bytes that parse but hold no model: nearly any short text or stray byte is a valid protobuf."""
    foreign = UnknownFieldSet(proto)
    if not proto.HasField("graph"):
        kind = _kind(data)
        why = f"the file is {kind}" if kind else "it holds no graph"
        if not kind and _is_text(data):
            why = "the file is text, not a binary protobuf"
        raise ModelError("this is not an ONNX model", why=why, hint="export the model to ONNX")
    if len(foreign):
        raise ModelError(
            "the file is damaged",
            why=f"{len(foreign)} field(s) beside or behind the model are no part of ONNX",
            hint="download or export it again",
        )
