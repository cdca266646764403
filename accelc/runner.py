"""Every execution of a model by ONNX Runtime, in one child process.

A crash, a hang or an exhausted memory inside the runtime is a RuntimeFailure here, and this process never imports
the runtime.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from accelc import wire
from accelc.errors import UsageError
from accelc.link import Kind, Link, RuntimeFailure
from accelc.measure import schedule
from accelc.runtime_text import clean, missing_library

if TYPE_CHECKING:
    from accelc.benchmark.pressure import Served, Window

__all__ = ["CPU", "Assigned", "Kind", "Provider", "Runner", "RuntimeFailure", "Session", "Value", "ValueInfo"]

Value: TypeAlias = Any
"""A numpy array (ml_dtypes types included), a list of values, a dict (a map), or None (an absent optional)."""
Provider: TypeAlias = tuple[str, Mapping[str, Any]]
Assigned: TypeAlias = tuple[str, str, str, str]
"""(provider, domain, operator, name) of a node"""

CPU: tuple[Provider, ...] = (("CPUExecutionProvider", {}),)


@dataclass(frozen=True)
class ValueInfo:
    """Name, the runtime's type string such as tensor(float), and shape; a dimension is a size, a name or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, eq=False)
class Session:
    """A model that the child has loaded. It keeps what it was loaded from: after a crash it is loaded again.

    load_s: seconds that the runtime took.
    """

    key: int
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    overridable: tuple[ValueInfo, ...]
    providers: tuple[str, ...]
    request: tuple[Any, Mapping[str, Any]]
    load_timeout: float
    load_s: float


class Runner(Link):
    """One child process with the runtime in it; started when first needed, and again after it died.

    Use it as a context manager. It belongs to one thread. memory: bytes that the child may hold resident.
    load_timeout: seconds for a load that names no limit of its own.
    """

    def __init__(self, *, memory: int | None = None, load_timeout: float = 600.0) -> None:
        super().__init__(memory)
        self._load_timeout = load_timeout
        self._keys = itertools.count(1)

    def load(
        self,
        model: bytes | Path,
        *,
        providers: Sequence[Provider] = CPU,
        optimize: bool = True,
        threads: int | None = None,
        config: Mapping[str, str] | None = None,
        memory_pattern: bool = True,
        external: Mapping[str, Value] | None = None,
        folder: Path | None = None,
        optimized: Path | None = None,
        profile: Path | None = None,
        record: bool = False,
        timeout: float | None = None,
    ) -> Session:
        """Load a model from a file, or from bytes.

        optimize: the runtime's own graph optimizations, all or none. threads: None leaves the runtime's default.
        config: session configuration entries. memory_pattern: whether the runtime plans memory ahead.
        external: initializers by name, given as arrays instead of files. folder: where the external data of a model
        given as bytes lies. optimized: where the runtime is to write the graph that it really runs; its large weights
        go beside it. timeout: seconds.
        A provider other than the CPU's that the runtime does not really use is a failure, never a silent fallback.
        Raises RuntimeFailure.
        """
        entries = {"session.force_spinning_stop": "1", **(config or {})}
        if folder is not None:
            entries["session.model_external_initializers_file_folder_path"] = str(folder.resolve())
        if optimized is not None:
            entries["session.optimized_model_external_initializers_file_name"] = f"{optimized.name}.data"
        if record:
            entries["session.record_ep_graph_assignment_info"] = "1"
        source = str(model.resolve()) if isinstance(model, Path) else np.frombuffer(model, np.uint8)
        options = {
            "providers": [(name, dict(values)) for name, values in providers],
            "optimize": optimize,
            "threads": threads,
            "config": entries,
            "memory_pattern": memory_pattern,
            "external": _encode(external or {}),
            "optimized": None if optimized is None else str(optimized.resolve()),
            "profile": None if profile is None else str(profile.resolve()),
        }
        limit = self._load_timeout if timeout is None else timeout
        key = next(self._keys)
        try:
            reply = self._ask("load", limit, key, source, options)
        except RuntimeFailure as failure:
            # The real reason of a refused fallback to the CPU is the library that the provider lacks.
            library = missing_library(self._printed) if failure.kind == "load" else ""
            if not library:
                raise
            raise RuntimeFailure("load", failure.what, why=f"{library} cannot be loaded") from failure
        for name, _ in providers:
            if name != "CPUExecutionProvider" and name not in reply["providers"]:
                why = self._why_missing(name)
                self._ask("close", limit, key)
                raise RuntimeFailure("load", f"{name} is not usable here", why=why)
        self._live.add(key)

        def values(name: str) -> tuple[ValueInfo, ...]:
            return tuple(ValueInfo(value, kind, tuple(shape)) for value, kind, shape in reply[name])

        return Session(
            key,
            values("inputs"),
            values("outputs"),
            values("overridable"),
            tuple(reply["providers"]),
            (source, options),
            limit,
            reply["seconds"],
        )

    def run(
        self,
        session: Session,
        feeds: Mapping[str, Value],
        outputs: Sequence[str] | None = None,
        timeout: float = 60.0,
    ) -> dict[str, Value]:
        """Run once and return the outputs (all, or those named) by name. Raises RuntimeFailure."""
        self._revive(session)
        reply = self._ask("run", timeout, session.key, _encode(feeds), None if outputs is None else list(outputs))
        return {name: wire.decode(value) for name, value in reply.items()}

    def observe(
        self,
        session: Session,
        feeds: Mapping[str, Value],
        wanted: Mapping[str, Mapping[str, Any]],
        sample: int,
        timeout: float = 600.0,
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        """Run once; what each wanted float input or output holds is added to its observer in the child.

        wanted: the options of accelc.calibration.observers.Seen by name of the value; the first call makes the
        observers. sample: the number of this feed set. Returns by name the shape, and NaN or Inf where an element of
        this sample is not finite. After a crash the observers are gone. Raises RuntimeFailure.
        """
        self._revive(session)
        found: dict[str, tuple[tuple[int, ...], str]] = self._ask(
            "observe", timeout, session.key, _encode(feeds), dict(wanted), sample
        )
        return found

    def observed(self, session: Session, timeout: float = 600.0) -> dict[str, dict[str, Any]]:
        """What the observers of a session hold now, see Seen.of; {} before `observe`. Raises RuntimeFailure."""
        self._revive(session)
        found: dict[str, dict[str, Any]] = self._ask("observed", timeout, session.key)
        return found

    def forget(self, session: Session) -> None:
        """Drop the observers of a session."""
        if session.key in self._live:
            self._ask("forget", 60.0, session.key)

    def evaluate(
        self,
        model: bytes | Path,
        feeds: Mapping[str, Value],
        outputs: Sequence[str] | None = None,
        *,
        optimize: bool = False,
        threads: int | None = 1,
        folder: Path | None = None,
        timeout: float = 60.0,
    ) -> dict[str, Value]:
        """Load, run once and close; for a model that is used once. Raises RuntimeFailure."""
        session = self.load(model, optimize=optimize, threads=threads, folder=folder, timeout=timeout)
        try:
            return self.run(session, feeds, outputs, timeout)
        finally:
            self.close(session)

    def close(self, session: Session) -> None:
        """Free the model in the child."""
        if session.key in self._live:
            self._live.discard(session.key)
            self._ask("close", 60.0, session.key)

    def time(
        self,
        sessions: Sequence[Session],
        feeds: Sequence[Mapping[str, Value]],
        *,
        budget_s: float,
        min_rounds: int,
        block_ms: float = 20.0,
        seed: int = 0,
        progress: Callable[[list[list[float]]], bool] | None = None,
        timeout: float = 600.0,
    ) -> list[list[float]]:
        """Seconds per run, for each session one figure per round.

        A round runs one block of about block_ms of every session, in random order, all with the same feeds (round r
        takes feeds[r modulo their number]). Rounds go on until the budget is spent; up to twice the budget may go
        into reaching min_rounds, and one round is always made. progress sees the figures after every round and ends
        the measurement by returning True. Raises RuntimeFailure.
        """
        for session in sessions:
            self._revive(session)
        with self.hold(feeds, timeout=timeout) as held:

            def block(index: int, feed: int, runs: int, warm: int) -> float:
                return float(np.mean(self.block(sessions[index], held[feed], runs, warm, timeout=timeout)))

            return schedule(
                block,
                len(sessions),
                len(held),
                budget_s=budget_s,
                min_rounds=min_rounds,
                block_s=block_ms / 1000,
                seed=seed,
                progress=progress,
            )

    def block(
        self, session: Session, held: int, runs: int, warm: int = 0, *, timeout: float = 600.0
    ) -> NDArray[np.float64]:
        """Seconds of each of `runs` runs in a row [runs], after `warm` runs that do not count.

        held: the number that `hold` gave the feeds. On a device, a run ends when the device has finished. Raises
        RuntimeFailure.
        """
        self._revive(session)
        times: NDArray[np.float64] = self._ask("block", timeout, session.key, held, runs, warm)
        return times

    def fetch(self, session: Session, held: int, timeout: float = 600.0) -> dict[str, Value]:
        """Run once on feeds that `hold` keeps, as `block` does; the outputs by name. Raises RuntimeFailure."""
        self._revive(session)
        reply = self._ask("fetch", timeout, session.key, held)
        return {name: wire.decode(value) for name, value in reply.items()}

    def press(self, session: Session, held: Sequence[int], window: Window, timeout: float = 600.0) -> Served:
        """Queries at the same time, the feeds in turn; see accelc.benchmark.pressure. Raises RuntimeFailure."""
        self._revive(session)
        served: Served = self._ask("press", timeout, session.key, list(held), window)
        return served

    @contextlib.contextmanager
    def hold(
        self, feeds: Sequence[Mapping[str, Value]], *, device: str | None = None, timeout: float = 600.0
    ) -> Iterator[list[int]]:
        """Keep feed sets in the child for `block`, each under a number. Raises RuntimeFailure.

        device: "cpu", "cuda:0" and the like: inputs lie there before a run begins, outputs stay there, both at fixed
        places (I/O binding). None: in the processor's memory, from where each run copies them.
        """
        keys: list[int] = []
        try:
            for feed in feeds:
                keys.append(next(self._keys))
                self._ask("hold", timeout, keys[-1], _encode(feed), device)
            yield keys
        finally:
            for key in keys if self._child is not None else ():
                self._ask("drop", timeout, key)

    def end_profile(self, session: Session, timeout: float = 600.0) -> Path:
        """End the profile of a session that was loaded with one, and return its file. Raises RuntimeFailure."""
        return Path(self._ask("end_profile", timeout, session.key))

    def assignment(self, session: Session, timeout: float = 60.0) -> list[Assigned] | None:
        """Where the runtime put the nodes of a session loaded with `record`, before it fused them.

        None where this release of the runtime cannot tell. Raises RuntimeFailure.
        """
        self._revive(session)
        found: list[Assigned] | None = self._ask("assignment", timeout, session.key)
        return found

    def memory(self, *, reset: bool = False) -> tuple[int | None, int | None]:
        """Bytes that the child holds resident now, and the most it ever did; None where the system does not tell.

        reset: count the most from now on, where the system allows it. Raises RuntimeFailure.
        """
        now, most = self._ask("memory", 60.0, reset)
        return now, most

    def _why_missing(self, provider: str) -> str:
        if provider not in self.available:
            return f"onnxruntime {self.version} as installed has only {', '.join(self.available)}"
        library = missing_library(self._printed)
        return f"{library} cannot be loaded" if library else clean(self._printed)

    def _revive(self, session: Session) -> None:
        if session.key not in self._live:
            self._ask("load", session.load_timeout, session.key, *session.request)
            self._live.add(session.key)


def _encode(values: Mapping[str, Value]) -> dict[str, Any]:
    result = {}
    for name, value in values.items():
        try:
            result[name] = wire.encode(value)
        except TypeError as error:
            raise UsageError(f"the value of {name!r} cannot be given to a model", why=str(error)) from error
    return result
