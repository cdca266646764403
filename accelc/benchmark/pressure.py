"""Queries from several threads at once, on one session; `press` runs in the child process.

The threads call the runtime, which gives up the interpreter's lock while it computes. What the harness adds to a query
is a few microseconds between two of them, or, where a worker sleeps until an arrival, how late the system wakes it.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """What to ask for. workers: threads. warm: uncounted queries of each worker before the window begins.

    arrivals: when each query comes, in seconds after the window began [queries], ascending; None: every worker starts a
    query as soon as its last one ended, for `seconds`. patience: seconds; when a query waited longer, the window ends.
    """

    workers: int
    seconds: float = 0.0
    arrivals: NDArray[np.float64] | None = None
    patience: float | None = None
    warm: int = 1


@dataclass(frozen=True)
class Served:
    """The queries that were run, by start; times in seconds after the window began [queries].

    query: its number, in the order of arrival. worker: who ran it. idle: its worker was waiting for it. overloaded: a
    query waited longer than the patience, and the window ended without it.
    """

    query: NDArray[np.int64]
    started: NDArray[np.float64]
    ended: NDArray[np.float64]
    worker: NDArray[np.int64]
    idle: NDArray[np.bool_]
    overloaded: bool


def press(
    call: Callable[[int], object],
    window: Window,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Served:
    """Run one window. call: runs the query of a number, from any thread. Raises what `call` raises."""
    crew = _Crew(call, window, clock, sleep)
    threads = [threading.Thread(target=crew.work, args=(number,), daemon=True) for number in range(window.workers)]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        if collecting:
            gc.enable()
    if crew.failures:
        raise crew.failures[0]
    return crew.served()


_Run = tuple[float, float, int, bool]
"""Start, end, number of the query, whether its worker waited for it."""


class _Crew:
    """Workers that take queries in the order of arrival from one queue."""

    def __init__(
        self,
        call: Callable[[int], object],
        window: Window,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.call, self.window, self.clock, self.sleep = call, window, clock, sleep
        self.failures: list[BaseException] = []
        self.begin = 0.0
        self._ready = threading.Barrier(window.workers, action=self._set_off)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._over = self._overloaded = False
        self._log: list[list[_Run]] = [[] for _ in range(window.workers)]

    def work(self, worker: int) -> None:
        """One thread: warm up, wait for the others, serve."""
        try:
            for _ in range(self.window.warm):
                self.call(worker)
            self._ready.wait()
            if self.window.arrivals is None:
                self._follow(self._log[worker])
            else:
                self._await(self._log[worker], self.window.arrivals.tolist())
        except threading.BrokenBarrierError:
            return
        except Exception as error:
            self.failures.append(error)
            self._over = True
            self._ready.abort()

    def _set_off(self) -> None:
        self.begin = self.clock()

    def _next(self) -> int:
        with self._lock:
            return next(self._numbers)

    def _follow(self, log: list[_Run]) -> None:
        """One query after the other."""
        clock, end = self.clock, self.begin + self.window.seconds
        while not self._over and ((started := clock()) < end or not log):
            number = self._next()
            self.call(number)
            log.append((started, clock(), number, False))

    def _await(self, log: list[_Run], arrivals: list[float]) -> None:
        """Each query at its time, or as soon after as a worker is free."""
        clock = self.clock
        patience = float("inf") if self.window.patience is None else self.window.patience
        while (number := self._next()) < len(arrivals):
            due = self.begin + arrivals[number]
            early = due - clock()
            if early > 0:
                self.sleep(early)
            started = clock()
            if started - due > patience and log:
                self._over = self._overloaded = True
            if self._over:
                return
            self.call(number)
            log.append((started, clock(), number, early > 0))

    def served(self) -> Served:
        """What the workers wrote down, together."""
        rows = sorted((run, worker) for worker, log in enumerate(self._log) for run in log)
        started, ended, query, idle = zip(*(run for run, _ in rows), strict=True) if rows else ((),) * 4
        return Served(
            query=np.array(query, np.int64),
            started=np.array(started, np.float64) - self.begin,
            ended=np.array(ended, np.float64) - self.begin,
            worker=np.array([worker for _, worker in rows], np.int64),
            idle=np.array(idle, np.bool_),
            overloaded=self._overloaded,
        )
