"""What `bench` may be told, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelc.backend_base import BackendSpec
from accelc.errors import UsageError
from accelc.options import seconds_of

SCENARIOS = ("single-stream", "offline", "server")


@dataclass(frozen=True)
class BenchOptions:
    """See accelc.bench for the meaning of each. Raises UsageError for a value out of range."""

    models: tuple[Path, ...]
    providers: tuple[str, ...] = ("cpu",)
    threads: tuple[int | None, ...] = (None,)
    batches: tuple[int | None, ...] = (None,)
    shapes: tuple[Mapping[str, Sequence[int | str]], ...] = ({},)
    inputs: Path | None = None
    preprocess: str | None = None
    duration: float | str = 5.0
    scenario: str = "single-stream"
    concurrency: int = 1
    qps: float | None = None
    bound: float | str | None = None
    profile: bool = False
    trace: Path | None = None
    dry_run: bool = False
    fallback: bool = False
    memory_limit: int | None = None
    baseline: Path | None = None
    fail_if: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("there is no model", hint="name one or more .onnx files")
        if self.scenario not in SCENARIOS:
            raise UsageError(f"there is no scenario {self.scenario!r}", hint=f"it is one of {', '.join(SCENARIOS)}")
        _ = self.seconds, self.specs

    @property
    def seconds(self) -> float:
        """duration as a number of seconds. Raises UsageError."""
        return seconds_of(self.duration)

    @property
    def specs(self) -> tuple[BackendSpec, ...]:
        """The providers, parsed. Raises UsageError."""
        return tuple(BackendSpec.parse(each) for each in self.providers)
