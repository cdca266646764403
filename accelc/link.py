"""Requests to the child process that runs ONNX Runtime: starting it, asking it, and saying what became of it."""

from __future__ import annotations

import os
import signal
import sys
import weakref
from types import TracebackType
from typing import Any, Literal, Self

from accelc import worker
from accelc.child import Child, resident_bytes
from accelc.errors import AccelcError, UsageError
from accelc.runtime_text import clean, is_memory, is_unsupported

Kind = Literal["load", "run", "crash", "timeout", "memory"]

_START_LIMIT_S = 120.0
_RUNNING = frozenset({"run", "observe", "block", "fetch", "press"})


class RuntimeFailure(AccelcError):
    """The runtime could not load or run a model.

    kind: load, run (it said so), crash (the process died), timeout, memory. unsupported: the runtime has no kernel,
    operator, domain, type or opset that the model needs, and nothing else is known to be wrong.
    """

    def __init__(self, kind: Kind, what: str, *, why: str = "", hint: str = "", unsupported: bool = False) -> None:
        super().__init__(what, why=why, hint=hint)
        self.kind, self.unsupported = kind, unsupported


class Link:
    """One child process with the runtime in it; started when first needed, and again after it died.

    Use it as a context manager. It belongs to one thread. memory: bytes that the child may hold resident.
    """

    def __init__(self, memory: int | None = None) -> None:
        if memory is not None and resident_bytes(os.getpid()) is None:
            raise UsageError("a memory limit cannot be watched on this system", hint="leave the limit out")
        self._limit = memory
        self._child: Child | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._live: set[int] = set()  # the sessions that this child holds
        self._abandoned = False
        self._printed = ""
        self.version = self.build = ""
        self.available: tuple[str, ...] = ()

    def __enter__(self) -> Self:
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
            child = Child(self._limit)
            self._child, self._finalizer = child, weakref.finalize(self, child.stop)
            self._live.clear()
            # The answer to this first message is read when the first request is made.
            worker.send(child.requests, [os.path.abspath(entry) for entry in sys.path])

    @property
    def started(self) -> bool:
        """Whether there is a child now."""
        return self._child is not None

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
        self.build = reply[1]["build"]
        child.ready = True

    def _death(self, child: Child, command: str, timeout: float) -> RuntimeFailure:
        printed, ended_for = child.tail(), child.ended_for
        status = child.process.wait(timeout=_START_LIMIT_S)
        self._discard()
        self._printed = printed
        doing = "loading" if command == "load" else "running" if command in _RUNNING else "preparing"
        if ended_for == "timeout":
            return RuntimeFailure("timeout", f"no answer within {timeout:g} s while {doing} the model")
        if ended_for == "memory":
            limit = (self._limit or 0) / 2**30
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
