"""One case in a process of its own: load time, first run, memory, placement, outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelc.benchmark.plan import Case
from accelc.benchmark.results import Placed
from accelc.data import Feed


@dataclass(frozen=True)
class Probed:
    """See Row. outputs: for each feed set the outputs by name."""

    load_ms: float
    first_run_ms: float | None
    peak_bytes: int | None
    device_bytes: int | None
    placed: Placed | None
    outputs: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def probe(case: Case, feeds: Sequence[Feed], *, dry_run: bool = False, fallback: bool = False) -> Probed:
    """Load and run a case in a fresh process. Raises AccelcError, one line, for whatever goes wrong."""
    raise NotImplementedError
