"""What calibration found, as a file: it can be continued, merged with others, shown, and used instead of the data."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelc.calibration.observers import Seen
from accelc.errors import UsageError
from accelc.textfile import replacing

VERSION = 1
_FORMAT = "accelc.calibration"
_BROKEN = (
    ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a file that is none of ours, or a damaged one, may raise."""


@dataclass(frozen=True, order=True)
class Shard:
    """Every `of`-th sample of a source, from number `index` (counted from 1); done: how many of them were looked at."""

    source: str
    index: int = 1
    of: int = 1
    done: int = 0
    complete: bool = False

    def overlaps(self, other: Shard) -> bool:
        """Whether a sample is in both."""
        if self.source != other.source:
            return False
        return (self.index - other.index) % math.gcd(self.of, other.of) == 0

    def __str__(self) -> str:
        part = "" if self.of == 1 else f", shard {self.index}/{self.of}"
        return f"{self.done} samples of {self.source}{part}" + ("" if self.complete else ", not complete")


@dataclass
class State:
    """What was seen at tensors of the graph with this fingerprint. model: how that graph was made, for people."""

    fingerprint: str
    model: str
    shards: list[Shard] = field(default_factory=list)
    seen: dict[str, Seen] = field(default_factory=dict)
    label: str = ""

    def add(self, seen: dict[str, Seen]) -> None:
        """Add what was seen on further samples. Raises ValueError when something else is kept of a tensor."""
        for name, each in seen.items():
            if name in self.seen:
                self.seen[name].merge(each)
            else:
                self.seen[name] = each

    def save(self, path: Path) -> None:
        """Write the file; one that exists is replaced as a whole. Raises UsageError."""
        arrays: dict[str, NDArray[Any]] = {}
        tensors = []
        for index, (name, seen) in enumerate(self.seen.items()):
            state = seen.state()
            found = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
            arrays |= {f"{index}.{key}": value for key, value in found.items()}
            numbers = {key: value for key, value in state.items() if key not in found}
            tensors.append({"name": name, "numbers": numbers, "arrays": sorted(found)})
        head = {
            "format": _FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "model": self.model,
            "shards": [vars(each) for each in self.shards],
            "tensors": tensors,
        }
        text = np.frombuffer(json.dumps(head).encode(), np.uint8)
        try:
            with replacing(path) as beside, open(beside, "wb") as file:
                np.savez_compressed(file, **{"head": text, **arrays})  # type: ignore[arg-type]  # not allow_pickle
        except OSError as error:
            raise UsageError("cannot write", where=str(path), why=error.strerror or str(error)) from error

    @classmethod
    def load(cls, path: Path) -> State:
        """Read the file. Raises UsageError when it is none of these."""
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                head = json.loads(file["head"].tobytes())
                if head["format"] != _FORMAT:
                    raise KeyError("format")
                if head["version"] != VERSION:
                    raise UsageError(
                        f"has version {head['version']} of the format",
                        where=str(path),
                        hint=f"this is version {VERSION}",
                    )
                seen = {}
                for index, each in enumerate(head["tensors"]):
                    arrays = {key: file[f"{index}.{key}"] for key in each["arrays"]}
                    seen[each["name"]] = Seen.of({**each["numbers"], **arrays})
                shards = [Shard(**each) for each in head["shards"]]
                return cls(head["fingerprint"], head["model"], shards, seen, str(path))
        except OSError as error:
            raise UsageError("cannot be read", where=str(path), why=error.strerror or str(error)) from error
        except _BROKEN as error:
            raise UsageError(
                "is no calibration file", where=str(path), hint="accelc calibrate MODEL -o FILE makes one"
            ) from error
