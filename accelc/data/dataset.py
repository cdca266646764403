"""Data as a stream of feed sets that fit a model: from arrays, test data, images, tables or the user's own function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accelc.data.checks import checked
from accelc.data.dims import role_of
from accelc.data.feeds import Feed
from accelc.data.functions import FunctionSource, is_function
from accelc.data.items import LABELS, Array, Item, Source, numeric_labels
from accelc.data.specs import InputSpec
from accelc.errors import UsageError

if TYPE_CHECKING:
    from accelc.data.preprocessing import Preprocessing

KINDS = (
    "a .npz file or a folder of them, a folder of .npy files, a folder of .pb test data, a folder of images, "
    "a .parquet file, or module:function"
)

CHECKED_BYTES = 256 << 20
_OTHERS = " and others"


@dataclass
class Dataset:
    """Feed sets that are read while they are iterated over, one at a time, and the same ones every time.

    source: where they come from. specs: the inputs they are checked against. finite: NaN and Inf are refused instead of
    noted. joined: how many samples at most are joined to one feed set. index, of: this is every of-th feed set from
    number `index` on. notes: what was learned while reading, such as conversions.

    Iterating raises UsageError, naming the place, for a feed set that does not fit the model.
    """

    source: Source
    specs: tuple[InputSpec, ...]
    finite: bool = False
    joined: int = 1
    index: int = 0
    of: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The file, folder or function, for messages."""
        return self.source.where

    @property
    def count(self) -> int | None:
        """The number of feed sets; None when only reading tells."""
        if self.source.count is None or self.joined > 1:
            return None
        return len(range(self.index, self.source.count // self._group, self.of))

    @property
    def _group(self) -> int:
        """Single samples that make one feed set, for the model has a fixed leading dimension."""
        return _fixed_batch(self.specs) if self.source.single else 1

    def __iter__(self) -> Iterator[Feed]:
        return (feed for feed, _ in self.labelled())

    def labelled(self) -> Iterator[tuple[Feed, Array | None]]:
        """Feed sets with the labels of their samples.

        Raises UsageError when nothing is there, when only some have labels, and for labels that are no numbers.
        """
        found, with_labels = False, False
        for item in self._joined(self._checked()):
            if item.labels is not None:
                numeric_labels(item.labels, item.where)
            if found and with_labels != (item.labels is not None):
                hint = "give all or none labels"
                raise UsageError("some samples have labels and some have none", where=self.where, hint=hint)
            found, with_labels = True, item.labels is not None
            yield Feed(item.values, item.where.removeprefix(self.source.prefix)), item.labels
        if not found and self.index == 0:
            raise UsageError("holds no samples", where=self.where, hint="give at least one")

    @property
    def labels(self) -> Array | None:
        """The labels of all feed sets along the first axis, or None; reads the data once."""
        return joined_labels([labels for _, labels in self.labelled()], self.where)

    def shard(self, index: int, of: int) -> Dataset:
        """Every of-th feed set from number `index` on: `of` shards hold each feed set once."""
        if not 0 <= index < of:
            raise ValueError(f"there is no shard {index} of {of}")
        return replace(self, index=self.index + index * self.of, of=self.of * of, notes=self.notes)

    def batched(self, size: int) -> Dataset:
        """The same samples, consecutive ones of the same shape joined to feed sets of at most `size` samples.

        The same data set where inputs have no common leading dimension that counts samples.
        """
        return replace(self, joined=max(1, size), notes=self.notes) if joinable(self.specs) else self

    def check(self, most: int = CHECKED_BYTES) -> None:
        """Read the first feed sets, up to `most` bytes, so that what does not fit is known before other work.

        Where reading takes more than that, as for images and functions, it is the first 16. Raises UsageError.
        """
        held = 0
        for feed in islice(self, 16) if self.source.slow else self:
            held += bytes_of(feed.values)
            if held > most:
                break

    def _items(self) -> Iterator[Item]:
        size = self._group
        if size == 1:
            yield from self.source.items(self.index, self.of)
            return
        items, place = self.source.items(), 0
        while len(group := list(islice(items, size))) == size:
            if place >= self.index and (place - self.index) % self.of == 0:
                yield join(group)
            place += 1
        if group:
            self._note(self.where, f"the last {len(group)} samples are left out: the model takes {size} at a time")

    def _note(self, where: str, text: str) -> None:
        """Keep a note once, however many places it is true of."""
        place = where.partition("[")[0].removeprefix(self.source.prefix)
        ending = f": {text}"
        for index, line in enumerate(self.notes):
            if line.endswith(ending):
                first = line.removesuffix(ending).removesuffix(_OTHERS)
                if first != place:
                    self.notes[index] = f"{first}{_OTHERS}{ending}"
                return
        self.notes.append(f"{place}{ending}")

    def _checked(self) -> Iterator[Item]:
        for item in self._items():
            note = partial(self._note, item.where)
            yield replace(item, values=checked(item.where, self.specs, item.values, note, finite=self.finite))

    def _joined(self, items: Iterator[Item]) -> Iterator[Item]:
        if self.joined == 1:
            yield from items
            return
        pending: list[Item] = []
        for item in items:
            if pending and (not _alike(pending[0], item) or _samples([*pending, item]) > self.joined):
                yield join(pending)
                pending = []
            pending.append(item)
        if pending:
            yield join(pending)


def _fixed_batch(specs: Sequence[InputSpec]) -> int:
    """The fixed leading dimension that all inputs share, else 1."""
    leading = {spec.shape[0] if spec.shape else None for spec in specs}
    size = next(iter(leading), None)
    whole = all(spec.rank != 3 or len(specs) > 1 for spec in specs)
    return size if len(leading) == 1 and isinstance(size, int) and size > 1 and whole else 1


def joinable(specs: Sequence[InputSpec]) -> bool:
    """Whether all inputs have the same dynamic leading dimension, and that counts samples."""
    if not specs or any(spec.kind != "tensor" or not spec.shape for spec in specs):
        return False
    leading = {spec.shape[0] for spec in specs if spec.shape}
    if len(leading) > 1 or isinstance(next(iter(leading)), int) or (leading == {None} and len(specs) > 1):
        return False
    return counts_samples(specs)


def counts_samples(specs: Sequence[InputSpec]) -> bool:
    """Whether the dynamic leading dimensions count samples, by their names; not the tokens of one sentence."""
    return all(role_of(spec.shape[0], 0, spec) in ("batch", "other") for spec in specs if spec.shape)


def _samples(items: Sequence[Item]) -> int:
    return sum(len(next(iter(item.values.values()))) for item in items)


def _alike(one: Item, two: Item) -> bool:
    shapes = [{name: np.shape(value)[1:] for name, value in item.values.items()} for item in (one, two)]
    return shapes[0] == shapes[1] and (one.labels is None) == (two.labels is None)


def join(items: Sequence[Item]) -> Item:
    """One feed set of several along the leading axis."""
    if len(items) == 1:
        return items[0]
    values = {name: np.concatenate([item.values[name] for item in items]) for name in items[0].values}
    where = f"{items[0].where} and {len(items) - 1} more"
    return Item(values, where, joined_labels([item.labels for item in items], where))


def bytes_of(values: Mapping[str, Any]) -> int:
    """What the arrays of a feed set take in memory."""
    return sum(int(getattr(value, "nbytes", 0)) for value in values.values())


def joined_labels(parts: Sequence[Array | None], where: str) -> Array | None:
    """Labels of several feed sets in one array; None when there are none. Raises UsageError when they do not fit."""
    found = [each for each in parts if each is not None]
    if not found:
        return None
    if len({(each.shape[1:], each.dtype.kind) for each in found}) > 1:
        raise UsageError("the labels differ in shape or type", where=where)
    return np.concatenate(found)


def open_dataset(
    source: str | Path,
    specs: Sequence[InputSpec],
    *,
    batch_size: int = 1,
    preprocessing: Preprocessing | str | None = None,
    finite: bool = False,
) -> Dataset:
    """Data for a model's inputs. What needs no reading of values is checked here: names, shapes, numbers of samples.

    source: a .npz file or a folder of them, a folder of .npy files, of .pb test data (also one of test_data_set_N) or
    of images, a .parquet file or a folder of them, "module:function" or "file.py:function". batch_size: samples in a
    feed set where the leading dimension is dynamic and counts samples. preprocessing: how images become inputs.
    finite: refuse NaN and Inf.

    Raises UsageError.
    """
    inputs = tuple(specs)
    found = _source(source, inputs, max(1, batch_size), preprocessing)
    data = Dataset(found, inputs, finite=finite, notes=list(found.notes))
    return data if batch_size <= 1 or found.batches else data.batched(batch_size)


def check_preprocess(preprocess: str | None, sources: Sequence[str | Path | None]) -> None:
    """Raise UsageError for a preprocessing that none of some data would take: it is for images."""
    given = [each for each in sources if each is not None]
    if preprocess is None or any(_holds_images(str(each)) for each in given):
        return
    why = f"{given[0]} holds none" if given else "no data is given"
    raise UsageError("--preprocess is for folders of images", why=why, hint="leave it out, or name such a folder")


def _holds_images(given: str) -> bool:
    """Whether data is a folder that `_folder` reads images from, or is not there, which is told elsewhere."""
    from accelc.data import images

    path = Path(given)
    if is_function(given) or not path.is_dir():
        return not is_function(given) and not path.exists()
    return not _arrays_in(path) and bool(images.find_images(path))


def _source(
    given: str | Path, specs: tuple[InputSpec, ...], batch_size: int, preprocessing: Preprocessing | str | None
) -> Source:
    path = Path(given)
    if is_function(str(given)):
        return FunctionSource(str(given), specs)
    if not path.exists():
        raise UsageError("no such file or folder", where=str(given), hint=f"give {KINDS}")
    if not path.is_dir():
        if path.suffix == ".parquet":
            from accelc.data.tables import TableSource

            return TableSource(path, [path], specs)
        from accelc.data.arrays import open_npz

        return open_npz(path, specs, batch_size)
    return _folder(path, specs, batch_size, preprocessing)


def _arrays_in(path: Path) -> str:
    """The kind of the files in a folder that hold inputs as they are: npz, pb, parquet or npy; empty for none."""
    from accelc.data import protos

    if any(path.glob("*.npz")):
        return "npz"
    if protos.feed_folders(path):
        return "pb"
    if any(path.glob("*.parquet")):
        return "parquet"
    return "npy" if any(file.stem != LABELS for file in path.glob("*.npy")) else ""


def _folder(
    path: Path, specs: tuple[InputSpec, ...], batch_size: int, preprocessing: Preprocessing | str | None
) -> Source:
    """What a folder holds, by the files in it."""
    from accelc.data import arrays, images, protos, tables

    kind = _arrays_in(path)
    if kind == "npz":
        return arrays.open_npz(path, specs, batch_size)
    if kind == "pb":
        return protos.ProtoSource(path, protos.feed_folders(path), specs)
    if kind == "parquet":
        return tables.TableSource(path, sorted(path.glob("*.parquet")), specs)
    if kind == "npy":
        return arrays.open_npy(path, specs, batch_size)
    if files := images.find_images(path):
        return images.ImageSource(path, files, specs, preprocessing)
    what = "the folder holds no .npz, .npy, .pb or .parquet file and no image"
    raise UsageError(what, where=str(path), hint=f"give {KINDS}")
