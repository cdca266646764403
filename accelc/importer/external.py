"""External data: each reference is checked by name and by lstat before any file is opened, and again on opening."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

from accelc.errors import ModelError
from accelc.importer.hollow import inside
from accelc.importer.scopes import Scan
from accelc.importer.tensors import elements, stored_bytes, type_name

_NUMBER = re.compile(r"[0-9]{1,20}\Z")
_MAX = 2**63 - 1
_HINT = "keep the data file beside the model and export it again if it is damaged"


@dataclass(frozen=True)
class FileRange:
    """Bytes of a data file. location: relative to base_dir, as parts."""

    base_dir: Path
    parts: tuple[str, ...]
    offset: int
    length: int

    @property
    def path(self) -> Path:
        return self.base_dir.joinpath(*self.parts)


def check_external(scan: Scan, base_dir: Path | None, *, own: bool = False) -> dict[int, FileRange]:
    """The file range of each external tensor, by its index in scan.tensors. Opens no file.

    own: weights may have been left in the model's own file; they were checked then, and have no range.

    Raises: ModelError for a location that is absolute, leaves base_dir, passes a link, or is no regular file, and for
    a range that does not fit the file or the tensor.
    """
    found: dict[int, FileRange] = {}
    sizes: dict[tuple[str, ...], int] = {}
    for index, ref in enumerate(scan.tensors):
        if ref.proto.data_location == onnx.TensorProto.EXTERNAL and not (own and inside(ref.proto)):
            found[index] = _check(ref.proto, ref.where, base_dir, sizes)
    return found


def bytes_referred(ranges: Iterable[FileRange]) -> int:
    """The bytes that ranges cover together, each byte of a file once."""
    total = 0
    ends: dict[Path, int] = {}
    for item in sorted(set(ranges), key=lambda item: (item.path, item.offset)):
        start, stop = max(item.offset, ends.get(item.path, 0)), item.offset + item.length
        total += max(stop - start, 0)
        ends[item.path] = max(stop, ends.get(item.path, 0))
    return total


def read_range(item: FileRange, where: str) -> bytes:
    """The bytes of a range. Raises: ModelError when the file changed since it was checked."""
    with os.fdopen(open_data_file(item, where), "rb") as file:
        file.seek(item.offset)
        data = file.read(item.length)
    if len(data) != item.length:
        raise _error("the data file ended early", where, "/".join(item.parts))
    return data


def open_data_file(item: FileRange, where: str) -> int:
    """A descriptor of a data file, opened part by part so that no link is followed. The caller closes it.

    Raises: ModelError when a part is a link or no regular file (it may have changed since it was checked).
    """
    no_follow = getattr(os, "O_NOFOLLOW", 0)
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if os.open not in os.supports_dir_fd:
        _lstat_parts(item.base_dir, item.parts, where)
        return os.open(item.path, flags)
    folder = os.open(item.base_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in item.parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | no_follow, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(item.parts[-1], flags | no_follow, dir_fd=folder)
    except OSError as error:
        raise _error("the data file cannot be opened", where, error.strerror or str(error)) from None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _error("the data file is not a regular file", where, "/".join(item.parts))
    return descriptor


def _check(tensor: onnx.TensorProto, where: str, base_dir: Path | None, sizes: dict[tuple[str, ...], int]) -> FileRange:
    entries = _entries(tensor, where)
    parts = location_parts(entries.get("location", ""), where)
    if base_dir is None:
        raise ModelError(
            "the model has external data and no folder to find it in",
            where=where,
            why=f"it names '{'/'.join(parts)}'",
            hint="pass the model by path, or give the folder",
        )
    wanted = stored_bytes(tensor.data_type, elements(tuple(tensor.dims), where))
    offset = _number(entries, "offset", 0, where)
    length = _number(entries, "length", wanted, where)
    if length != wanted:
        what = f"{type_name(tensor.data_type)}{list(tensor.dims)} needs {wanted} bytes, 'length' says {length}"
        raise _error("external data does not fit its tensor", where, what)
    if parts not in sizes:
        sizes[parts] = _lstat_parts(base_dir, parts, where)
    if offset + length > sizes[parts]:
        what = f"bytes {offset} to {offset + length} of '{'/'.join(parts)}', which has {sizes[parts]}"
        raise _error("external data ends past the end of its file", where, what)
    return FileRange(base_dir, parts, offset, length)


def _entries(tensor: onnx.TensorProto, where: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if isinstance(entry.key, bytes) or isinstance(entry.value, bytes):
            raise _error("an external data entry is not valid UTF-8", where, "")
        if entry.key in entries:
            raise _error("an external data entry is given twice", where, f"'{entry.key}'")
        entries[entry.key] = entry.value
    return entries


def location_parts(location: str, where: str) -> tuple[str, ...]:
    """The parts of a location below its folder. What would be absolute or a climb on any system is refused on all.

    Raises: ModelError for a location that is empty, absolute, or holds `..`.
    """
    if not location:
        raise _error("external data names no file", where, "the entry 'location' is missing or empty")
    shown = repr(location)
    if "\0" in location:
        raise _error("an external data location is not a file name", where, shown)
    if location.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", location):
        raise _error(
            "external data has an absolute path", where, f"{shown}; only files below the model's folder are read"
        )
    parts = tuple(part for part in re.split(r"[/\\]" if os.sep == "\\" else r"/", location) if part not in ("", "."))
    if ".." in re.split(r"[/\\]", location):
        raise _error("external data leaves the model's folder", where, f"{shown} holds '..'")
    if not parts:
        raise _error("an external data location is not a file name", where, shown)
    return parts


def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not _NUMBER.match(text) or int(text) > _MAX:
        raise _error(f"external data has a bad {key}", where, f"{text[:40]!r} is not a size in bytes")
    return int(text)


def _lstat_parts(base_dir: Path, parts: tuple[str, ...], where: str) -> int:
    """The size of a data file, after looking at every part of its path without following links."""
    path = base_dir
    shown = "/".join(parts)
    for position, part in enumerate(parts):
        path = path / part
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            raise _error("an external data file is missing", where, f"'{shown}' is not in {base_dir}") from None
        except OSError as error:
            raise _error("an external data file cannot be looked at", where, error.strerror or str(error)) from None
        last = position == len(parts) - 1
        if stat.S_ISLNK(status.st_mode):
            why = f"'{part}' in '{shown}' is a symbolic link"
            raise ModelError(
                "external data behind a link is not read", where=where, why=why, hint="put the real file there"
            )
        if last and not stat.S_ISREG(status.st_mode):
            raise _error("an external data location is not a regular file", where, f"'{shown}'")
        if not last and not stat.S_ISDIR(status.st_mode):
            raise _error("an external data location is not below a folder", where, f"'{part}' in '{shown}'")
    return status.st_size


def _error(what: str, where: str, why: str) -> ModelError:
    return ModelError(what, where=where, why=why, hint=_HINT)
