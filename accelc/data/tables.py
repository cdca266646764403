"""Parquet files: a row is a sample, a column an input; read in batches of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accelc.data.checks import check_names, check_tensors
from accelc.data.items import LABELS, Array, Item, Source
from accelc.data.specs import InputSpec
from accelc.errors import UsageError

_ROWS = 256
"""Read at once."""
_FILL = "fill it or leave the row out"


class TableSource(Source):
    """One sample per row. Columns bear the names of inputs; lists are vectors, lists of lists matrices.

    A flat list takes the input's shape where that is fixed. A column `labels` holds labels. Raises UsageError when
    pyarrow is missing, a file cannot be read, or columns do not fit.
    """

    single = True

    def __init__(self, path: Path, files: Sequence[Path], specs: tuple[InputSpec, ...]) -> None:
        self.where, self.specs, self.files = str(path), specs, list(files)
        self.prefix = f"{path if path.is_dir() else path.parent}/"
        self.parquet = _pyarrow(self.where)
        self.count = 0
        names = [spec.name for spec in specs]
        check_tensors(self.where, specs, ".parquet files")
        labelled = []
        for file in self.files:
            opened = self._open(file)
            columns = list(opened.schema_arrow.names)
            labelled.append(LABELS in columns and LABELS not in names)
            check_names(str(file), [each for each in columns if each in names or each != LABELS], specs, "column")
            self.count += opened.metadata.num_rows
        if len(set(labelled)) > 1:
            hint = "give all or none labels"
            raise UsageError("some files have labels and some have none", where=self.where, hint=hint)
        self.columns = [*names, LABELS] if labelled[0] else names

    def _open(self, file: Path) -> Any:
        try:
            return self.parquet.ParquetFile(file)
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            raise UsageError("cannot be read as .parquet", where=str(file), why=str(error)) from error

    def items(self, index: int = 0, of: int = 1) -> Iterator[Item]:
        place = 0
        for file in self.files:
            row = 0
            opened = self._open(file)
            try:
                for batch in opened.iter_batches(_ROWS, columns=self.columns):
                    wanted = [each for each in range(batch.num_rows) if (place + each) % of == index % of]
                    wanted = [each for each in wanted if place + each >= index]
                    columns = {name: batch.column(at) for at, name in enumerate(batch.schema.names)}
                    for each in wanted:
                        yield self._item(columns, each, f"{file}[{row + each}]")
                    place, row = place + batch.num_rows, row + batch.num_rows
            except (OSError, ValueError) as error:
                raise UsageError("cannot be read as .parquet", where=str(file), why=str(error)) from error
            finally:
                opened.close()

    def _item(self, columns: dict[str, Any], row: int, where: str) -> Item:
        values = {spec.name: _shaped(_element(columns[spec.name], row, where, spec.name), spec) for spec in self.specs}
        if LABELS not in columns or len(self.columns) == len(self.specs):
            return Item(values, where)
        return Item(values, where, _element(columns[LABELS], row, where, LABELS)[None])


def _pyarrow(where: str) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        hint = "pip install 'accelc[parquet]'"
        raise UsageError(".parquet files need pyarrow", where=where, why="it is not installed", hint=hint) from error
    return parquet


def _element(column: Any, row: int, where: str, name: str) -> Array:
    """One cell: a number, or nested lists of numbers of equal length. Raises UsageError for nulls and ragged lists."""
    value = column[row]
    lengths: list[int] = []
    if not value.is_valid:
        raise UsageError(f"column {name} has no value", where=where, hint=_FILL)
    if not hasattr(value, "values"):
        return np.asarray(value.as_py())
    flat = value.values
    lengths.append(len(flat))
    while hasattr(flat, "flatten") and hasattr(flat, "value_lengths"):
        inner = set(flat.value_lengths().to_pylist())
        if None in inner:
            raise UsageError(f"column {name} has no value", where=where, hint=_FILL)
        if len(inner) > 1:
            raise UsageError(f"column {name} holds lists of different lengths", where=where)
        lengths.append(inner.pop() if inner else 0)
        flat = flat.flatten()
    if flat.null_count:
        raise UsageError(f"column {name} has no value", where=where, hint=_FILL)
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(lengths)


def _shaped(array: Array, spec: InputSpec) -> Array:
    """With the leading axis that counts samples, where the cell lacks it; a flat list in the input's own shape."""
    shape = spec.shape
    if shape is None or array.ndim == len(shape):
        return array
    own = shape[1:]
    fixed = [dim for dim in own if isinstance(dim, int)]
    if array.ndim == 1 and len(own) > 1 and len(fixed) == len(own) and math.prod(fixed) == array.size:
        array = array.reshape(fixed)
    return array[None] if array.ndim == len(own) else array
