"""Every execution of a model by ONNX Runtime, in one child process.

A crash, a hang or an exhausted memory inside the runtime is a RuntimeFailure here, and this process never imports
the runtime.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from accelc import worker
from accelc.child import Child, resident_bytes
from accelc.errors import AccelcError, UsageError
from accelc.measure import schedule
from accelc.runtime_text import clean, is_memory, is_unsupported, missing_library

Value: TypeAlias = Any
"""A numpy array (ml_dtypes types included), a list of values, a dict (a map), or None (an absent optional)."""
Kind = Literal["load", "run", "crash", "timeout", "memory"]
Provider: TypeAlias = tuple[str, Mapping[str, Any]]

CPU: tuple[Provider, ...] = (("CPUExecutionProvider", {}),)
_START_LIMIT_S = 120.0


class RuntimeFailure(AccelcError):
    """The runtime could not load or run a model.

    kind: load, run (it said so), crash (the process died), timeout, memory. unsupported: the runtime has no kernel,
    operator, domain, type or opset that the model needs, and nothing else is known to be wrong.
    """

    def __init__(self, kind: Kind, what: str, *, why: str = "", hint: str = "", unsupported: bool = False) -> None:
        super().__init__(what, why=why, hint=hint)
        self.kind, self.unsupported = kind, unsupported


@dataclass(frozen=True)
class ValueInfo:
    """Name, the runtime's type string such as tensor(float), and shape; a dimension is a size, a name or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, eq=False)
class Session:
    """A model that the child has loaded. It keeps what it was loaded from: after a crash it is loaded again."""

    key: int
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    overridable: tuple[ValueInfo, ...]
    providers: tuple[str, ...]
    request: tuple[Any, Mapping[str, Any]]
    load_timeout: float


class Runner:
    """One child process with the runtime in it; started when first needed, and again after it died.

    Use it as a context manager. It belongs to one thread. memory: bytes that the child may hold resident.
    load_timeout: seconds for a load that names no limit of its own.
    """

    def __init__(self, *, memory: int | None = None, load_timeout: float = 600.0) -> None:
        if memory is not None and resident_bytes(os.getpid()) is None:
            raise UsageError("a memory limit cannot be watched on this system", hint="leave the limit out")
        self._memory, self._load_timeout = memory, load_timeout
        self._child: Child | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._keys = itertools.count(1)
        self._live: set[int] = set()
        self._abandoned = False
        self._printed = ""
        self.version = ""
        self.available: tuple[str, ...] = ()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin starting the child and return at once. Raises RuntimeFailure after `abandon`."""
        if self._abandoned:
            raise RuntimeFailure("crash", "the work was given up")
        if self._child is None:
            child = Child(self._memory)
            self._child, self._finalizer = child, weakref.finalize(self, child.stop)
            self._live.clear()
            # The answer to this first message is read when the first request is made.
            worker.send(child.requests, [os.path.abspath(entry) for entry in sys.path])

    def abandon(self) -> None:
        """End the child, from any thread: requests, also waiting ones, fail until `resume`."""
        self._abandoned = True
        child = self._child
        if child is not None:
            child.process.kill()

    def resume(self) -> None:
        """Take requests again after `abandon`."""
        self._abandoned = False

    def stop(self) -> None:
        """End the child. Sessions are loaded again when they are used next."""
        self._discard()

    def printed(self) -> str:
        """The end of what the runtime wrote to its output and error streams during the last request."""
        return self._printed

    def load(
        self,
        model: bytes | Path,
        *,
        providers: Sequence[Provider] = CPU,
        optimize: bool = True,
        threads: int | None = None,
        config: Mapping[str, str] | None = None,
        external: Mapping[str, Value] | None = None,
        folder: Path | None = None,
        optimized: Path | None = None,
        timeout: float | None = None,
    ) -> Session:
        """Load a model from a file, or from bytes.

        optimize: the runtime's own graph optimizations, all or none. threads: None leaves the runtime's default.
        config: session configuration entries. external: initializers by name, given as arrays instead of files.
        folder: where the external data of a model given as bytes lies. optimized: where the runtime is to write the
        graph that it really runs; its large weights go beside it. timeout: seconds.
        A provider other than the CPU's that the runtime does not really use is a failure, never a silent fallback.
        Raises RuntimeFailure.
        """
        entries = {"session.force_spinning_stop": "1", **(config or {})}
        if folder is not None:
            entries["session.model_external_initializers_file_folder_path"] = str(folder.resolve())
        if optimized is not None:
            entries["session.optimized_model_external_initializers_file_name"] = f"{optimized.name}.data"
        source = str(model.resolve()) if isinstance(model, Path) else np.frombuffer(model, np.uint8)
        options = {
            "providers": [(name, dict(values)) for name, values in providers],
            "optimize": optimize,
            "threads": threads,
            "config": entries,
            "external": _encode(external or {}),
            "optimized": None if optimized is None else str(optimized.resolve()),
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
        return {name: worker.decode(value) for name, value in reply.items()}

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

        held: the number that `hold` gave the feeds. Raises RuntimeFailure.
        """
        self._revive(session)
        times: NDArray[np.float64] = self._ask("block", timeout, session.key, held, runs, warm)
        return times

    @contextlib.contextmanager
    def hold(self, feeds: Sequence[Mapping[str, Value]], *, timeout: float = 600.0) -> Iterator[list[int]]:
        """Keep feed sets in the child for `block`, each under a number. Raises RuntimeFailure."""
        keys: list[int] = []
        try:
            for feed in feeds:
                keys.append(next(self._keys))
                self._ask("hold", timeout, keys[-1], _encode(feed))
            yield keys
        finally:
            for key in keys if self._child is not None else ():
                self._ask("drop", timeout, key)

    def _why_missing(self, provider: str) -> str:
        if provider not in self.available:
            return f"onnxruntime {self.version} as installed has only {', '.join(self.available)}"
        library = missing_library(self._printed)
        return f"{library} cannot be loaded" if library else clean(self._printed)

    def _revive(self, session: Session) -> None:
        if session.key not in self._live:
            self._ask("load", session.load_timeout, session.key, *session.request)
            self._live.add(session.key)

    def _ask(self, command: str, timeout: float, *arguments: object) -> Any:
        self.start()
        child = self._child
        assert child is not None
        try:
            if not child.ready:
                self._greet(child)
            child.printed.truncate(0)
            child.arm(timeout)
            worker.send(child.requests, (command, arguments))
            reply = worker.receive(child.replies)
            child.disarm()
            self._printed = child.tail()
        except worker.Closed:
            raise self._death(child, command, timeout) from None
        except BaseException:
            self._discard()  # a half-read reply would answer the next request
            raise
        if reply[0] == "ok":
            return reply[1]
        raise _failure(command, reply[1], reply[2])

    def _greet(self, child: Child) -> None:
        child.arm(_START_LIMIT_S)
        reply = worker.receive(child.replies)
        child.disarm()
        if reply[0] != "ok":
            self._discard()
            raise RuntimeFailure(
                "load", "onnxruntime cannot be imported", why=clean(reply[2]), hint="pip install onnxruntime"
            )
        self.version, self.available = reply[1]["version"], tuple(reply[1]["available"])
        child.ready = True

    def _death(self, child: Child, command: str, timeout: float) -> RuntimeFailure:
        printed, ended_for = child.tail(), child.ended_for
        status = child.process.wait(timeout=_START_LIMIT_S)
        self._discard()
        self._printed = printed
        doing = "loading" if command == "load" else "running" if command in ("run", "observe", "block") else "preparing"
        if ended_for == "timeout":
            return RuntimeFailure("timeout", f"no answer within {timeout:g} s while {doing} the model")
        if ended_for == "memory":
            limit = (self._memory or 0) / 2**30
            return RuntimeFailure("memory", f"more than {limit:.3g} GiB needed while {doing} the model")
        last_words = clean(" ".join(printed.splitlines()[-3:]))
        if is_memory(printed):
            return RuntimeFailure("memory", f"the memory of this machine ran out while {doing} the model")
        if sys.platform != "win32" and status == -signal.SIGKILL:
            what = f"the runtime was killed while {doing} the model"
            return RuntimeFailure("memory", what, why="most likely the memory of this machine ran out")
        what = f"the runtime crashed ({_signal_name(status)}) while {doing} the model"
        return RuntimeFailure("crash", what, why=last_words)

    def _discard(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._child, self._finalizer = None, None
        self._live.clear()


def _encode(values: Mapping[str, Value]) -> dict[str, Any]:
    result = {}
    for name, value in values.items():
        try:
            result[name] = worker.encode(value)
        except TypeError as error:
            raise UsageError(f"the value of {name!r} cannot be given to a model", why=str(error)) from error
    return result


def _signal_name(status: int) -> str:
    if status >= 0:
        return f"exit status {status:#x}" if status > 255 else f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _failure(command: str, error: str, message: str) -> RuntimeFailure:
    kind: Kind = "load" if command == "load" else "run"
    unsupported = error == "NotImplemented" or (kind == "load" and is_unsupported(message))
    if error == "MemoryError" or is_memory(message):
        return RuntimeFailure("memory", f"the runtime ran out of memory in {command}", why=clean(message))
    why = "a name or text in it is not UTF-8" if error == "UnicodeDecodeError" else clean(message)
    return RuntimeFailure(kind, f"the runtime cannot {kind} the model", why=why, unsupported=unsupported)
