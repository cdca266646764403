"""Candidates: the files that attempts write, and how the one that was judged becomes the result."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelc import ir
from accelc.context import PatchRecord
from accelc.decision_store import Decision
from accelc.errors import UsageError
from accelc.exporter import write_model
from accelc.pass_base import PassRecord
from accelc.source import Source


@dataclass(frozen=True)
class Candidate:
    """A file. bytes: its data file included. data: that file, None where there is none.

    typed: with types of inner values. stamped: with what made the nodes.
    """

    path: Path
    bytes: int
    data: Path | None = None
    typed: bool = False
    stamped: bool = False


@dataclass
class Attempt:
    """One run of the pipeline: the graph, what was done to it, and its file.

    weights: bytes before the first pass. decisions: what passes asked for.
    """

    model: ir.Model
    records: list[PassRecord]
    patches: list[PatchRecord]
    notes: list[str]
    file: Candidate
    weights: int
    decisions: Sequence[Decision] = ()

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def bytes(self) -> int:
        return self.file.bytes


class Candidates:
    """Writes candidates into a folder of their own, each under the result's name."""

    def __init__(self, source: Source, folder: Path, name: str) -> None:
        self.source, self.folder, self.name = source, folder, name
        self._count = 0

    def write(self, model: ir.Model, *, changed: bool) -> Candidate:
        """The file of an attempt; where nothing changed and the original is one clean file, that is the original.

        Types of inner values are written where the original had some, and what made the nodes; where the file would
        grow by them, it is written without.
        """
        source = self.source
        if source.path is not None and source.is_one_file and not changed and not source.imported.repairs:
            return Candidate(source.path, source.file_bytes)
        self._count += 1
        home = self.folder / str(self._count)
        home.mkdir()
        path = home / self.name
        kinds = (True, False) if source.has_value_info else (False,)
        for typed, stamped in itertools.product(kinds, (True, False)):
            size = write_model(model, path, value_info=typed, stamped=stamped)
            if size <= source.file_bytes:
                break
        data = next((each for each in home.iterdir() if each != path), None)
        return Candidate(path, size, data, typed, stamped)

    def discard(self, candidate: Candidate) -> None:
        """Free the disk of a candidate that is not kept."""
        if self.folder in candidate.path.parents:
            shutil.rmtree(candidate.path.parent, ignore_errors=True)

    def publish(self, attempt: Attempt, path: Path) -> Candidate:
        """Give the file that was judged its final name; its size there."""
        found = attempt.file
        try:
            if found.data is not None:
                final = path.with_name(found.data.name)
                if path.name != self.name or final.exists():  # the model names its data file; another may be in use
                    return Candidate(path, _again(attempt.model, path, found))
                os.replace(found.data, final)
            ready = found.path
            if self.folder not in ready.parents:
                ready = self.folder / "original.onnx"
                shutil.copyfile(found.path, ready)
            os.replace(ready, path)
        except OSError as error:
            raise UsageError("cannot write the result", where=str(path), why=error.strerror or str(error)) from error
        return Candidate(path, found.bytes)


def _again(model: ir.Model, path: Path, found: Candidate) -> int:
    return write_model(model, path, value_info=found.typed, stamped=found.stamped)
