"""How an image becomes an input, as the user declares it; nothing of it is guessed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from accelc.errors import UsageError

EXAMPLE = "resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,layout=nchw,channels=rgb"
CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
FILTERS = ("bilinear", "nearest", "bicubic", "lanczos", "box", "hamming")
Size = tuple[int, ...]
"""(shorter side,) or (height, width)."""


@dataclass(frozen=True)
class Preprocessing:
    """Steps in this order: resize, crop, scale, mean, std, layout; `str` gives the text that `parse` reads.

    resize: a number for the shorter side, keeping the proportions, or HEIGHTxWIDTH. crop: the same size in both
    directions or HEIGHTxWIDTH, from the middle. scale: a factor for the values 0..255. mean, std: subtracted and
    divided by, for each channel or one for all. layout: nchw or nhwc. channels: rgb, bgr or gray. filter: how resizing
    interpolates.
    """

    resize: Size = ()
    crop: Size = ()
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["nchw", "nhwc"] = "nchw"
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    filter: str = "bilinear"

    def __post_init__(self) -> None:
        depth = CHANNELS.get(self.channels)
        if depth is None:
            raise _wrong("channels", self.channels, f"one of {', '.join(CHANNELS)}")
        if self.layout not in ("nchw", "nhwc"):
            raise _wrong("layout", self.layout, "nchw or nhwc")
        if self.filter not in FILTERS:
            raise _wrong("filter", self.filter, f"one of {', '.join(FILTERS)}")
        for name in ("resize", "crop"):
            size = getattr(self, name)
            if len(size) > 2 or any(each < 1 for each in size):
                raise _wrong(name, "x".join(map(str, size)), "a size such as 224 or 224x320")
        for name in ("mean", "std"):
            given = getattr(self, name)
            if len(given) not in (0, 1, depth):
                raise _wrong(name, ":".join(map(str, given)), f"one number or {depth} joined by ':'")
        if 0.0 in self.std:
            raise _wrong("std", 0, "other than zero")

    @classmethod
    def parse(cls, text: str) -> Preprocessing:
        """From "resize=256,crop=224,...", or from a .json or .toml file of the same names. Raises UsageError."""
        if text.endswith((".json", ".toml")):
            return cls.of(_read(Path(text)))
        given: dict[str, Any] = {}
        for part in filter(None, (each.strip() for each in text.split(","))):
            name, equals, value = part.partition("=")
            if not equals or name.strip() in given:
                what = "is given twice" if equals else "has no value"
                raise UsageError(f"preprocessing: {name.strip()} {what}", hint=f"an example is {EXAMPLE}")
            given[name.strip()] = value.strip()
        return cls.of(given)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Preprocessing:
        """From names and values: text, numbers or lists. Raises UsageError."""
        values: dict[str, Any] = {}
        for name, value in given.items():
            read = _READERS.get(name)
            if read is None:
                raise UsageError(f"preprocessing has no {name}", hint=f"it has {', '.join(_READERS)}")
            try:
                values[name] = read(value)
            except (ValueError, TypeError, ZeroDivisionError) as error:
                raise _wrong(name, repr(value), f"as in {EXAMPLE}") from error
        return cls(**values)

    def __str__(self) -> str:
        shown = {each.name: getattr(self, each.name) for each in fields(self) if each.default is not MISSING}
        defaults = {each.name: each.default for each in fields(self)}
        return ",".join(f"{name}={_text(name, value)}" for name, value in shown.items() if value != defaults[name])


def _wrong(name: str, value: object, wanted: str) -> UsageError:
    return UsageError(f"preprocessing: {name} cannot be {value}", hint=f"it is {wanted}")


def _text(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return ("x" if name in ("resize", "crop") else ":").join(map(repr, value))
    return repr(value) if isinstance(value, float) else str(value)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError("cannot read the preprocessing", where=str(path), why=error.strerror or str(error)) from error
    except ValueError as error:
        raise UsageError("is not valid", where=str(path), why=str(error)) from error
    if not isinstance(found, dict):
        raise UsageError("is no table of names and values", where=str(path), hint=f"an example is {EXAMPLE}")
    return found


def _number(value: Any) -> float:
    return float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)


def _parts(value: Any, mark: str) -> list[Any]:
    if isinstance(value, str):
        return value.lower().split(mark)
    return list(value) if isinstance(value, list | tuple) else [value]


def _size(value: Any) -> Size:
    return tuple(int(each) for each in _parts(value, "x"))


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(_number(each) for each in _parts(value, ":"))


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value.lower()


_READERS: dict[str, Callable[[Any], Any]] = {
    "resize": _size, "crop": _size, "scale": _number, "mean": _numbers, "std": _numbers,
    "layout": _word, "channels": _word, "filter": _word,
}  # fmt: skip
