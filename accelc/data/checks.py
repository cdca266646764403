"""Whether values fit a model's inputs: names, types, shapes; each refusal is one line that says what was wanted."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from accelc.data.items import Array
from accelc.data.specs import InputSpec
from accelc.errors import UsageError

Note = Callable[[str], None]
_EXTRA_AXIS = "give the input's shape, or one more leading axis that counts samples"


def check_names(where: str, names: Sequence[str], specs: Sequence[InputSpec], what: str = "array") -> None:
    """Every input must be there and nothing else. what: what a name stands for. Raises UsageError."""
    wanted = [spec.name for spec in specs]
    unknown = [name for name in names if name not in wanted]
    missing = [name for name in wanted if name not in names]
    if unknown:
        close = difflib.get_close_matches(unknown[0], missing or wanted, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"the inputs are {listed(wanted)}"
        raise UsageError(f"{what} {unknown[0]} is not an input of the model", where=where, hint=hint)
    if missing:
        raise UsageError(f"no {what} for input {missing[0]}", where=where, hint=f"the data must hold {listed(wanted)}")


def check_tensors(where: str, specs: Sequence[InputSpec], what: str) -> None:
    """Raises UsageError for an input that is no tensor. what: the kind of data that holds only those."""
    for spec in specs:
        if spec.kind != "tensor":
            why = f"it is a {spec.kind} and {what} hold tensors only"
            raise UsageError(f"input {spec.name} cannot be given", where=where, why=why)


def listed(names: Sequence[str]) -> str:
    """Names in a row, eight at most."""
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


def as_type(where: str, spec: InputSpec, array: Array, note: Note) -> Array:
    """The array in the input's type, converted only when no value changes. Raises UsageError."""
    if spec.elem_type == onnx.TensorProto.STRING:
        if array.dtype.kind not in "USO":
            raise _wrong_type(where, spec, "string", array)
        return np.char.decode(array).astype(object) if array.dtype.kind == "S" else array.astype(object)
    wanted = onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type)
    if array.dtype == wanted:
        return array
    if array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize:  # numpy saves bfloat16 and float8 as bytes
        return array.view(wanted)
    if array.dtype.kind in "USVO":
        raise _wrong_type(where, spec, str(wanted), array)
    with np.errstate(all="ignore"):
        converted = array.astype(wanted)
        same = np.array_equal(converted.astype(array.dtype), array, equal_nan=array.dtype.kind in "fc")
    if not same:
        raise _wrong_type(where, spec, str(wanted), array)
    note(f"input {spec.name}: {array.dtype} converted to {wanted}")
    return converted


def _wrong_type(where: str, spec: InputSpec, wanted: str, array: Array) -> UsageError:
    return UsageError(
        f"input {spec.name} wants {wanted}, got {array.dtype}",
        where=where,
        why="converting would change values",
        hint=f"save it as {wanted}",
    )


def check_shape(where: str, spec: InputSpec, found: Sequence[int], hint: str = _EXTRA_AXIS) -> None:
    """Rank and fixed dimensions. Raises UsageError."""
    if spec.shape is None:
        return
    fits = len(spec.shape) == len(found)
    fits = fits and all(not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, found, strict=True))
    if not fits:
        wanted = "x".join(str(dim) if dim is not None else "?" for dim in spec.shape) or "a scalar"
        got = "x".join(map(str, found)) or "a scalar"
        raise UsageError(f"input {spec.name} wants shape {wanted}, got {got}", where=where, hint=hint)


def check_symbols(where: str, specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]) -> None:
    """The same dimension name must have the same size in every input. Raises UsageError."""
    sizes: dict[str, tuple[int, str]] = {}
    for spec in specs:
        for dim, size in zip(spec.shape or (), shapes.get(spec.name, ()), strict=False):
            if isinstance(dim, str):
                other, holder = sizes.setdefault(dim, (size, spec.name))
                if other != size:
                    why = f"it is {other} in {holder} and {size} in {spec.name}"
                    raise UsageError(f"dimension {dim} has two sizes", where=where, why=why)


def checked(
    where: str, specs: Sequence[InputSpec], values: Mapping[str, Any], note: Note, *, finite: bool
) -> dict[str, Any]:
    """A feed set as the model takes it. finite: refuse NaN and Inf instead of noting them. Raises UsageError."""
    check_names(where, list(values), specs)
    found: dict[str, Any] = {}
    for spec in specs:
        value = values[spec.name]
        if spec.kind != "tensor":
            found[spec.name] = value
            continue
        array = as_type(where, spec, _array(value, spec), note)
        check_shape(where, spec, array.shape, "every feed set must have the input's shape")
        if array.shape[:1] == (0,):
            raise UsageError(f"array {spec.name} holds no samples", where=where, hint="give at least one")
        if not is_finite(array):
            if finite:
                hint = "leave such samples out"
                raise UsageError(f"input {spec.name} holds NaN or Inf", where=where, why="it has no range", hint=hint)
            note(f"{spec.name} holds NaN or Inf, which hide differences")
        found[spec.name] = array
    check_symbols(where, specs, {name: np.shape(value) for name, value in found.items() if hasattr(value, "shape")})
    return found


def _array(value: Any, spec: InputSpec) -> Array:
    """A tensor of another library, or plain numbers, which take the input's type."""
    if isinstance(value, np.ndarray):
        return value
    array = np.asarray(value)
    if isinstance(value, list | tuple | float) and array.dtype == np.float64 and spec.elem_type:
        wanted = onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type)
        return array.astype(wanted) if wanted.kind == "f" else array
    return array


def is_finite(value: Any) -> bool:
    """Whether a value is free of NaN and Inf; what is no array of floats is."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fV":
        return True
    return bool(np.isfinite(value if value.dtype.kind == "f" else value.astype(np.float32)).all())
