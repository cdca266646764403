"""Feed sets for verification and calibration: made from a signature, in an order that finds running ones quickly."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelc.data.dims import MAIN_PLANS, SHORTER, TYPICAL, Dimensions, DimPlan, Shapes, plans
from accelc.data.specs import Hints, InputSpec, Value
from accelc.data.values import EDGE_MODES, MODES, Setting, changes_floats, make_value
from accelc.errors import AccelcError
from accelc.output_parts import Parts

Values = Mapping[str, Value]
Run = Callable[[Values], Values]
"""Runs the model once: values of inputs by name -> values of outputs by name. Raises AccelcError when it cannot."""

MAX_ELEMENTS = 60_000_000
"""Feed sets with more elements than this, over all inputs, are not made."""

_MAX_GUESSED_ELEMENTS = 4_000_000  # for sizes that are a last resort
_FALLBACK_MODES = ("normal", "bits", "ones")


@dataclass(frozen=True)
class Feed:
    """One set of input values by name. edge: it probes the ends of the types, so outputs may be meaningless."""

    values: Values
    description: str
    edge: bool = False

    def __str__(self) -> str:
        return self.description


@dataclass(frozen=True)
class Sample:
    """A feed set that runs, with the outputs it gave, and the labels of the user's data along its first axis.

    parts: of outputs that are several things in one. decided: outputs whose rows are probabilities of which the
    highest is the answer.
    """

    feed: Feed
    outputs: Values
    labels: NDArray[Any] | None = None
    parts: Mapping[str, Parts] = field(default_factory=dict)
    decided: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Layout:
    """A plan with the shapes it gives; `main` plans are tried with every mode."""

    plan: DimPlan
    shapes: Shapes
    label: str
    main: bool


class Generator:
    """Makes feed sets for one signature. The same signature, hints and seed give the same sets."""

    def __init__(self, specs: Sequence[InputSpec], *, seed: int = 0, hints: Hints | None = None) -> None:
        self.specs = tuple(specs)
        self.seed = seed
        self.hints = hints or Hints()
        self.dimensions = Dimensions(self.specs, self.hints)
        self.layouts = self._layouts()

    def _layouts(self) -> list[_Layout]:
        dimensions = self.dimensions
        seen: set[tuple[tuple[int, ...], ...]] = set()
        layouts: list[_Layout] = []
        for place, plan in enumerate(plans()):
            shapes = dimensions.shapes(plan)
            key = tuple(shapes.values())
            limit = _MAX_GUESSED_ELEMENTS if place >= len(MAIN_PLANS) else MAX_ELEMENTS
            if key not in seen and sum(math.prod(shape) for shape in key) <= limit:
                layouts.append(_Layout(plan, shapes, dimensions.describe(plan), main=place < 3 or not layouts))
                seen.add(key)
        return layouts

    def feed(self, layout: _Layout, mode: str, variant: int = 0) -> Feed:
        """The feed set of one layout and mode; variants differ in their random values only."""
        setting = Setting(mode, self.dimensions.role_sizes(layout.plan), self.hints.bounds, self.seed + variant)
        innermost = {spec.name: layout.shapes.get(_tensor_name(spec), ()) for spec in self.specs}
        values = {spec.name: make_value(spec, innermost[spec.name], setting) for spec in self.specs}
        return Feed(values, f"{layout.label} {mode}", setting.edge)

    def ordinary(self) -> Iterator[tuple[_Layout, str]]:
        """(layout, mode) pairs: the usual layouts first, then other kinds of values, then other sizes."""
        main = [layout for layout in self.layouts if layout.main]
        for mode in MODES:
            for layout in main:
                yield layout, mode
        for mode in _FALLBACK_MODES:
            for layout in self.layouts:
                if not layout.main:
                    yield layout, mode

    def edge_modes(self) -> tuple[str, ...]:
        """The edge modes that make a difference for these inputs."""
        if not self.specs:
            return ()
        return EDGE_MODES if changes_floats(self.specs) else EDGE_MODES[:3]


def _tensor_name(spec: InputSpec) -> str:
    while spec.item is not None:
        spec = spec.item
    return spec.name


def generate(specs: Sequence[InputSpec], *, seed: int = 0, hints: Hints | None = None) -> Iterator[Feed]:
    """Candidate feed sets, likeliest first; edge sets (marked) come last.

    A model may reject some of them, so try until enough run; `find_feeds` does that and learns from what ran.
    Raises: UsageError when an input's kind cannot be fed.
    """
    generator = Generator(specs, seed=seed, hints=hints)
    for variant, (layout, mode) in enumerate(generator.ordinary()):
        yield generator.feed(layout, mode, variant)
    for layout in generator.layouts:
        if layout.main:
            for mode in generator.edge_modes():
                yield generator.feed(layout, mode)


def find_feeds(
    specs: Sequence[InputSpec],
    run: Run,
    *,
    wanted: int = 3,
    edges: int = 0,
    seed: int = 0,
    hints: Hints | None = None,
    seconds: float = 20.0,
) -> list[Sample]:
    """Up to `wanted` ordinary sets that run, with their outputs, then up to `edges` edge sets of the same shapes.

    The sets differ in their sizes first (another batch, another length), then in the kind of values. Sets whose float
    outputs are all NaN are used only when nothing better runs. Returns fewer, or none, when the model rejects the rest
    or `seconds` have passed.
    """
    search = _Search(Generator(specs, seed=seed, hints=hints), run, time.monotonic() + seconds)
    samples, layout = search.ordinary(wanted)
    if layout is None:
        return samples
    for edge in search.generator.edge_modes() if edges else ():
        sample = search.attempt(layout, edge)
        if sample is not None:
            samples.append(sample)
            edges -= 1
        if not edges:
            break
    return samples


def typical_feed(
    specs: Sequence[InputSpec], run: Run, *, seed: int = 0, hints: Hints | None = None, seconds: float = 10.0
) -> Feed | None:
    """A feed set that runs, of the sizes models are used with: for measuring. None when dimensions leave no choice of
    sizes, or none of the values tried runs at these.
    """
    generator = Generator(specs, seed=seed, hints=hints)
    if all(spec.is_static for spec in generator.specs):
        return None
    shapes = generator.dimensions.shapes(TYPICAL)
    layout = _Layout(TYPICAL, shapes, generator.dimensions.describe(TYPICAL), main=True)
    search = _Search(generator, run, time.monotonic() + seconds)
    samples = (search.attempt(layout, mode) for mode in _FALLBACK_MODES)
    return next((sample.feed for sample in samples if sample is not None), None)


def typical_feeds(
    specs: Sequence[InputSpec],
    run: Run,
    *,
    wanted: int = 3,
    seed: int = 0,
    hints: Hints | None = None,
    seconds: float = 20.0,
) -> list[Feed]:
    """Feed sets that run, all of one size and with different values: for measuring.

    The sizes are those that models are used with; where none of the values tried runs at these, smaller ones, then the
    first that run. Returns fewer, or none, when the model rejects the rest or `seconds` have passed.
    """
    generator = Generator(specs, seed=seed, hints=hints)
    dimensions = generator.dimensions
    usual = [_Layout(plan, dimensions.shapes(plan), dimensions.describe(plan), True) for plan in (TYPICAL, *SHORTER)]
    search = _Search(generator, run, time.monotonic() + seconds)
    weak: list[Feed] = []
    for layout, mode in (*itertools.product(usual, _FALLBACK_MODES), *generator.ordinary()):
        first = search.attempt(layout, mode)
        if first is None:
            continue
        if _all_nan(first.outputs):
            weak = weak or [first.feed]
            continue
        more = (search.attempt(layout, mode, variant) for variant in range(1, wanted))
        return [first.feed, *(sample.feed for sample in more if sample is not None)]
    return weak


class _Search:
    """Tries feed sets: first any that runs, then its neighbours in size and in kind of values."""

    def __init__(self, generator: Generator, run: Run, deadline: float) -> None:
        self.generator, self.run, self.deadline = generator, run, deadline
        self.tried: set[tuple[str, str, int]] = set()

    def attempt(self, layout: _Layout, mode: str, variant: int = 0) -> Sample | None:
        """The sample when it runs within the deadline and was not tried before."""
        key = (layout.plan.name, mode, variant)
        if key in self.tried or time.monotonic() > self.deadline:
            return None
        self.tried.add(key)
        feed = self.generator.feed(layout, mode, variant)
        try:
            return Sample(feed, self.run(feed.values))
        except AccelcError:
            return None

    def ordinary(self, wanted: int) -> tuple[list[Sample], _Layout | None]:
        """The samples found and the layout of the first."""
        good: list[Sample] = []
        weak: list[Sample] = []
        first: tuple[_Layout | None, str] = (None, "")
        for layout, mode in self.generator.ordinary():
            if self._keep(self.attempt(layout, mode), good, weak):
                first = (layout, mode)
                break
            if weak and first[0] is None:
                first = (layout, mode)
        if good and first[0] is not None:
            for layout, mode, variant in self._neighbours(first[0], first[1]):
                if len(good) >= wanted:
                    break
                self._keep(self.attempt(layout, mode, variant), good, weak)
        return (good or weak)[:wanted], first[0]

    def _neighbours(self, layout: _Layout, mode: str) -> Iterator[tuple[_Layout, str, int]]:
        layouts = self.generator.layouts
        place = layouts.index(layout)
        near = dict.fromkeys([*range(min(6, len(layouts))), *range(place + 1, min(place + 6, len(layouts)))])
        yield from ((layouts[other], mode, 0) for other in near if other != place)
        yield from ((layout, other, 0) for other in ("padded", "small", "unit") if other != mode)
        yield from ((layout, mode, variant) for variant in range(1, 8))

    def _keep(self, sample: Sample | None, good: list[Sample], weak: list[Sample]) -> bool:
        if sample is None:
            return False
        kept = weak if _all_nan(sample.outputs) else good
        kept.append(sample)
        return kept is good


def _all_nan(outputs: Values) -> bool:
    arrays = [value for value in outputs.values() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]
    return any(array.size for array in arrays) and not any(np.isfinite(array).any() for array in arrays)
