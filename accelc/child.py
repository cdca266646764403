"""The life of the child process: start, limits on time and memory, end without a trace."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Literal, cast

from accelc import worker
from accelc.errors import AccelcError

_TICK_S = 0.05
_TAIL_BYTES = 4000


class Child:
    """The process, its pipes, its empty folder, and the thread that ends it when a limit is passed."""

    def __init__(self, memory: int | None) -> None:
        self.folder = tempfile.mkdtemp(prefix="accelc-")
        self.printed = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115 - closed in stop()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", worker.__file__, self.folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.printed,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            self.printed.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise AccelcError("no process can be started for the runtime", why=str(error)) from error
        self.requests = _raw(self.process.stdin)
        self.replies = _raw(self.process.stdout)
        self.memory = memory
        self._deadline: float | None = None
        self._lock = threading.Lock()
        self.ended_for: Literal["timeout", "memory"] | None = None
        self.ready = False
        self._stopped = threading.Event()
        self._watch = threading.Thread(target=self._guard, daemon=True)
        self._watch.start()
        for pipe in (self.requests, self.replies):
            worker.widen_pipe(pipe)

    def arm(self, seconds: float) -> None:
        """Start the clock for one request."""
        self._deadline = time.monotonic() + seconds

    def disarm(self) -> None:
        """Stop the clock. Raises worker.Closed when the process was ended in the meantime."""
        with self._lock:
            self._deadline = None
            if self.ended_for is not None:
                raise worker.Closed

    def _guard(self) -> None:
        while not self._stopped.wait(_TICK_S):
            with self._lock:
                if self._deadline is None:
                    continue
                if time.monotonic() > self._deadline:
                    self.ended_for = "timeout"
                elif self.memory is not None and (resident_bytes(self.process.pid) or 0) > self.memory:
                    self.ended_for = "memory"
                else:
                    continue
                self.process.kill()
                return

    def tail(self) -> str:
        """The end of what the runtime printed since the last request."""
        size = os.fstat(self.printed.fileno()).st_size
        if size == 0:
            return ""
        self.printed.seek(max(0, size - _TAIL_BYTES))
        return self.printed.read().decode("utf-8", "replace")

    def stop(self) -> int:
        """End the process, wait for it, remove its folder; its exit status."""
        self._stopped.set()
        self.process.kill()
        status = self.process.wait()
        self._watch.join()
        for stream in (self.process.stdin, self.process.stdout, self.printed):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return status


def resident_bytes(pid: int) -> int | None:
    """Memory that a process holds resident, or None when this system does not tell."""
    if sys.platform == "linux":
        try:
            with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return None
    if sys.platform == "win32":
        return None
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return int(found.stdout) * 1024 if found.stdout.strip() else None


def _raw(stream: IO[bytes] | None) -> io.RawIOBase:
    return cast(io.RawIOBase, stream)
