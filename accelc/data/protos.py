"""Test data as ONNX keeps it: folders test_data_set_N with input_K.pb, one feed set each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from accelc.data.checks import listed
from accelc.data.items import LABELS, Array, Item, Source
from accelc.data.specs import InputSpec
from accelc.errors import UsageError


def feed_folders(path: Path) -> list[Path]:
    """The folder itself, or those in it, that hold input_K.pb; by number, then by name."""
    if _inputs(path):
        return [path]
    found = [each for each in path.iterdir() if each.is_dir() and _inputs(each)]
    return sorted(found, key=lambda each: (_number(each.name), each.name))


def _inputs(folder: Path) -> list[Path]:
    return sorted(folder.glob("input_*.pb"), key=lambda file: (_number(file.stem), file.name))


def _number(name: str) -> int:
    found = re.search(r"(\d+)$", name)
    return int(found[1]) if found else -1


class ProtoSource(Source):
    """Feed sets from `.pb` files: tensors by their names where they carry those of the inputs, else in graph order.

    labels.npy beside the folders holds a label for each. Raises UsageError when a folder holds too few files.
    """

    batches = True

    def __init__(self, path: Path, folders: Sequence[Path], specs: tuple[InputSpec, ...]) -> None:
        self.where, self.prefix, self.specs, self.folders = str(path), f"{path}/", specs, list(folders)
        self.count = len(self.folders)
        self.labels = self._labels(path / f"{LABELS}.npy")
        for folder in self.folders:
            found = len(_inputs(folder))
            if found != len(specs):
                why = f"the model has {len(specs)} inputs ({listed([spec.name for spec in specs])})"
                raise UsageError(f"holds {found} files input_K.pb", where=str(folder), why=why)

    def _labels(self, file: Path) -> Array | None:
        if not file.exists():
            return None
        try:
            labels = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError("cannot be read as .npy", where=str(file), why=str(error)) from error
        if labels.ndim == 0 or len(labels) != self.count:
            length = len(np.atleast_1d(labels))
            raise UsageError(f"there are {length} labels for {self.count} samples", where=str(file))
        return np.asarray(labels)

    def items(self, index: int = 0, of: int = 1) -> Iterator[Item]:
        for place in range(index, len(self.folders), of):
            labels = None if self.labels is None else self.labels[place : place + 1]
            yield Item(self._read(self.folders[place]), str(self.folders[place]), labels)

    def _read(self, folder: Path) -> dict[str, Any]:
        files = _inputs(folder)
        messages = [_parse(file, spec) for file, spec in zip(files, self.specs, strict=True)]
        names = [message.name for message in messages]
        by_name = sorted(names) == sorted(spec.name for spec in self.specs)
        if by_name and names != [spec.name for spec in self.specs]:
            kinds = {spec.name: spec for spec in self.specs}
            messages = [_parse(file, kinds[name]) for file, name in zip(files, names, strict=True)]
        keys = names if by_name else [spec.name for spec in self.specs]
        return {name: _value(message, file) for name, message, file in zip(keys, messages, files, strict=True)}


_Message = onnx.TensorProto | onnx.SequenceProto | onnx.OptionalProto


def _parse(file: Path, spec: InputSpec) -> _Message:
    kinds = {"tensor": onnx.TensorProto, "sequence": onnx.SequenceProto, "optional": onnx.OptionalProto}
    kind: Any = kinds.get(spec.kind)
    if kind is None:
        raise UsageError(f"input {spec.name} cannot be given", where=str(file), why=f"it is a {spec.kind}")
    message: _Message = kind()
    try:
        message.ParseFromString(file.read_bytes())
    except (OSError, DecodeError) as error:
        raise UsageError("cannot be read as .pb", where=str(file), why=str(error)) from error
    return message


def _value(message: _Message, file: Path) -> Any:
    try:
        if isinstance(message, onnx.TensorProto):
            return numpy_helper.to_array(message)
        if isinstance(message, onnx.SequenceProto):
            return numpy_helper.to_list(message)
        return numpy_helper.to_optional(message)
    except (ValueError, TypeError, AssertionError) as error:
        raise UsageError("cannot be read as .pb", where=str(file), why=str(error)) from error
