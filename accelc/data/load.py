"""The user's own data: `.npz` files read as feed sets, with clear refusals, and accuracy when labels are there.

A file holds one array per input, by the input's name, and may hold `labels`. It is read by the first rule that fits:

1. Some arrays have one dimension more than their input: that extra leading axis counts samples, each sample is one feed
   set, and arrays without the extra axis are shared by all sets.
2. Every input has a leading dimension that is dynamic or fixed to the same size b, and all arrays are equally long: the
   leading axis counts samples. A fixed leading dimension gives sets of b samples (N must be a multiple of b); a dynamic
   one gives sets of at most `batch_size` samples.
3. The arrays are one feed set.

A folder is read file by file, in the order of their names. An array of another type is converted when no value changes.
"""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from accelc.data.feeds import Feed, Values
from accelc.data.specs import InputSpec
from accelc.data.values import Array
from accelc.errors import UsageError

LABELS = "labels"
BATCH_SIZE = 32


@dataclass(frozen=True)
class EvalData:
    """Feed sets from files. labels: one per sample over all sets, in order, or None. notes: conversions made."""

    feeds: tuple[Feed, ...]
    labels: Array | None = None
    notes: tuple[str, ...] = ()


def load_feeds(path: str | Path, specs: Sequence[InputSpec], *, batch_size: int = BATCH_SIZE) -> list[Feed]:
    """The feed sets of a `.npz` file or a folder of them; see `load_data`."""
    return list(load_data(path, specs, batch_size=batch_size).feeds)


def load_data(path: str | Path, specs: Sequence[InputSpec], *, batch_size: int = BATCH_SIZE) -> EvalData:
    """Feed sets, labels and notes of a `.npz` file or a folder of them.

    Raises: UsageError naming the file, the input, what was wanted and what was found.
    """
    source = Path(path)
    parts = [_load_file(file, specs, batch_size) for file in _files(source)]
    labels = [part.labels for part in parts if part.labels is not None]
    if labels and len(labels) != len(parts):
        raise UsageError("some files have labels and some have none", where=str(source), hint="give all or none labels")
    if labels and len({(array.shape[1:], array.dtype.kind) for array in labels}) > 1:
        raise UsageError("the labels of the files differ in shape or type", where=str(source))
    feeds = tuple(feed for part in parts for feed in part.feeds)
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return EvalData(feeds, np.concatenate(labels) if labels else None, notes)


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        files = sorted(source.glob("*.npz"))
        if not files:
            raise UsageError("the folder holds no .npz file", where=str(source))
        return files
    if not source.exists():
        raise UsageError("no such file or folder", where=str(source), hint="give a .npz file or a folder of them")
    return [source]


def _load_file(file: Path, specs: Sequence[InputSpec], batch_size: int) -> EvalData:
    arrays = _read(file)
    names = {spec.name for spec in specs}
    labels = arrays.pop(LABELS, None) if LABELS not in names else None
    _check_names(file, arrays, specs)
    notes: list[str] = []
    for spec in specs:
        arrays[spec.name] = _as_type(file, spec, arrays[spec.name], notes)
        if arrays[spec.name].ndim and not len(arrays[spec.name]):
            raise UsageError(f"array {spec.name} holds no samples", where=str(file), hint="give at least one")
        if arrays[spec.name].dtype.kind == "f" and not np.isfinite(arrays[spec.name]).all():
            notes.append(f"{file.name}: {spec.name} holds NaN or Inf, which hide differences")
    sets = _split(file, specs, arrays, batch_size)
    feeds = tuple(
        Feed(values, f"{file.name}[{place}]" if len(sets) > 1 else file.name) for place, values in enumerate(sets)
    )
    if labels is not None and labels.ndim == 0:
        labels = labels.reshape(1)
    return EvalData(feeds, labels, tuple(notes))


def _read(file: Path) -> dict[str, Array]:
    try:
        with file.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.lib.npyio.NpzFile):
                return {name: content[name] for name in content.files}
    except (OSError, EOFError, zipfile.BadZipFile, ValueError, zipfile.LargeZipFile, MemoryError) as error:
        if not zipfile.is_zipfile(file):
            hint = "save one with numpy.savez(file, NAME=array)"
            raise UsageError("is not an .npz file", where=str(file), hint=hint) from error
        hint = "save plain arrays with numpy.savez(file, NAME=array); text as a str array, not as objects"
        raise UsageError("cannot be read as .npz", where=str(file), why=str(error), hint=hint) from error
    raise UsageError("this is a single array", where=str(file), hint="save with numpy.savez(file, NAME=array)")


def _check_names(file: Path, arrays: Mapping[str, Array], specs: Sequence[InputSpec]) -> None:
    names = [spec.name for spec in specs]
    unknown = [name for name in arrays if name not in names]
    missing = [name for name in names if name not in arrays]
    if unknown:
        close = difflib.get_close_matches(unknown[0], missing or names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"the inputs are {_listed(names)}"
        raise UsageError(f"array {unknown[0]} is not an input of the model", where=str(file), hint=hint)
    if missing:
        raise UsageError(
            f"no array for input {missing[0]}", where=str(file), hint=f"the file must hold {_listed(names)}"
        )
    for spec in specs:
        if spec.kind != "tensor":
            why = f"it is a {spec.kind} and .npz files hold tensors only"
            raise UsageError(f"input {spec.name} cannot be given", where=str(file), why=why)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"


def _as_type(file: Path, spec: InputSpec, array: Array, notes: list[str]) -> Array:
    """The array in the input's type, converted only when no value changes."""
    if spec.elem_type == onnx.TensorProto.STRING:
        if array.dtype.kind not in "US":
            raise _wrong_type(file, spec, "string", array)
        return np.char.decode(array).astype(object) if array.dtype.kind == "S" else array.astype(object)
    wanted = onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type)
    if array.dtype == wanted:
        return array
    if array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize:  # numpy saves bfloat16 and float8 as bytes
        return array.view(wanted)
    if array.dtype.kind in "USVO":
        raise _wrong_type(file, spec, str(wanted), array)
    with np.errstate(all="ignore"):
        converted = array.astype(wanted)
        same = np.array_equal(converted.astype(array.dtype), array, equal_nan=array.dtype.kind in "fc")
    if not same:
        raise _wrong_type(file, spec, str(wanted), array)
    notes.append(f"{file.name}: input {spec.name}: {array.dtype} converted to {wanted}")
    return converted


def _wrong_type(file: Path, spec: InputSpec, wanted: str, array: Array) -> UsageError:
    return UsageError(
        f"input {spec.name} wants {wanted}, got {array.dtype}",
        where=str(file),
        why="converting would change values",
        hint=f"save it as {wanted}",
    )


def _split(file: Path, specs: Sequence[InputSpec], arrays: Mapping[str, Array], batch_size: int) -> list[Values]:
    if not specs:
        return [{}]
    extra = [spec for spec in specs if spec.rank is not None and arrays[spec.name].ndim == spec.rank + 1]
    if extra:
        count = _common_length(file, extra, arrays)
        sampled = {spec.name for spec in extra}
        sets: list[Values] = [
            {name: _sample(array, place) if name in sampled else array for name, array in arrays.items()}
            for place in range(count)
        ]
    else:
        sets = _batches(file, specs, arrays, batch_size)
    for spec in specs:
        _check_shape(file, spec, np.asarray(sets[0][spec.name]))
    _check_symbols(file, specs, sets[0])
    return sets


def _sample(array: Array, place: int) -> Array:
    return np.asarray(array[place], dtype=array.dtype)


def _common_length(file: Path, specs: Sequence[InputSpec], arrays: Mapping[str, Array]) -> int:
    lengths = {spec.name: len(arrays[spec.name]) for spec in specs}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UsageError("the inputs have different numbers of samples", where=str(file), why=listed)
    if 0 in lengths.values():
        raise UsageError("the file holds no samples", where=str(file))
    return next(iter(lengths.values()))


def _batches(file: Path, specs: Sequence[InputSpec], arrays: Mapping[str, Array], batch_size: int) -> list[Values]:
    """Rule 2 where it fits, else the whole file as one set (rule 3)."""
    fixed = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)}
    named = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    lengths = {arrays[spec.name].shape[:1] for spec in specs}
    ranks_fit = all(spec.shape and arrays[spec.name].ndim == spec.rank for spec in specs)
    if not ranks_fit or len(lengths) > 1 or len(fixed) > 1 or len(named) > 1:
        return [dict(arrays)]
    count = next(iter(lengths))[0]
    size = int(str(next(iter(fixed)))) if fixed else max(1, batch_size)
    if count <= size or (fixed and (size == 0 or count % size)):
        return [dict(arrays)]
    return [{name: array[start : start + size] for name, array in arrays.items()} for start in range(0, count, size)]


def _check_shape(file: Path, spec: InputSpec, array: Array) -> None:
    if spec.shape is None:
        return
    fits = len(spec.shape) == array.ndim
    fits = fits and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        wanted = "x".join(str(dim) if dim is not None else "?" for dim in spec.shape) or "a scalar"
        found = "x".join(map(str, array.shape)) or "a scalar"
        raise UsageError(
            f"input {spec.name} wants shape {wanted}, got {found}",
            where=str(file),
            hint="give the input's shape, or one more leading axis that counts samples",
        )


def _check_symbols(file: Path, specs: Sequence[InputSpec], values: Values) -> None:
    """The same dimension name must have the same size in every input."""
    sizes: dict[str, tuple[int, str]] = {}
    for spec in specs:
        for dim, size in zip(spec.shape or (), np.shape(values[spec.name]), strict=False):
            if isinstance(dim, str):
                other, where = sizes.setdefault(dim, (size, spec.name))
                if other != size:
                    why = f"it is {other} in {where} and {size} in {spec.name}"
                    raise UsageError(f"dimension {dim} has two sizes", where=str(file), why=why)


def top1_accuracy(outputs: Sequence[Array], labels: Array) -> float:
    """The share of samples whose largest class equals the label, 0..1.

    outputs: one array per feed set, either scores [n, ..., classes] or class numbers [n, ...]; labels: [N, ...] over
    all sets. Raises: UsageError when their shapes do not belong together.
    """
    if not outputs or not labels.size:
        raise UsageError("there is nothing to compute the accuracy of", why="no outputs or no labels")
    rank = max(labels.ndim, 1)
    predicted = [np.argmax(array, axis=-1) if array.ndim == rank + 1 else array for array in outputs]
    if any(array.shape[1:] != labels.shape[1:] or array.ndim != rank for array in predicted):
        why = f"labels are {list(labels.shape)}, outputs {list(outputs[0].shape)}"
        raise UsageError("labels do not fit the output", why=why, hint="labels are class numbers, one per sample")
    classes = np.concatenate(predicted)
    if len(classes) != len(labels):
        raise UsageError("labels do not fit the output", why=f"{len(labels)} labels for {len(classes)} samples")
    return float(np.mean(classes == labels))
