"""The model that was handed in and what it computes: read once and run once, for however many targets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from accelc.budget import Budget
from accelc.data import Preprocessing
from accelc.runner import Runner
from accelc.source import ModelLike, Source
from accelc.verdict import Reference
from accelc.verify import Verifier


class Original:
    """A context manager: it owns the child process that judges, and the thread that waits for the original's outputs.

    data, most, preprocessing, budget, seed, shapes: see Verifier. runs: whether the original is to be run at all.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        data: Path | None = None,
        most: int | None = None,
        preprocessing: Preprocessing | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        shapes: Mapping[str, Sequence[int | str]] | None = None,
        runs: bool = True,
    ) -> None:
        self.judging = Runner()
        self._model, self._data, self._seed, self._shapes, self._runs = model, data, seed, dict(shapes or {}), runs
        self._most, self._preprocessing, self._budget = most, preprocessing, budget or Budget()
        self._stack = ExitStack()
        self._pending: Future[Reference] | None = None

    def __enter__(self) -> Original:
        self._stack.callback(self.judging.stop)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is not None:
            self._give_up()
        self._stack.close()

    def _give_up(self) -> None:
        """End the thread that runs the original, so that an error or Ctrl-C does not wait for it."""
        while self._pending is not None and not self._pending.done():
            self.judging.abandon()
            time.sleep(0.01)
        self.judging.resume()

    @cached_property
    def source(self) -> Source:
        """Raises ModelError or UsageError when the model cannot be read."""
        self.judging.start()
        return Source.of(self._model)

    @cached_property
    def verifier(self) -> Verifier:
        return Verifier(
            self.source,
            self.judging,
            self._data,
            self._seed,
            self._shapes,
            most=self._most,
            preprocessing=self._preprocessing,
            budget=self._budget,
        )

    def start(self) -> None:
        """Begin to find out what the original computes, on a thread; nothing happens the second time."""
        verifier = self.verifier
        if self._pending is None and self._runs:
            pool = ThreadPoolExecutor(1)
            self._stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            self._pending = pool.submit(lambda: verifier.reference)

    def wait(self) -> None:
        """Return once the thread is done, whatever it found: nothing may run beside a measurement."""
        if self._pending is not None:
            wait([self._pending])

    def reference(self) -> Reference:
        """What the original computes. Raises ModelError when the runtime refuses it, UsageError for unfit data."""
        return self.verifier.reference if self._pending is None else self._pending.result()
