"""What is kept of a tensor while a model runs. It lives in the child process, so it needs numpy alone.

Everything kept can be added up: what two runs over parts of the data have seen, merged, is what one run over all of it
sees. Whole numbers, extremes and rows are then equal to the last bit, sums up to rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelc.calibration.histogram import MOST_BINS, WAITING, Histogram, Tally
from accelc.calibration.statistics import Observe

Array = NDArray[Any]
State = dict[str, Any]
"""Numbers and arrays by name; what travels between processes and into files."""

_DOUBLE_GRAM = 2048
"""Up to so many columns a gram matrix is summed in float64."""
_SCALARS = ("low", "high", "low_sum", "high_sum", "count", "feeds")


class Seen:
    """What was seen at one tensor.

    histogram, channels, rows, gram: what to keep, see Observe; seed: which rows. broken: (sample, "NaN" or "Inf") where
    an element was not finite; from then on nothing more is kept. feeds: arrays with at least one element.
    """

    def __init__(
        self, *, histogram: bool = False, channels: int | None = None, rows: int = 0, gram: bool = False, seed: int = 0
    ) -> None:
        self.wish, self.seed = Observe(histogram, channels, rows, gram), seed
        self.low, self.high = math.inf, -math.inf
        self.low_sum = self.high_sum = 0.0
        self.count = self.feeds = 0
        self.broken: tuple[int, str] | None = None
        self._before: Histogram | None = None  # from elsewhere
        self.channel_low: Array | None = None
        self.channel_high: Array | None = None
        self.channel_sum: Array | None = None
        self.channel_count = 0
        self.keys = np.empty((0, 3), np.uint64)  # of the rows kept: priority, sample, place
        self.rows: Array | None = None
        self.gram: Array | None = None
        self.gram_rows = 0
        self._size: tuple[int, int] | None = None
        self._tally = Tally()

    # --- one array

    def add(self, array: Array, sample: int) -> None:
        """Take in the tensor of one sample. Raises ValueError when its size does not fit what was seen before."""
        looked = self.look(array, sample)
        if looked is not None:
            self.keep(looked, sample)

    def look(self, array: Array, sample: int) -> tuple[Array, float, float] | None:
        """The quick part of `add`: all that can fail, and the extremes. What `keep` is to be given, if anything."""
        if self.broken is not None or not array.size:
            return None
        values = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.broken = (sample, "NaN" if math.isnan(low) or math.isnan(high) else "Inf")
            return None
        self._check_size(values)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.low_sum += low
        self.high_sum += high
        self.feeds += 1
        self.count += values.size
        return values, low, high

    def keep(self, looked: tuple[Array, float, float], sample: int) -> None:
        """The rest of `add`; it may run on another thread, one array after the other."""
        values, low, high = looked
        if self.wish.histogram:
            self._tally.add(values, low, high)
        if self.wish.channels is not None:
            self._add_channels(values, self.wish.channels)
        if self.wish.rows or self.wish.gram:
            rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
            if self.wish.rows:
                self._add_rows(rows, sample)
            if self.wish.gram:
                self._add_gram(rows)

    def _check_size(self, values: Array) -> None:
        axis, columns = self.wish.channels, values.shape[-1] if values.ndim else 1
        if axis is not None and not -values.ndim <= axis < values.ndim:
            raise ValueError(f"there is no axis {axis} in a tensor of {values.ndim} dimensions")
        size = (values.shape[axis] if axis is not None else 0, columns if self.wish.rows or self.wish.gram else 0)
        self._fits(size)

    def _fits(self, size: tuple[int, int]) -> None:
        """size: channels and columns, 0 where none are kept. Raises ValueError when they were others before."""
        known = self._size or size
        if known[0] != size[0]:
            raise ValueError(f"{known[0]} channels in one sample and {size[0]} in another")
        if known[1] != size[1]:
            raise ValueError(f"rows of {known[1]} elements in one sample and {size[1]} in another")
        self._size = known

    @property
    def histogram(self) -> Histogram | None:
        """Of everything seen so far; None where none is kept."""
        counted = self._tally.histogram() if self._tally.high >= self._tally.low else None
        if counted is None or self._before is None:
            return counted or self._before
        return counted + self._before

    def _add_channels(self, values: Array, axis: int) -> None:
        axis %= values.ndim
        size = values.shape[axis]
        blocks = values.reshape(math.prod(values.shape[:axis]), size, -1)
        low, high = blocks.min(axis=2).min(axis=0), blocks.max(axis=2).max(axis=0)
        total = blocks.sum(axis=2, dtype=np.float64).sum(axis=0)
        self._merge_channels(low, high, total, values.size // size)

    def _merge_channels(self, low: Array, high: Array, total: Array, each: int) -> None:
        if self.channel_low is None or self.channel_high is None or self.channel_sum is None:
            self.channel_low, self.channel_high, self.channel_sum = low, high, total
        else:
            self.channel_low = np.minimum(self.channel_low, low)
            self.channel_high = np.maximum(self.channel_high, high)
            self.channel_sum = self.channel_sum + total
        self.channel_count += each

    def _add_rows(self, rows: Array, sample: int) -> None:
        places = np.arange(len(rows), dtype=np.uint64)
        keys = np.stack([_priority(self.seed, sample, places), np.full_like(places, sample), places], axis=1)
        kept = len(self.keys) == self.wish.rows
        chosen = np.flatnonzero(keys[:, 0] <= self.keys[-1, 0]) if kept else np.arange(len(rows))
        if chosen.size > self.wish.rows:
            chosen = chosen[np.argpartition(keys[chosen, 0], self.wish.rows - 1)[: self.wish.rows]]
        if chosen.size:
            self._merge_rows(keys[chosen], rows[chosen])

    def _merge_rows(self, keys: Array, rows: Array) -> None:
        if self.rows is not None:
            keys, rows = np.concatenate([self.keys, keys]), np.concatenate([self.rows, rows])
        order = np.lexsort(keys.T[::-1])[: self.wish.rows]
        self.keys, self.rows = keys[order], rows[order]

    def _add_gram(self, rows: Array) -> None:
        self._merge_gram(rows.T @ rows, len(rows))

    def _merge_gram(self, gram: Array, rows: int) -> None:
        if self.gram is None:
            wide = len(gram) > _DOUBLE_GRAM
            self.gram = gram.astype(np.float32 if wide else np.float64)
        else:
            self.gram += gram
        self.gram_rows += rows

    # --- adding up, and travelling

    def merge(self, other: Seen) -> None:
        """Add what another has seen on other samples. Raises ValueError when sizes differ, or what is kept."""
        if (self.wish, self.seed) != (other.wish, other.seed):
            raise ValueError("not the same is kept of it")
        if other._size is not None:
            self._fits(other._size)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.low_sum += other.low_sum
        self.high_sum += other.high_sum
        self.count += other.count
        self.feeds += other.feeds
        self.broken = min((each for each in (self.broken, other.broken) if each is not None), default=None)
        added = other.histogram
        if added is not None:
            self._before = added if self._before is None else self._before + added
        if other.channel_low is not None and other.channel_high is not None and other.channel_sum is not None:
            self._merge_channels(other.channel_low, other.channel_high, other.channel_sum, other.channel_count)
        if other.rows is not None:
            self._merge_rows(other.keys, other.rows)
        if other.gram is not None:
            self._merge_gram(other.gram, other.gram_rows)

    def state(self) -> State:
        """All of it, for `of`."""
        wish = {**dataclasses.asdict(self.wish), "seed": self.seed}
        state: State = {**wish, **{name: getattr(self, name) for name in _SCALARS}, "broken": self.broken}
        state["size"] = self._size
        histogram = self.histogram
        if histogram is not None:
            state |= {"bins": (histogram.exponent, histogram.first), "counts": histogram.counts}
        if self.channel_low is not None:
            state |= {name: getattr(self, name) for name in ("channel_low", "channel_high", "channel_sum")}
            state["channel_count"] = self.channel_count
        if self.rows is not None:
            state |= {"keys": self.keys, "kept": self.rows}
        if self.gram is not None:
            state |= {"matrix": self.gram, "gram_rows": self.gram_rows}
        return state

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Seen:
        """The one that `state` came from. Raises KeyError for a state with parts missing."""
        names = ("histogram", "channels", "rows", "gram", "seed")
        seen = cls(**{name: state[name] for name in names})
        for name in _SCALARS:
            setattr(seen, name, state[name])
        seen.broken = tuple(state["broken"]) if state["broken"] is not None else None
        seen._size = tuple(state["size"]) if state["size"] is not None else None
        if "counts" in state:
            seen._before = Histogram(state["bins"][0], state["bins"][1], state["counts"])
        if "channel_low" in state:
            for name in ("channel_low", "channel_high", "channel_sum", "channel_count"):
                setattr(seen, name, state[name])
        if "kept" in state:
            seen.keys, seen.rows = state["keys"], state["kept"]
        if "matrix" in state:
            seen.gram, seen.gram_rows = state["matrix"], state["gram_rows"]
        return seen


def _priority(seed: int, sample: int, places: Array) -> Array:
    """A number for each row that depends on nothing but these three (the finalizer of splitmix64, thrice)."""
    value = np.full_like(places, seed % (1 << 64))
    for part in (np.full_like(places, sample), places):
        value = _mix(value + part * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15))
    return value


def _mix(value: Array) -> Array:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = value ^ (value >> np.uint64(31))
    return mixed


def held_bytes(wish: Observe, channels: int, columns: int) -> int:
    """The most that one Seen holds between samples, in bytes: its size when it knows everything it can."""
    total = 0
    if wish.histogram:
        total += 8 * MOST_BINS + 2 * WAITING
    if wish.channels is not None:
        total += 16 * channels
    if wish.rows:
        total += wish.rows * (4 * columns + 24)
    if wish.gram:
        total += columns * columns * (4 if columns > _DOUBLE_GRAM else 8)
    return total


def working_bytes(wish: Observe, elements: int, columns: int) -> int:
    """The most that one Seen needs besides while it looks at one array."""
    total = 0
    if wish.histogram:
        total += 4 * 8 * MOST_BINS + 16 * WAITING
    if wish.gram:
        total += 8 * columns * columns
    return total


class Watch:
    """The observers of several sessions, by key and name of the value. They work on a thread, beside the next run."""

    def __init__(self) -> None:
        self._seen: dict[int, dict[str, Seen]] = {}
        self._thread = ThreadPoolExecutor(1)
        self._kept: Future[None] | None = None

    def look(
        self, key: int, values: Mapping[str, Array], wanted: Mapping[str, Mapping[str, Any]], sample: int
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        """Show values to their observers; wanted: the options of these. By name the shape, and NaN or Inf where this
        sample has an element that is not finite.

        Raises ValueError, naming the value.
        """
        observers = self._seen.setdefault(key, {})
        found, work = {}, []
        for name, value in values.items():
            observer = observers.get(name) or observers.setdefault(name, Seen(**wanted[name]))
            try:
                looked = observer.look(value, sample)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if looked is not None:
                work.append((observer, looked))
            broken = observer.broken
            found[name] = (tuple(value.shape), broken[1] if broken is not None and broken[0] == sample else "")

        def keep() -> None:
            for observer, looked in work:
                observer.keep(looked, sample)

        self._settle()
        self._kept = self._thread.submit(keep)
        return found

    def states(self, key: int) -> dict[str, State]:
        """What was seen in a session, by name of the value."""
        self._settle()
        return {name: each.state() for name, each in self._seen.get(key, {}).items()}

    def forget(self, key: int) -> None:
        """Drop the observers of a session."""
        self._settle()
        self._seen.pop(key, None)

    def _settle(self) -> None:
        """Wait until everything seen is kept."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            kept.result()
