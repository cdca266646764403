"""What is to be measured: models, providers, shapes and threads as cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelc.backend_base import Backend
from accelc.benchmark.results import Setting
from accelc.source import Source


@dataclass(frozen=True)
class Case:
    """One model with one setting. group: cases of one group take the same inputs and are compared."""

    label: str
    path: Path
    source: Source
    backend: Backend
    setting: Setting
    group: str
    shapes: Mapping[str, Sequence[int | str]]
    batch: int | None = None
