"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelc.errors import UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, to write to: the file there takes the place of `path` at the end, and goes on errors.

    Raises OSError.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_text(path: Path, text: str, what: str) -> None:
    """Write under a temporary name first, so that a reader never sees half of it. what: as in "the report".

    Raises UsageError.
    """
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{what} cannot be written", where=str(path), why=error.strerror or str(error)) from error


def check_writable(path: Path, what: str) -> None:
    """Raise UsageError when a file of this name surely cannot be written."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"{what} cannot be written", where=str(path), hint="name a file in a folder that exists")
