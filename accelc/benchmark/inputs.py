"""What the cases of a group are run on: the same values for all, generated or the user's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from accelc.benchmark.fingerprint import memory
from accelc.benchmark.options import BenchOptions
from accelc.benchmark.plan import Case
from accelc.benchmark.sizes import Sizes, items_of
from accelc.data import Feed, InputSpec, Run, Values, infer_hints, load_data, signature, typical_feeds
from accelc.data.checks import as_type, check_shape, check_symbols, listed
from accelc.errors import AccelcError, BackendError, UsageError
from accelc.runner import RuntimeFailure
from accelc.units import size

GENERATED = 3
"""Feed sets of different values, so that models whose speed depends on them are not judged by one."""
MOST_OF_DATA = 8
"""Feed sets of the user's data, spread over it; every load of every model begins with a run of each."""
SEARCH_S = 20.0
SAME_INPUTS = "what is compared takes the same inputs; measure it by itself"


@dataclass(frozen=True)
class Inputs:
    """feeds: of a group. items: in one run. notes: what a reader must know of them."""

    feeds: tuple[Feed, ...]
    items: int
    notes: tuple[str, ...] = ()


def feeds_for(case: Case, options: BenchOptions, run: Run, others: Sequence[Case] = ()) -> Inputs:
    """Feed sets that a case runs on, of the sizes that are asked for. run: the case's model, once.

    others: cases that are to take the same; where they fix a size that this model leaves open, it is used.
    Raises UsageError where the sizes or the data do not fit the model, and what `run` raises for a model that does not
    survive it.
    """
    specs = signature(case.source.imported.proto)
    sizes = sizes_of(case, others)
    if options.inputs is None:
        _check_room(case, sizes.applied(), options.memory_limit or memory())
        feeds, notes = _generated(case, sizes, options.seed, run), tuple[str, ...]()
    else:
        feeds, notes = _loaded(case, specs, options)
    counts = {items_of(specs, feed.values) for feed in feeds}
    more = () if len(counts) == 1 else ("feed sets hold different numbers of items: throughput is in runs",)
    return Inputs(feeds, counts.pop() if len(counts) == 1 else 1, (*notes, *more))


def fitting(inputs: Inputs, case: Case) -> tuple[tuple[Feed, ...], tuple[str, ...]]:
    """The same feed sets for another case of the group, with notes on what had to be converted.

    A type may become another where no value changes. Raises UsageError, one line, where names, types or shapes differ.
    """
    specs, where = signature(case.source.imported.proto), str(case.path)
    notes: dict[str, None] = {}
    feeds = []
    for feed in inputs.feeds:
        _check_names(where, [spec.name for spec in specs], feed.values)
        values = dict(feed.values)
        for spec in specs:
            value = values[spec.name]
            if spec.kind == "tensor" and isinstance(value, np.ndarray):
                values[spec.name] = _as_type(where, spec, value, notes)
                check_shape(where, spec, value.shape, SAME_INPUTS)
        arrays = {name: value.shape for name, value in values.items() if isinstance(value, np.ndarray)}
        check_symbols(where, specs, arrays)
        feeds.append(replace(feed, values=values))
    return tuple(feeds), tuple(notes)


def _as_type(where: str, spec: InputSpec, value: Any, notes: dict[str, None]) -> Any:
    try:
        return as_type(where, spec, value, lambda text: notes.setdefault(text))
    except UsageError as error:
        raise UsageError(error.what, where=where, why=error.why, hint=SAME_INPUTS) from None


def _check_names(where: str, wanted: Sequence[str], given: Mapping[str, Any]) -> None:
    if set(wanted) != set(given):
        why = f"it takes {listed(wanted)}, and what it is compared with {listed(list(given))}"
        raise UsageError("has other inputs", where=where, why=why, hint=SAME_INPUTS)


def shapes_in_words(feed: Feed) -> str:
    """ids 1x128, mask 1x128"""
    shown = [f"{name} {_shape(value)}" for name, value in feed.values.items()]
    return ", ".join(shown[:4]) + (", ..." if len(shown) > 4 else "") if shown else "none"


def _shape(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return f"of {len(value)}" if isinstance(value, list | dict) else "absent"
    return "x".join(map(str, value.shape)) or "scalar"


def sizes_of(case: Case, others: Sequence[Case] = ()) -> Sizes:
    """What a case asks for. others: see feeds_for. Raises UsageError where the model does not take it."""
    sizes = Sizes(signature(case.source.imported.proto))
    try:
        sizes.fix(case.shapes)
        if case.batch is not None:
            sizes.fix_batch(case.batch)
    except UsageError as error:
        raise UsageError(error.what, where=str(case.path), why=error.why, hint=error.hint) from None
    for other in others:
        sizes.follow(signature(other.source.imported.proto))
    return sizes


def _check_room(case: Case, specs: Sequence[InputSpec], room: int | None) -> None:
    """Refuse sizes whose inputs alone take more memory than there is."""
    wanted = GENERATED * sum(
        math.prod(dim for dim in spec.shape or () if isinstance(dim, int))
        * onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type).itemsize
        for spec in specs
        if spec.kind == "tensor"
    )
    if room is not None and wanted > room:
        why = f"{GENERATED} feed sets take {size(wanted)} of {size(room)}"
        hint = "choose a smaller batch or shape"
        raise BackendError("the inputs need more memory than there is", where=str(case.path), why=why, hint=hint)


def _generated(case: Case, sizes: Sizes, seed: int, run: Run) -> tuple[Feed, ...]:
    refusals: list[AccelcError] = []

    def attempt(values: Values) -> Values:
        try:
            return run(values)
        except RuntimeFailure as failure:
            if failure.kind != "run":
                raise _Ended(failure) from failure
            refusals.append(failure)
            raise

    hints = infer_hints(case.source.imported.proto, sizes.symbols)
    hints = replace(hints, axes={**hints.axes, **sizes.axes})
    try:
        feeds = typical_feeds(sizes.applied(), attempt, wanted=GENERATED, seed=seed, hints=hints, seconds=SEARCH_S)
    except _Ended as ended:
        raise ended.failure from None
    if not feeds:
        why = refusals[0].why or refusals[0].what if refusals else ""
        hint = "give some with --inputs data.npz, or sizes with --shape"
        raise UsageError("runs on none of the generated inputs", where=str(case.path), why=why, hint=hint)
    return tuple(feeds)


class _Ended(Exception):
    """Ends the search for inputs: the model brings its process down, or takes too long."""

    def __init__(self, failure: RuntimeFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


def _loaded(
    case: Case, specs: tuple[InputSpec, ...], options: BenchOptions
) -> tuple[tuple[Feed, ...], tuple[str, ...]]:
    """Sets of the user's data; of as many items as a batch is to have, where one is asked for."""
    assert options.inputs is not None
    shaped = Sizes(specs)
    shaped.fix(case.shapes)
    data = load_data(
        options.inputs,
        shaped.applied(),
        batch_size=case.batch or 1,
        preprocessing=options.preprocessing,
        most=MOST_OF_DATA,
    )
    if case.batch is None:
        return data.feeds, data.notes
    whole = tuple(feed for feed in data.feeds if items_of(specs, feed.values) == case.batch)
    if not whole:
        why = f"the first feed set holds {items_of(specs, data.feeds[0].values)}"
        hint = "give more samples"
        raise UsageError(f"no {case.batch} samples make a batch", where=str(options.inputs), why=why, hint=hint)
    left = len(data.feeds) - len(whole)
    note = f"{left} feed set(s) without {case.batch} items are left out"
    return whole, (*data.notes, *([note] if left else []))
