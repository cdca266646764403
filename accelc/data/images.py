"""A folder of images: decoded and turned into inputs as the user declares, with classes from sub-folders or a list."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accelc.data.items import Array, Item, Source
from accelc.data.preprocessing import EXAMPLE, Preprocessing, Size
from accelc.data.specs import InputSpec
from accelc.errors import UsageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
LISTS = ("labels.csv", "labels.txt")


def find_images(path: Path) -> list[Path]:
    """Images in a folder and its sub-folders, in the order of their paths."""
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


class ImageSource(Source):
    """One sample per image.

    Labels come from labels.csv or labels.txt in the folder, with a line "file,class" for each image; else from the
    names of the sub-folders: numbers are classes, other names are numbered in sorted order. Without either, or with a
    single sub-folder, there are none.

    Raises UsageError without a preprocessing, for a model without an image input, and for labels that do not fit.
    """

    single = slow = True

    def __init__(
        self, path: Path, files: Sequence[Path], specs: tuple[InputSpec, ...], preprocessing: Preprocessing | str | None
    ) -> None:
        self.where, self.prefix, self.files, self.count = str(path), f"{path}/", list(files), len(files)
        if preprocessing is None:
            hint = f'say it with --preprocess, such as "{EXAMPLE}"'
            raise UsageError("how images become inputs is not declared", where=self.where, hint=hint)
        given = Preprocessing.parse(preprocessing) if isinstance(preprocessing, str) else preprocessing
        self.pillow = _pillow(self.where)
        self.spec, self.steps = _image_input(self.where, specs), given
        self.leading = self.spec.rank == 4
        self.labels, self.notes = _labels(path, self.files)
        if self.files:
            self._check(self._read(self.files[0]).shape)

    def items(self, index: int = 0, of: int = 1) -> Iterator[Item]:
        for place in range(index, len(self.files), of):
            labels = None if self.labels is None else self.labels[place : place + 1]
            yield Item({self.spec.name: self._read(self.files[place])}, str(self.files[place]), labels)

    def _check(self, shape: Sequence[int]) -> None:
        """Whether the declared steps lead to the model's dimensions, before anything else is read."""
        wanted = (self.spec.shape or ())[-3:]
        found = tuple(shape)[-3:]
        if any(isinstance(dim, int) and dim != size for dim, size in zip(wanted, found, strict=True)):
            shown = "x".join("?" if dim is None else str(dim) for dim in wanted)
            why = f"the preprocessing gives {'x'.join(map(str, found))} ({self.steps})"
            hint = "change resize, crop, layout or channels"
            raise UsageError(f"input {self.spec.name} wants images {shown}", where=self.where, why=why, hint=hint)

    def _read(self, file: Path) -> Array:
        """The input that an image gives, [1, C, H, W] or [1, H, W, C]; without the 1 for an input of rank 3."""
        steps, image_module = self.steps, self.pillow
        try:
            with image_module.open(file) as opened:
                if opened.mode == "F" or opened.mode.startswith("I"):
                    raise ValueError(f"it holds more than 8 bits a channel (mode {opened.mode})")
                image = opened.convert("L" if steps.channels == "gray" else "RGB")
        except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
            raise UsageError("cannot be read as an image", where=str(file), why=str(error)) from error
        image = _cropped(_resized(image, steps, image_module), steps.crop, file)
        array = np.asarray(image)
        array = array[:, :, None] if array.ndim == 2 else array
        array = array[:, :, ::-1] if steps.channels == "bgr" else array
        if steps.scale != 1.0 or steps.mean or steps.std:
            array = array.astype(np.float32) * np.float32(steps.scale)
            array = array - np.asarray(steps.mean or 0.0, np.float32)
            array = array / np.asarray(steps.std or 1.0, np.float32)
        array = np.ascontiguousarray(array.transpose(2, 0, 1) if steps.layout == "nchw" else array)
        array = _as_float(array, self.spec)
        return array[None] if self.leading else array


def _pillow(where: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        hint = "pip install 'accelc[images]'"
        raise UsageError("images need Pillow", where=where, why="it is not installed", hint=hint) from error
    return Image


def _image_input(where: str, specs: Sequence[InputSpec]) -> InputSpec:
    if len(specs) != 1 or specs[0].kind != "tensor" or specs[0].rank not in (3, 4):
        inputs = ", ".join(f"{spec.name} of rank {spec.rank}" for spec in specs) or "none"
        hint = "save the inputs as .npz or yield them from module:function"
        raise UsageError("images fit only a model with one input of rank 3 or 4", where=where, why=inputs, hint=hint)
    return specs[0]


def _as_float(array: Array, spec: InputSpec) -> Array:
    """Floats in the precision of a float input: the preprocessing is where they are made, so nothing is lost by it."""
    import onnx

    wanted = onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type)
    return array.astype(wanted) if array.dtype == np.float32 and wanted.kind in "fV" else array


def _resized(image: Any, steps: Preprocessing, pillow: Any) -> Any:
    if not steps.resize:
        return image
    width, height = image.size
    if len(steps.resize) == 2:
        size = (steps.resize[1], steps.resize[0])
    else:
        short = steps.resize[0]
        size = (short, short * height // width) if width <= height else (short * width // height, short)
    return image.resize(size, getattr(pillow.Resampling, steps.filter.upper()))


def _cropped(image: Any, crop: Size, file: Path) -> Any:
    if not crop:
        return image
    height, width = crop if len(crop) == 2 else (crop[0], crop[0])
    if image.width < width or image.height < height:
        why = f"after resizing it is {image.height}x{image.width}"
        hint = "give resize, or a smaller crop"
        raise UsageError(f"is smaller than the crop {height}x{width}", where=str(file), why=why, hint=hint)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


# --- labels ----------------------------------------------------------------------------------------------------------


def _labels(path: Path, files: Sequence[Path]) -> tuple[Array | None, tuple[str, ...]]:
    """A class for each image, and what to know about it."""
    listing = next((path / name for name in LISTS if (path / name).exists()), None)
    if listing is not None:
        return _listed_labels(listing, path, files), ()
    folders = [file.relative_to(path).parts[0] if file.parent != path else "" for file in files]
    names = sorted(set(folders))
    if names == [""] or len(names) == 1:
        return None, ()
    if "" in names:
        stray = next(file for file, folder in zip(files, folders, strict=True) if not folder)
        why = "others lie in sub-folders, whose names are their classes"
        raise UsageError("has no class", where=str(stray), why=why, hint=f"add {LISTS[0]} with lines file,class")
    if all(name.isdecimal() for name in names):
        return np.array([int(folder) for folder in folders]), ()
    number = {name: place for place, name in enumerate(names)}
    shown = ", ".join(f"{place} {name}" for name, place in list(number.items())[:4])
    more = f", ... ({len(number)} classes)" if len(number) > 4 else ""
    note = f"{path.name}: classes are the sub-folders in sorted order: {shown}{more}"
    return np.array([number[folder] for folder in folders]), (note,)


def _listed_labels(listing: Path, path: Path, files: Sequence[Path]) -> Array:
    classes = _read_list(listing)
    found = []
    for file in files:
        name = file.relative_to(path).as_posix()
        label = classes.get(name, classes.get(file.name))
        if label is None:
            raise UsageError(f"has no line for {name}", where=str(listing), hint="each image needs a line file,class")
        found.append(label)
    return np.array(found)


def _read_list(listing: Path) -> Mapping[str, int]:
    found: dict[str, int] = {}
    try:
        with listing.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError("cannot be read", where=str(listing), why=str(error)) from error
    for place, row in enumerate(rows):
        name, label = (row[0].strip(), row[1].strip()) if len(row) == 2 else ("", "")
        if label.removeprefix("-").isdecimal():
            found[name] = int(label)
        elif place or len(row) != 2:  # the first line may name the columns
            what = f"line {place + 1} is not file,class"
            raise UsageError(what, where=str(listing), why=",".join(row), hint="a class is a number")
    return found
