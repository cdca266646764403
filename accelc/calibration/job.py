"""Calibration by itself: the ranges that the quantization of a model would ask for, found once and kept in a file."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory

from accelc import ir
from accelc.calibration.collect import Calibration, Collector, Data, numbered, remarks
from accelc.calibration.graph import fingerprint, observable
from accelc.calibration.observers import Seen
from accelc.calibration.state import Shard, State
from accelc.calibration.statistics import Observe, Statistics
from accelc.context import Context
from accelc.errors import AccelcError, UsageError
from accelc.instrument import Instrument
from accelc.options import Options
from accelc.pass_base import Pass
from accelc.textfile import check_writable

CHECKPOINT_S = 5.0
MOST_BYTES = 4 << 30
_OTHER_FILE = "name another file with -o, or remove it"


class Watcher:
    """Told how the work goes. Does nothing here."""

    def doing(self, text: str) -> None:
        """A few words on what is being done."""

    def started(self, plan: str, done: int, total: int | None) -> None:
        """The plan, with the memory that it needs; samples done by an earlier run, and of how many."""

    def sampled(self) -> None:
        """One more sample is done."""


@dataclass
class Job:
    """data: of this shard. file: written every few seconds; a file of the same job that is not complete is continued.

    shard: (index from 1, of). tensors: patterns of names. made: how the graph comes about, for people.
    """

    data: Data
    file: Path
    made: str
    watcher: Watcher
    shard: tuple[int, int] = (1, 1)
    tensors: tuple[str, ...] = ()
    seed: int = 0
    most_bytes: int = MOST_BYTES
    notes: list[str] = field(default_factory=list)
    _version: tuple[int, int] | None = None  # of the file as this process knows it

    def run(self, model: Path, options: Options) -> State:
        """Prepare the graph as `optimize` does, and calibrate what it first asks statistics of.

        Raises UsageError, and what compiling raises.
        """
        from accelc.targets import compile_each

        check_writable(self.file, "the ranges")
        asked = _Asked(self)
        with TemporaryDirectory(prefix="accelc-") as folder:
            wanted = replace(options, output=Path(folder) / "unused.onnx")
            try:
                for _ in compile_each(model, wanted, [options.target], lambda _: (asked,), self.watcher.doing):
                    pass
            except _Done as done:
                return done.state
        hint = "calibration serves -O3 and quantize on the processor"
        raise UsageError("nothing asks for ranges of this model", where=str(model), hint=hint)

    def collect(self, model: ir.Model, wanted: Mapping[str, Observe], ctx: Context) -> State:
        """Run the data through a graph, and keep the file up to date."""
        wishes = self._chosen(model, wanted)
        state, shard = self._begin(fingerprint(model), wishes)
        if shard.complete:
            self.notes.append(f"{self.file} is complete: {shard}")
            return state
        first = next(iter(self.data), None)
        if first is None:
            raise UsageError("there are no samples to calibrate on", where=self.data.where)
        with Collector(ctx.runner, model, wishes, seed=self.seed, label=self.data.where) as collector:
            plan = collector.plan(first, self.most_bytes, self.data.index)
            if len(plan.rounds) > 1:
                hint = "choose tensors with --tensors"
                raise UsageError(f"{plan}, more than {self.most_bytes / 1e9:.1f} GB", hint=hint)
            self.watcher.started(str(plan), shard.done, self.data.count)
            saved, done = time.monotonic(), 0
            for sample, feed in numbered(self.data):
                done += 1
                if done <= shard.done:
                    continue
                collector.add(feed, sample)
                self.watcher.sampled()
                if time.monotonic() - saved > CHECKPOINT_S:
                    self._save(state, collector, replace(shard, done=done))
                    saved = time.monotonic()
            if done < shard.done:
                where, why = str(self.file), f"{self.data.where} holds {done} now"
                raise UsageError(f"{shard.done} samples were looked at", where=where, why=why, hint=_OTHER_FILE)
            self._save(state, collector, replace(shard, done=done, complete=True))
        self.notes += remarks(state.seen, done)
        return state

    def _chosen(self, model: ir.Model, wanted: Mapping[str, Observe]) -> dict[str, Observe]:
        reasons = observable(model, wanted)
        able = {name: wish | Observe(histogram=True) for name, wish in wanted.items() if not reasons[name]}
        if not self.tensors:
            return able
        chosen = {name: wish for name, wish in able.items() if any(fnmatchcase(name, each) for each in self.tensors)}
        if not chosen:
            raise UsageError(
                f"no tensor is named {' or '.join(self.tensors)}", hint=f"there is {', '.join(able)[:200]}"
            )
        return chosen

    def _begin(self, mark: str, wishes: Mapping[str, Observe]) -> tuple[State, Shard]:
        """What an earlier run left in the file, or a new state."""
        index, of = self.shard
        if not self.file.exists():
            shard = Shard(self.data.where, index, of)
            return State(mark, self.made, [shard], label=str(self.file)), shard
        state = State.load(self.file)
        self._version = _version(self.file)
        if state.fingerprint != mark:
            raise UsageError(
                "was made for another graph", where=str(self.file), why=f"of {state.model}", hint=_OTHER_FILE
            )
        shard, *more = state.shards or [Shard("")]
        if more or (shard.source, shard.index, shard.of) != (self.data.where, index, of):
            raise UsageError("holds ranges of other data", where=str(self.file), why=str(shard), hint=_OTHER_FILE)
        if shard.done and {name: seen.wish for name, seen in state.seen.items()} != dict(wishes):
            raise UsageError("holds ranges of other tensors", where=str(self.file), hint=_OTHER_FILE)
        if any(seen.seed != self.seed for seen in state.seen.values()):
            raise UsageError("was made with another --seed", where=str(self.file), hint=_OTHER_FILE)
        return state, shard

    def _save(self, state: State, collector: Collector, shard: Shard) -> None:
        seen: dict[str, Seen] = collector.seen()
        collector.forget()
        state.add(seen)
        state.shards = [shard]
        if _version(self.file) != self._version:
            hint = "let each of them write a file of its own, and add them up with --merge"
            raise UsageError("was changed meanwhile", where=str(self.file), why="another process writes it", hint=hint)
        state.save(self.file)
        self._version = _version(self.file)


def _version(file: Path) -> tuple[int, int] | None:
    """What tells whether a file was written again; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


class _Done(AccelcError):
    """Ends the compile: what it was for is there."""

    def __init__(self, state: State) -> None:
        super().__init__("calibration is done")
        self.state = state


class _Asked(Instrument):
    """Gives passes calibration data that does the job as soon as statistics are asked for."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def before(self, each: Pass, model: ir.Model, ctx: Context) -> None:
        if not isinstance(ctx.calibration, _Catch):
            ctx.calibration = _Catch(self.job.data, lambda: ctx.runner)
            ctx.calibration.job = lambda graph, wanted: self.job.collect(graph, wanted, ctx)


class _Catch(Calibration):
    job: Callable[[ir.Model, Mapping[str, Observe]], State]

    def statistics(self, model: ir.Model, wanted: Mapping[str, Observe]) -> dict[str, Statistics]:
        raise _Done(self.job(model, wanted))


def merged(states: list[State]) -> State:
    """One state of several for one graph, each of other samples. Raises UsageError."""
    first, *rest = states
    total = State(first.fingerprint, first.model, list(first.shards), copy.deepcopy(first.seen), first.label)
    for other in rest:
        if other.fingerprint != total.fingerprint:
            raise UsageError("was made for another graph", where=other.label, why=f"{first.label} is of {first.model}")
        for shard in other.shards:
            twice = [each for each in total.shards if each.overlaps(shard)]
            if twice:
                raise UsageError(f"{shard} would be counted twice", where=other.label, why=f"there is {twice[0]}")
        if set(other.seen) != set(total.seen):
            raise UsageError("is of other tensors", where=other.label, hint=f"use the same --tensors as {first.label}")
        try:
            total.add(copy.deepcopy(other.seen))
        except ValueError as error:
            raise UsageError("does not fit", where=other.label, why=str(error)) from error
        total.shards += other.shards
    total.shards.sort()
    return total
