"""What `bench` may be told, checked once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from accelc.backend_base import BackendSpec
from accelc.data import Preprocessing, check_preprocess
from accelc.data.functions import is_function
from accelc.errors import UsageError
from accelc.options import seconds_of

if TYPE_CHECKING:
    from accelc.benchmark.scenarios import Demand

SCENARIOS = ("single-stream", "offline", "server")
MOST_THREADS = 4096
Shapes = Mapping[str, Sequence[int | str]]


@dataclass(frozen=True)
class BenchOptions:
    """See accelc.bench for the meaning of each. Raises UsageError for a value out of range."""

    models: tuple[Path, ...]
    providers: tuple[str, ...] = ("cpu",)
    threads: tuple[int | None, ...] = (None,)
    batches: tuple[int | None, ...] = (None,)
    shapes: tuple[Shapes, ...] = ({},)
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
        _check_some(self.providers, "provider")
        _check_counts(self.threads, "threads", MOST_THREADS)
        _check_counts(self.batches, "batch")
        _check_shapes(self.shapes)
        self._check_threads()
        self._check_scenario()
        self._check_dry_run()
        self._check_files()
        if self.trace is not None and not self.profile:
            raise UsageError("a trace comes from a profile", hint="add --profile")
        if self.trace is not None and self.trace.exists() and not self.trace.is_dir():
            raise UsageError("is no folder", where=str(self.trace), hint="name one for the traces")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise UsageError("memory_limit is not positive", hint="give the bytes that a process may hold")
        _ = self.seconds, self.preprocessing

    def _check_threads(self) -> None:
        for spec in self.specs:
            own = dict(spec.options).get("threads")
            other = next((each for each in self.threads if each is not None and str(each) != own), None)
            if own is not None and other is not None:
                why = f"{spec} has its own, and {other} are asked for as well"
                raise UsageError("two numbers of threads", why=why, hint="give one of them")

    def _check_scenario(self) -> None:
        if self.scenario not in SCENARIOS:
            raise UsageError(f"there is no scenario {self.scenario!r}", hint=f"it is one of {', '.join(SCENARIOS)}")
        if self.concurrency < 1:
            raise UsageError(f"concurrency cannot be {self.concurrency}", hint="give 1 or more")
        for name, value in (("qps", self.qps), ("bound", self.bound)):
            if value is not None and self.scenario != "server":
                raise UsageError(f"{name} belongs to the scenario server", hint="choose it, or leave it out")
        if self.qps is not None and not 0 < self.qps < math.inf:
            raise UsageError(f"qps cannot be {self.qps}", hint="give requests per second")
        _ = self.demand

    def _check_dry_run(self) -> None:
        asked = {
            "profile": self.profile,
            "scenario": self.demand is not None,
            "fail_if": bool(self.fail_if),
            "baseline": self.baseline is not None,
        }
        wrong = next((name for name, given in asked.items() if given), None)
        if self.dry_run and wrong is not None:
            raise UsageError(
                f"a dry run has no use for {wrong}", why="nothing is measured", hint="leave one of them out"
            )

    def _check_files(self) -> None:
        if self.inputs is not None and not is_function(str(self.inputs)) and not self.inputs.exists():
            raise UsageError("no such file or folder", where=str(self.inputs), hint="check the path of the inputs")
        check_preprocess(self.preprocess, (self.inputs,))
        if self.baseline is not None and not self.baseline.is_file():
            hint = "make one with accelc bench --report base.json"
            raise UsageError("no such file", where=str(self.baseline), hint=hint)

    @cached_property
    def seconds(self) -> float:
        """duration as a number of seconds. Raises UsageError."""
        return seconds_of(self.duration)

    @cached_property
    def bound_seconds(self) -> float | None:
        """bound as a number of seconds. Raises UsageError."""
        return None if self.bound is None else seconds_of(self.bound)

    @cached_property
    def demand(self) -> Demand | None:
        """What is asked of every model under load; None for one run after the other. Raises UsageError."""
        from accelc.benchmark.scenarios import Demand

        if self.scenario == "single-stream":
            return Demand("multi-stream", self.concurrency, self.seconds) if self.concurrency > 1 else None
        scenario: Literal["offline", "server"] = "offline" if self.scenario == "offline" else "server"
        return Demand(scenario, self.concurrency, self.seconds, self.qps, self.bound_seconds)

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """How images become inputs. Raises UsageError."""
        return None if self.preprocess is None else Preprocessing.parse(self.preprocess)

    @cached_property
    def specs(self) -> tuple[BackendSpec, ...]:
        """The providers, parsed. Raises UsageError."""
        return tuple(BackendSpec.parse(each) for each in self.providers)


def shape_sets(pairs: Iterable[tuple[str, Sequence[int | str]]]) -> tuple[Shapes, ...]:
    """Shapes by input or symbol, from (name, dimensions) in the order given.

    A name given several times makes as many sets: the first set has the first of each, the second the second; names
    given once are in all of them. Raises UsageError where two names are given unequally often.
    """
    given: dict[str, list[Sequence[int | str]]] = {}
    for name, dims in pairs:
        given.setdefault(name, []).append(tuple(dims))
    swept = {name: len(found) for name, found in given.items() if len(found) > 1}
    if len(set(swept.values())) > 1:
        counts = ", ".join(f"{name} {count} times" for name, count in swept.items())
        raise UsageError("shapes do not pair up", why=counts, hint="give each swept name equally often")
    count = next(iter(swept.values()), 1)
    return tuple({name: found[at % len(found)] for name, found in given.items()} for at in range(count))


def shape_text(shapes: Shapes, batch: int | None) -> str:
    """batch=8 ids=1x128"""
    parts = [f"batch={batch}"] if batch is not None else []
    return " ".join([*parts, *(f"{name}={'x'.join(map(str, dims))}" for name, dims in shapes.items())])


def _check_some(values: Sequence[object], name: str) -> None:
    if not values:
        raise UsageError(f"there is no {name}", hint="give one or more")
    twice = next((each for at, each in enumerate(values) if each in values[:at]), None)
    if twice is not None:
        raise UsageError(f"{name} {twice} is given twice", hint="give it once")


def _check_counts(values: Sequence[int | None], name: str, most: int | None = None) -> None:
    _check_some(values, name)
    for value in values:
        if value is not None and (value < 1 or (most is not None and value > most)):
            hint = "give 1 or more" if most is None else f"give a number from 1 to {most}"
            raise UsageError(f"{name} cannot be {value}", hint=hint)


def _check_shapes(sets: Sequence[Shapes]) -> None:
    _check_some([shape_text(each, None) for each in sets], "shape")
    for name, dims in (pair for each in sets for pair in each.items()):
        if any(isinstance(dim, int) and dim < 0 for dim in dims):
            raise UsageError(f"{name}={'x'.join(map(str, dims))} is no shape", hint="write name=1x128")
