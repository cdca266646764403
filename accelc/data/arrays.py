"""Arrays by input name: `.npz` files, or a folder of `.npy` files; only what a feed set needs is in memory.

A part (a `.npz` file, or the `.npy` files of a folder) holds one array per input, and may hold `labels`. It is read by
the first rule that fits:

1. Some arrays have one dimension more than their input: that extra leading axis counts samples, each sample is one feed
   set, and arrays without the extra axis are shared by all sets.
2. Every input has a leading dimension that is fixed to the same size b, or is dynamic and counts samples by its name,
   and all arrays are equally long: the leading axis counts samples. A fixed leading dimension gives sets of b samples
   (N must be a multiple of b); a dynamic one gives sets of at most `batch_size` samples.
3. The arrays are one feed set.

Files are read in the order of their names. An array of another type is converted when no value changes.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from accelc.data.checks import check_names, check_shape, check_symbols, check_tensors
from accelc.data.dataset import counts_samples
from accelc.data.items import LABELS, Array, Item, Source
from accelc.data.specs import InputSpec
from accelc.errors import UsageError

_WHOLE_BYTES = 32_000_000
"""Larger arrays are read row by row; smaller ones as a whole, with their check sum."""
_SKIPPED_BYTES = 1 << 20
_BROKEN = (
    OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, ValueError, RuntimeError, MemoryError,
)  # fmt: skip
_PLAIN = "save plain arrays with numpy.savez(file, NAME=array); text as a str array, not as objects"


class Header(NamedTuple):
    """What is known of an array before it is read. start: where its elements begin, -1 unless they are stored as they
    are.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool = False
    start: int = -1


class Rows(ABC):
    """A large array in a file: what is asked for along its leading axis is read, and nothing kept."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header, self.dtype = path, header, header.dtype

    def __getitem__(self, place: int | slice) -> Array:
        """Raises UsageError when the file cannot be read, or has become shorter."""
        count, *rest = self.header.shape
        start, stop, _ = place.indices(count) if isinstance(place, slice) else (place, place + 1, 1)
        width = math.prod(rest)
        try:
            flat = self._elements(start * width, (stop - start) * width)
        except _BROKEN as error:
            raise UsageError("cannot be read", where=str(self.path), why=str(error)) from error
        if flat.size != (stop - start) * width:
            why = f"its header promises shape {'x'.join(map(str, self.header.shape))}"
            raise UsageError("the file ends too early", where=str(self.path), why=why)
        rows = flat.reshape(stop - start, *rest)
        return rows if isinstance(place, slice) else rows[0]

    @abstractmethod
    def _elements(self, first: int, count: int) -> Array:
        """So many elements from number `first` on; fewer where the file ends."""

    @staticmethod
    def fit(header: Header) -> bool:
        """Whether an array is large enough, and its rows lie one after the other."""
        plain = bool(header.shape) and not header.fortran
        return plain and math.prod(header.shape) * header.dtype.itemsize > _WHOLE_BYTES


class StoredRows(Rows):
    """An array whose elements are stored as they are."""

    def _elements(self, first: int, count: int) -> Array:
        offset = self.header.start + first * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count, offset=offset)


class PackedRows(Rows):
    """A compressed array of a `.npz` file. Rows that are asked for in order are unpacked once; going back starts anew.

    member: its name in the file.
    """

    def __init__(self, path: Path, header: Header, member: str) -> None:
        super().__init__(path, header)
        self.member = member
        self._stream: IO[bytes] | None = None
        self._next = 0

    def _elements(self, first: int, count: int) -> Array:
        if self._stream is None or first < self._next:
            self._stream = self._opened()
            self._next = 0
        self._skip((first - self._next) * self.dtype.itemsize)
        found = np.frombuffer(self._stream.read(count * self.dtype.itemsize), self.dtype)
        self._next = first + count
        return found

    def _opened(self) -> IO[bytes]:
        with zipfile.ZipFile(self.path) as archive:
            stream = archive.open(self.member)  # holds the file open by itself
        _read_header(stream)
        return stream

    def _skip(self, size: int) -> None:
        assert self._stream is not None
        while size > 0 and (found := self._stream.read(min(size, _SKIPPED_BYTES))):
            size -= len(found)


class Part(ABC):
    """Arrays that belong together. where: the file or folder. label: what stands in messages for one of its arrays."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        self.headers: dict[str, Header] = {}

    @abstractmethod
    def load(self, name: str) -> Array | Rows:
        """An array, whole or by rows. Raises UsageError when it cannot be read."""


class NpzPart(Part):
    """A `.npz` file. Raises UsageError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            if not zipfile.is_zipfile(path) and _is_npy(path):
                hint = "save with numpy.savez(file, NAME=array)"
                raise UsageError("this is a single array", where=str(path), hint=hint)
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    self.headers[info.filename.removesuffix(".npy")] = self._header(archive, info)
        except _BROKEN as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> UsageError:
        if not zipfile.is_zipfile(self.path):
            hint = "save one with numpy.savez(file, NAME=array)"
            return UsageError("is not an .npz file", where=self.where, hint=hint)
        return UsageError("cannot be read as .npz", where=self.where, why=str(error), hint=_PLAIN)

    def _header(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
        with archive.open(info) as stream:
            found = _read_header(stream)
            size = stream.tell()
        if info.compress_type != zipfile.ZIP_STORED:
            return found
        with self.path.open("rb") as raw:
            raw.seek(info.header_offset + 26)  # two lengths, then the name and the extra field of a local header
            lengths = raw.read(4)
        skipped = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        return found._replace(start=info.header_offset + 30 + skipped + size)

    def load(self, name: str) -> Array | Rows:
        header = self.headers[name]
        if Rows.fit(header):
            return StoredRows(self.path, header) if header.start >= 0 else PackedRows(self.path, header, f"{name}.npy")
        try:
            with np.load(self.path, allow_pickle=False) as content:
                return np.asarray(content[name])
        except _BROKEN as error:
            raise self._unreadable(error) from error


class NpyPart(Part):
    """A folder with NAME.npy for each input; `/`, `:` and the like in a name are `_` in the file's.

    Raises UsageError when a file cannot be read.
    """

    def __init__(self, path: Path, specs: Sequence[InputSpec]) -> None:
        super().__init__(path)
        names = {re.sub(r"[^\w.-]", "_", spec.name): spec.name for spec in specs}
        self.files = {names.get(file.stem, file.stem): file for file in sorted(path.glob("*.npy"))}
        for name, file in self.files.items():
            try:
                with file.open("rb") as stream:
                    self.headers[name] = _read_header(stream)._replace(start=stream.tell())
            except _BROKEN as error:
                raise UsageError("cannot be read as .npy", where=str(file), why=str(error)) from error

    def load(self, name: str) -> Array | Rows:
        file = self.files[name]
        if Rows.fit(self.headers[name]):
            return StoredRows(file, self.headers[name])
        try:
            return np.asarray(np.load(file, allow_pickle=False))
        except _BROKEN as error:
            raise UsageError("cannot be read as .npy", where=str(file), why=str(error)) from error


def _is_npy(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(6) == b"\x93NUMPY"


def _read_header(stream: IO[bytes]) -> Header:
    """Raises ValueError for what is no array of plain elements."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("arrays of Python objects are not loaded")
    return Header(shape, dtype, fortran)


@dataclass(frozen=True)
class _Plan:
    """How a part splits. count: feed sets. size: samples in a set. samples: all of them, 0 when nothing counts them.
    sampled: inputs whose leading axis counts feed sets and is taken off.
    """

    count: int
    size: int = 0
    samples: int = 0
    sampled: frozenset[str] = frozenset()


class ArraySource(Source):
    """Feed sets from arrays. Raises UsageError for names, shapes and labels that do not fit."""

    batches = True

    def __init__(self, where: Path, parts: Sequence[Part], specs: tuple[InputSpec, ...], batch_size: int) -> None:
        self.where, self.specs, self.batch_size = str(where), specs, batch_size
        self.prefix = f"{where if where.is_dir() and not isinstance(parts[0], NpyPart) else where.parent}/"
        self.labelled = LABELS not in {spec.name for spec in specs} and any(LABELS in part.headers for part in parts)
        self.parts = [(part, self._plan(part)) for part in parts]
        if self.labelled and any(LABELS not in part.headers for part in parts):
            hint = "give all or none labels"
            raise UsageError("some files have labels and some have none", where=self.where, hint=hint)
        headers = [part.headers[LABELS] for part in parts] if self.labelled else []
        kinds = {(header.shape[1:], header.dtype.kind) for header in headers}
        if len(kinds) > 1:
            raise UsageError("the labels of the files differ in shape or type", where=self.where)
        self.count = sum(plan.count for _, plan in self.parts)

    def _plan(self, part: Part) -> _Plan:
        shapes = {name: header.shape for name, header in part.headers.items() if name != LABELS or not self.labelled}
        check_names(part.where, list(shapes), self.specs)
        check_tensors(part.where, self.specs, f"{part.path.suffix or '.npy'} files")
        for name, shape in shapes.items():
            if shape and not shape[0]:
                raise UsageError(f"array {name} holds no samples", where=part.where, hint="give at least one")
        plan = _split(part.where, self.specs, shapes, self.batch_size)
        one = {name: self._shape(shape, plan, name) for name, shape in shapes.items()}
        for spec in self.specs:
            check_shape(part.where, spec, one[spec.name])
        check_symbols(part.where, self.specs, one)
        if self.labelled and LABELS in part.headers:
            _check_labels(part, plan)
        return plan

    @staticmethod
    def _shape(shape: tuple[int, ...], plan: _Plan, name: str) -> tuple[int, ...]:
        if name in plan.sampled:
            return shape[1:]
        return (min(plan.size, shape[0]), *shape[1:]) if plan.size else shape

    def items(self, index: int = 0, of: int = 1) -> Iterator[Item]:
        first = 0
        for part, plan in self.parts:
            start = max(index - first, (index - first) % of)
            wanted = range(start, plan.count, of)
            first += plan.count
            if wanted:
                yield from self._read(part, plan, wanted)

    def _read(self, part: Part, plan: _Plan, wanted: Sequence[int]) -> Iterator[Item]:
        arrays = {spec.name: part.load(spec.name) for spec in self.specs}
        labels = np.atleast_1d(_whole(part.load(LABELS))) if self.labelled else None
        for place in wanted:
            values = {name: _slice(array, plan, name, place) for name, array in arrays.items()}
            where = f"{part.where}[{place}]" if plan.count > 1 else part.where
            yield Item(values, where, None if labels is None else _part_of(labels, plan, place))


def _slice(array: Array | Rows, plan: _Plan, name: str, place: int) -> Array:
    if name in plan.sampled:
        return np.array(array[place], dtype=array.dtype)
    if plan.size:
        return array[place * plan.size : (place + 1) * plan.size]
    return _whole(array)


def _whole(array: Array | Rows) -> Array:
    return array[:] if isinstance(array, Rows) else array


def _part_of(labels: Array, plan: _Plan, place: int) -> Array:
    size = plan.size or len(labels) // plan.count
    return np.asarray(labels[place * size : (place + 1) * size])


def _check_labels(part: Part, plan: _Plan) -> None:
    header = part.headers[LABELS]
    if header.dtype.kind not in "iubf":
        raise UsageError(f"labels are {header.dtype}, not numbers", where=part.where, hint="give class numbers")
    length = header.shape[0] if header.shape else 1
    wrong = length != plan.samples if plan.samples else length % plan.count
    if wrong:
        samples = plan.samples or plan.count
        raise UsageError(f"there are {length} labels for {samples} samples", where=part.where)


def _split(where: str, specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]], batch_size: int) -> _Plan:
    if not specs:
        return _Plan(1)
    extra = [spec for spec in specs if spec.rank is not None and len(shapes[spec.name]) == spec.rank + 1]
    if not extra:
        return _batches(specs, shapes, batch_size)
    lengths = {spec.name: shapes[spec.name][0] for spec in extra}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UsageError("the inputs have different numbers of samples", where=where, why=shown)
    return _Plan(next(iter(lengths.values())), sampled=frozenset(lengths))


def _batches(specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]], batch_size: int) -> _Plan:
    """Rule 2 where it fits, else the whole part as one set (rule 3)."""
    fixed = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)}
    named = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    lengths = {shapes[spec.name][:1] for spec in specs}
    ranks_fit = all(spec.shape and len(shapes[spec.name]) == spec.rank for spec in specs)
    if not ranks_fit or len(lengths) > 1 or len(fixed) > 1 or len(named) > 1 or not (fixed or counts_samples(specs)):
        return _Plan(1)
    count = next(iter(lengths))[0]
    size = int(str(next(iter(fixed)))) if fixed else batch_size
    if fixed and (size == 0 or count % size):
        return _Plan(1)
    return _Plan(-(-count // size), size, count)


def open_npz(path: Path, specs: tuple[InputSpec, ...], batch_size: int) -> Source:
    """A `.npz` file or a folder of them."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    return ArraySource(path, [NpzPart(file) for file in files], specs, batch_size)


def open_npy(path: Path, specs: tuple[InputSpec, ...], batch_size: int) -> Source:
    """A folder of `.npy` files."""
    return ArraySource(path, [NpyPart(path, specs)], specs, batch_size)
