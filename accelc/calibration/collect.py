"""Running a model on calibration data and keeping what was seen."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from accelc.calibration.graph import cut, fingerprint, loaded, observable
from accelc.calibration.observers import Seen, held_bytes, working_bytes
from accelc.calibration.statistics import Observe, Statistics
from accelc.data.checks import is_finite
from accelc.errors import UsageError
from accelc.runner import Runner, RuntimeFailure, Session

if TYPE_CHECKING:
    from accelc import ir
    from accelc.calibration.state import State
    from accelc.data import Feed

RUN_LIMIT_S = 600.0
MAX_BYTES = 1 << 30
"""Observers that need more than this are not made at once: the data is run through the model again for the rest."""
_KEPT_BYTES = 1 << 30
_TICK_S = 0.2


class Data(Protocol):
    """Feed sets to calibrate on, the same and in the same order each time, such as a Dataset.

    where: what they come from, for messages. count: how many there are, or None. index, of: they are every of-th feed
    set of all from number `index` on.
    """

    @property
    def where(self) -> str: ...

    @property
    def count(self) -> int | None: ...

    @property
    def index(self) -> int: ...

    @property
    def of(self) -> int: ...

    def __iter__(self) -> Iterator[Feed]: ...


def numbered(data: Data) -> Iterator[tuple[int, Feed]]:
    """Feed sets with their numbers among all of the source's: those do not depend on how it is divided."""
    return zip(itertools.count(data.index, data.of), data, strict=False)


@dataclass(frozen=True)
class Plan:
    """What is to be observed, in rounds: each runs the model over all of the data.

    bytes: the most that is needed besides the model itself for samples of the size of the first, however many.
    """

    rounds: tuple[Mapping[str, Observe], ...]
    bytes: int

    def __str__(self) -> str:
        count = sum(map(len, self.rounds))
        again = f" in {len(self.rounds)} rounds" if len(self.rounds) > 1 else ""
        return f"calibrating {count} tensors{again}: at most {self.bytes / 1e6:,.0f} MB besides the model"


class Collector:
    """One model, loaded with the wanted values as outputs, and observers of them.

    Use it as a context manager. wanted: values that `observable` accepts. label: where the data comes from. optimize:
    whether the runtime may use its own optimizations; they keep float values float, and fuse no value that is asked
    for, but may round it differently.
    """

    def __init__(
        self,
        runner: Runner,
        model: ir.Model,
        wanted: Mapping[str, Observe],
        *,
        seed: int = 0,
        label: str = "",
        optimize: bool = True,
    ) -> None:
        self.runner, self.model, self.wanted = runner, model, dict(wanted)
        self.seed, self.label, self.optimize = seed, label, optimize
        self._stack = ExitStack()

    def __enter__(self) -> Collector:
        part = cut(self.model, self.wanted)
        self._session = self._stack.enter_context(loaded(self.runner, part, optimize=self.optimize))
        self._inputs = frozenset(each.name for each in (*self._session.inputs, *self._session.overridable))
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._stack.close()

    def plan(self, first: Feed, limit: int = MAX_BYTES, sample: int = 0) -> Plan:
        """How to observe everything, no round holding more than `limit` bytes unless one value alone needs them.

        first: a feed set, from whose run the sizes are learnt; sample: its number. Raises UsageError.
        """
        found = self._observe(first, {name: {} for name in self.wanted}, sample)
        self.runner.forget(self._session)
        rounds: list[dict[str, Observe]] = []
        held, most, working, total, arrays = 0, 0, 0, 0, 0
        for name, wish in self.wanted.items():
            shape = found[name][0]
            columns = shape[-1] if shape else 1
            axis = wish.channels
            channels = shape[axis] if axis is not None and -len(shape) <= axis < len(shape) else 0
            each = held_bytes(wish, channels, columns)
            elements = math.prod(shape)
            if not rounds or held + each > limit:
                rounds.append({})
                held = 0
            rounds[-1][name] = wish
            held, total, arrays = held + each, total + each, arrays + 4 * elements
            most = max(most, held)
            working = max(working, working_bytes(wish, elements, columns))
        # Two sets of arrays: one is looked at while the next is made. The results are held here and on their way.
        return Plan(tuple(rounds), most + working + 2 * arrays + 2 * total)

    def add(self, feed: Feed, sample: int, wanted: Mapping[str, Observe] | None = None) -> None:
        """Run one feed set and add what is seen. Raises UsageError where the model does not run on it."""
        wishes = self.wanted if wanted is None else wanted
        # Equal wishes share their options, which then travel once.
        options = {wish: {**dataclasses.asdict(wish), "seed": self.seed} for wish in set(wishes.values())}
        found = self._observe(feed, {name: options[wish] for name, wish in wishes.items()}, sample)
        broken = next((f"{name} holds {what} in sample {sample}" for name, (_, what) in found.items() if what), "")
        if broken:
            self._explain(broken, feed, sample)

    def seen(self) -> dict[str, Seen]:
        """What the observers hold now."""
        return {name: Seen.of(state) for name, state in self.runner.observed(self._session).items()}

    def forget(self) -> None:
        """Begin anew."""
        self.runner.forget(self._session)

    def _observe(
        self, feed: Feed, options: Mapping[str, Mapping[str, Any]], sample: int
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        for name, value in feed.values.items():
            if not is_finite(value):
                what = "NaN" if np.isnan(value).any() else "Inf"
                raise UsageError(f"{name} holds {what} in sample {sample}", where=feed.description)
        try:
            return self.runner.observe(self._session, self._taken(feed), options, sample, RUN_LIMIT_S)
        except RuntimeFailure as failure:
            raise self._refusal(failure, feed, sample) from failure

    def _taken(self, feed: Feed) -> Mapping[str, Any]:
        return {name: value for name, value in feed.values.items() if name in self._inputs}

    @staticmethod
    def _refusal(failure: RuntimeFailure, feed: Feed, sample: int) -> Exception:
        if failure.kind != "run":
            return failure
        why = failure.why or failure.what
        return UsageError(f"the model does not run on sample {sample}", where=feed.description, why=why)

    def _explain(self, what: str, feed: Feed, sample: int) -> None:
        """Raise UsageError when the model's own outputs suffer from what is not finite inside.

        A mask of -Inf, or NaN that a later Where replaces, is the model's business.
        """
        with loaded(self.runner, self.model, optimize=False) as session:
            outputs = self._run_whole(session, feed, sample)
        for output, value in outputs.items():
            if not is_finite(value):
                raise UsageError(what, where=feed.description, why=f"the output {output} is not finite either")

    def _run_whole(self, session: Session, feed: Feed, sample: int) -> Mapping[str, Any]:
        try:
            return self.runner.run(session, self._taken(feed), timeout=RUN_LIMIT_S)
        except RuntimeFailure as failure:
            raise self._refusal(failure, feed, sample) from failure


@dataclass
class Calibration:
    """The user's calibration data, and what models make of it.

    Statistics are kept: asking again for the same tensors of the same graph costs nothing. Every feed set is run as it
    comes, one at a time, so that averages over feed sets mean what they say and a model of fixed batch runs.

    runner: gives the child process. seed: which rows are kept. known: statistics found earlier, for the graph that they
    were found for; data may then be None. notes: what the user should know. max_bytes: see MAX_BYTES.
    """

    data: Data | None
    runner: Callable[[], Runner]
    seed: int = 0
    progress: Callable[[str], None] | None = None
    known: State | None = None
    optimize: bool = True
    max_bytes: int = MAX_BYTES
    notes: list[str] = field(default_factory=list)
    _kept: dict[tuple[str, str], list[tuple[Observe, Statistics | None]]] = field(default_factory=dict)
    _fitted: bool = False

    def statistics(self, model: ir.Model, wanted: Mapping[str, Observe]) -> dict[str, Statistics]:
        """What was seen at values of the main graph, by name; the model runs once over all of the data.

        Left out are values that are not float, or not finite, or of no element, or inside subgraphs, and constants.

        Raises UsageError for data on which the model does not run, RuntimeFailure when the model cannot be loaded.
        """
        mark = fingerprint(model)
        self._use_known(mark)
        missing = {name: wish for name, wish in wanted.items() if self._find(mark, name, wish) is None}
        reasons = observable(model, missing)
        runnable = {name: wish for name, wish in missing.items() if not reasons[name]}
        if runnable and self.data is not None:
            for name, seen in self._collect(model, runnable).items():
                self._keep(mark, name, runnable[name], statistics_of(seen))
        elif runnable:
            self._note(f"the ranges given hold less about {_some(runnable)} than was asked for; data would tell")
        found = {name: self._find(mark, name, wish) for name, wish in wanted.items()}
        return {name: each[0] for name, each in found.items() if each is not None and each[0] is not None}

    def _use_known(self, mark: str) -> None:
        known = self.known
        if known is None:
            return
        if known.fingerprint != mark:
            what = "the ranges were made for another graph"
            if self.data is None and not self._fitted:
                raise UsageError(
                    what, where=known.label, hint="make them with the same options, by accelc calibrate MODEL"
                )
            self._note(f"{what} than one that came up here")
        elif not self._fitted:
            self._fitted = True
            for shard in known.shards:
                if not shard.complete:
                    self._note(f"{known.label} holds {shard}")
            for name, seen in known.seen.items():
                self._keep(mark, name, seen.wish, statistics_of(seen))

    def _collect(self, model: ir.Model, wanted: Mapping[str, Observe]) -> dict[str, Seen]:
        assert self.data is not None
        label, total = self.data.where, self.data.count
        first = next(iter(self.data), None)
        if first is None:
            raise UsageError("there are no samples to calibrate on", where=label)
        collected: dict[str, Seen] = {}
        samples = 0
        with Collector(self.runner(), model, wanted, seed=self.seed, label=label, optimize=self.optimize) as collector:
            plan = collector.plan(first, self.max_bytes, self.data.index)
            self._tell(str(plan))
            for wishes in plan.rounds:
                samples = 0
                for sample, feed in self._ticking(self.data, str(plan), total):
                    collector.add(feed, sample, wishes)
                    samples += 1
                collected |= collector.seen()
                collector.forget()
        for remark in remarks(collected, samples):
            self._note(remark)
        return collected

    def _ticking(self, data: Data, plan: str, total: int | None) -> Iterator[tuple[int, Feed]]:
        told = time.monotonic()
        for done, (sample, feed) in enumerate(numbered(data), 1):
            yield sample, feed
            if time.monotonic() - told > _TICK_S:
                told = time.monotonic()
                self._tell(f"{plan}; sample {done}" + (f" of {total}" if total else ""))

    # --- what is kept

    def _find(self, mark: str, name: str, wish: Observe) -> tuple[Statistics | None] | None:
        """Statistics that answer a wish; (None,) where it is known that there are none; None where nothing is known."""
        for kept, statistics in self._kept.get((mark, name), ()):
            if statistics is None or kept.covers(wish):
                return (None if statistics is None else statistics.only(wish),)
        return None

    def _keep(self, mark: str, name: str, wish: Observe, statistics: Statistics | None) -> None:
        entries = self._kept.setdefault((mark, name), [])
        entries[:] = [entry for entry in entries if not wish.covers(entry[0])]
        entries.append((wish, statistics))
        held = sum(s.nbytes for each in self._kept.values() for _, s in each if s is not None)
        for key in list(self._kept):
            if held <= _KEPT_BYTES:
                break
            if key[0] == mark:
                continue
            held -= sum(s.nbytes for _, s in self._kept.pop(key) if s is not None)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _tell(self, text: str) -> None:
        if self.progress is not None:
            self.progress(text)


def remarks(collected: Mapping[str, Seen], samples: int) -> Iterator[str]:
    """What the user should know of the data: what gives no range, and what may give a poor one."""
    for name, seen in collected.items():
        if seen.broken is not None:
            sample, what = seen.broken
            yield f"{name} holds {what} in sample {sample} and has no range"
    constant = [name for name, seen in collected.items() if seen.count and seen.low == seen.high]
    if constant:
        yield f"{_some(constant)} always held one number"
    if samples == 1:
        yield "there is one sample to calibrate on; ranges of others may be wider"


def statistics_of(seen: Seen) -> Statistics | None:
    """None for a tensor that had no element, or one that is not finite."""
    if seen.broken is not None or not seen.count:
        return None
    mean = None if seen.channel_sum is None else seen.channel_sum / max(seen.channel_count, 1)
    return Statistics(
        low=seen.low,
        high=seen.high,
        average_low=seen.low_sum / seen.feeds,
        average_high=seen.high_sum / seen.feeds,
        count=seen.count,
        samples=seen.feeds,
        histogram=seen.histogram,
        channel_low=seen.channel_low,
        channel_high=seen.channel_high,
        channel_mean=mean,
        rows=seen.rows,
        gram=seen.gram,
        gram_rows=seen.gram_rows,
    )


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
