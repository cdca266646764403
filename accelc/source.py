"""The model that was handed in: loaded afresh for every attempt, and runnable as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path

import numpy as np
import onnx

from accelc import ir
from accelc.errors import UsageError
from accelc.importer import INSIDE, Imported, import_proto, read_model
from accelc.infer import complete
from accelc.size import Size, size_of_proto

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model


class Source:
    """The model that was handed in. path: its file, or None for a model in memory."""

    def __init__(self, path: Path | None, imported: Imported, held: bytes | None = None) -> None:
        self.path, self.imported = path, imported
        self.has_value_info = len(imported.proto.graph.value_info) > 0
        self._held = held
        # A model in memory belongs to the caller: only copies are handed out.
        self._unused: onnx.ModelProto | None = imported.proto if held is None else None

    @classmethod
    def of(cls, model: ModelLike, base_dir: Path | None = None) -> Source:
        """Import a model from a file or from memory. Raises ModelError when it is broken, UsageError for no file."""
        if isinstance(model, ir.Model):
            model = ir.to_proto(model)
        if isinstance(model, onnx.ModelProto):
            imported = import_proto(model, base_dir)
            return cls(None, imported, imported.proto.SerializeToString())
        if not isinstance(model, str | os.PathLike):
            kind = type(model).__name__
            raise UsageError(f"cannot optimize a {kind}", hint="give a path, a ModelProto or an accelc.ir.Model")
        path = Path(model)
        return cls(path, read_model(path, leave_weights=True))

    @property
    def base_dir(self) -> Path:
        """The folder of external data."""
        return self.imported.base_dir

    @property
    def file_bytes(self) -> int:
        """Size of the model and of the external data it refers to."""
        return self.imported.bytes

    @property
    def is_one_file(self) -> bool:
        """Whether the model is a file without data files."""
        return self.path is not None and self.path.stat().st_size == self.file_bytes

    def proto(self) -> onnx.ModelProto:
        """The repaired proto, to keep: every call returns another one."""
        if self._held is not None:
            return onnx.ModelProto.FromString(self._held)
        assert self.path is not None
        return read_model(self.path).proto

    def _light(self) -> tuple[onnx.ModelProto, mmap | None]:
        """The same with large weights left in the file that comes with it."""
        if self._unused is not None:
            unused, self._unused = self._unused, None
            return unused, self.imported.file
        if self.path is None:
            return self.proto(), None
        again = read_model(self.path, leave_weights=True)
        return again.proto, again.file

    def fresh(self) -> ir.Model:
        """The graph as imported, with types and shapes inferred; every call returns a new one."""
        proto, file = self._light()
        model = ir.from_proto(proto, self.base_dir, self.imported.generated_names)
        if file is not None:
            _map_weights(model, file)
        complete(model, self.imported.inferred.graph)
        return model

    def size(self) -> Size:
        """The original in numbers."""
        return size_of_proto(self.imported.proto, self.file_bytes)

    def runnable(self) -> Iterator[Path | bytes]:
        """Forms of the original to hand to the runtime: the untouched file first, then the repaired one."""
        if self._held is not None:
            yield self._held
            return
        assert self.path is not None
        yield self.path
        if self.imported.repairs:
            yield read_model(self.path).proto.SerializeToString()


def _map_weights(model: ir.Model, file: mmap) -> None:
    """Let the weights that were left in the model's file be arrays over it; none of their bytes are copied."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and str(tensor.location) == INSIDE:
            shape = tuple(int(dim) for dim in tensor.shape.numpy())
            array = np.frombuffer(file, tensor.dtype.numpy(), tensor.size, tensor.offset or 0).reshape(shape)
            made = ir.Tensor(array, tensor.dtype, name=tensor.name, doc_string=tensor.doc_string)
            value.const_value = made
