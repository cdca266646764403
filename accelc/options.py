"""What `optimize` may be told, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelc.errors import UsageError
from accelc.pipeline import LEVELS, Pipeline

VERIFY = ("final", "each", "off")


@dataclass(frozen=True)
class Options:
    """See accelc.optimize for the meaning of each. Raises UsageError for a value out of range."""

    level: int = 2
    target: str = "cpu"
    passes: str | None = None
    pipeline: Pipeline | None = None
    output: Path | None = None
    inputs: Path | None = None
    verify: str = "final"
    measure: bool | None = None
    portable: bool = False
    max_drop: float = 0.01
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    disable: frozenset[str] = frozenset()
    bisect_limit: int | None = None
    plugins: tuple[str, ...] = ()
    seed: int = 0
    reproducer: Path | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UsageError(
                f"there is no level {self.level}", hint=f"levels are {', '.join(f'-O{n}' for n in LEVELS)}"
            )
        if self.verify not in VERIFY:
            raise UsageError(f"verify cannot be {self.verify!r}", hint=f"it is one of {', '.join(VERIFY)}")
        if not isinstance(self.max_drop, int | float) or not 0 <= self.max_drop < 1:
            raise UsageError(f"max_drop {self.max_drop} is out of range", hint="give a share such as 0.01")
        if self.bisect_limit is not None and self.bisect_limit < 0:
            raise UsageError("bisect_limit is negative", hint="give the number of changes to make")
        if self.passes is not None and self.pipeline is not None:
            raise UsageError("both passes and pipeline are given", hint="give one of them")

    @property
    def custom(self) -> bool:
        """Whether the user chose the passes instead of a level."""
        return self.passes is not None or self.pipeline is not None

    def chosen_pipeline(self) -> Pipeline:
        """The pipeline to run; fixing shapes comes first."""
        if self.pipeline is not None:
            chosen = self.pipeline
        elif self.passes is not None:
            chosen = Pipeline.parse(self.passes)
        else:
            chosen = Pipeline.level(self.level)
        if self.shapes and not any(each.name == "specialize" for each in chosen):
            return Pipeline((*Pipeline.parse("specialize").steps, *chosen.steps))
        return chosen

    def measures(self, pipeline: Pipeline) -> bool:
        """Whether latency is measured: as asked for, else at -O3 and for chosen passes that trade quality for speed."""
        if self.measure is not None:
            return self.measure
        return any(each.lossy for each in pipeline) if self.custom else self.level >= 3

    @property
    def label(self) -> str:
        """Stands in the default name of the result."""
        return "custom" if self.custom else f"O{self.level}"
