"""What `optimize` may be told, checked once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from accelc.budget import DEFAULT_DROP, Budget
from accelc.data import Preprocessing, check_preprocess
from accelc.errors import UsageError
from accelc.pipeline import LEVELS, Pipeline

VERIFY = ("final", "each", "off")
_UNITS = {"": 1, "ms": 1e-3, "s": 1, "min": 60, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Options:
    """See accelc.optimize for the meaning of each. Raises UsageError for a value out of range."""

    level: int = 2
    target: str = "cpu"
    passes: str | None = None
    pipeline: Pipeline | None = None
    output: Path | None = None
    inputs: Path | None = None
    calibration: Path | None = None
    preprocess: str | None = None
    verify: str = "final"
    measure: bool | None = None
    portable: bool = False
    max_drop: float | str = DEFAULT_DROP
    metric: str | None = None
    metric_output: str | None = None
    calibration_method: str = "minmax"
    ranges: Path | None = None
    search_time: float | str | None = None
    pareto: Path | None = None
    isa: str | None = None
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
        if self.bisect_limit is not None and self.bisect_limit < 0:
            raise UsageError("bisect_limit is negative", hint="give the number of changes to make")
        if self.passes is not None and self.pipeline is not None:
            raise UsageError("both passes and pipeline are given", hint="give one of them")
        _ = self.budget, self.preprocessing, self.search_seconds
        check_preprocess(self.preprocess, (self.inputs, self.calibration))
        self._check_calibration()
        if self.pareto is not None:
            from accelc.pareto import check_pareto

            check_pareto(self.pareto)

    def _check_calibration(self) -> None:
        if self.calibration_method != "minmax":
            from accelc.calibration import Method

            Method.parse(self.calibration_method)
        if self.ranges is not None and not self.ranges.is_file():
            raise UsageError("no such file", where=str(self.ranges), hint="accelc calibrate makes one")

    @cached_property
    def budget(self) -> Budget:
        """Raises UsageError for a drop out of range or a metric that there is not."""
        return Budget.parse(self.max_drop, self.metric, self.metric_output)

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """How images become inputs. Raises UsageError."""
        return None if self.preprocess is None else Preprocessing.parse(self.preprocess)

    @property
    def search_seconds(self) -> float | None:
        """search_time as a number of seconds. Raises UsageError."""
        return None if self.search_time is None else seconds_of(self.search_time)

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


def seconds_of(time: float | str) -> float:
    """Seconds from a number, or from "90", "60s", "5min" or "1h". Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", str(time).strip().lower())
    seconds = float(found[1]) * _UNITS.get(found[2], math.nan) if found else math.nan
    if isinstance(time, bool) or not 0 < seconds < math.inf:
        raise UsageError(f"{time!r} is no time", hint="give seconds, or as 60s, 5min, 1h")
    return seconds
