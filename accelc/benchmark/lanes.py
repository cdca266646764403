"""Cases as what can be timed: sessions that are loaded again and again in a process that one provider's cases share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from accelc.benchmark.plan import Case
from accelc.benchmark.pressure import Served, Window
from accelc.benchmark.results import Memory
from accelc.benchmark.rounds import Block
from accelc.data import Feed
from accelc.runner import Runner, RuntimeFailure, Session

PRESS_LIMIT_S = 3600.0


class Process:
    """The child in which the sessions of one provider run. Once none is open any more, the next starts a fresh one,
    unless it is kept.

    memory: bytes that it may hold resident.
    """

    def __init__(self, memory: int | None = None) -> None:
        self.runner = Runner(memory=memory)
        self.deaths = 0
        """How often the child died; whatever it held before the last time is gone."""
        self.open: set[CaseLane] = set()
        self.kept = False
        self._held: dict[tuple[int, Memory], list[int]] = {}
        self._holding = ExitStack()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def enter(self, lane: CaseLane) -> None:
        """A lane is open."""
        self.open.add(lane)

    def leave(self, lane: CaseLane) -> None:
        """A lane is closed."""
        self.open.discard(lane)
        if not self.open and not self.kept:
            self._stop()

    def hold(self, case: Case, feeds: tuple[Feed, ...]) -> list[int]:
        """The numbers of feeds in the child, which holds them once for all cases that share them."""
        key = (id(feeds), case.setting.memory)
        if key not in self._held:
            values = [feed.values for feed in feeds]
            holding = case.backend.hold(self.runner, values, case.setting.memory)
            self._held[key] = self._holding.enter_context(holding)
        return self._held[key]

    def failed(self) -> None:
        """Something went wrong in the child: learn whether it died of that."""
        if not self.runner.started:
            self.deaths += 1
            self._held.clear()

    def _stop(self) -> None:
        self.runner.stop()
        self._holding.close()
        self._held.clear()


class CaseLane:
    """A case to be timed, see rounds.Lane and scenarios.Pressed. inputs: kept alive while it is measured."""

    def __init__(self, case: Case, inputs: tuple[Feed, ...], items: int, process: Process) -> None:
        self.case, self.inputs, self.items, self.process = case, inputs, items, process
        self.feeds, self.group = len(inputs), case.group
        self._session: Session | None = None
        self._held: Sequence[int] = ()
        self._deaths = 0

    def open(self, generation: int) -> Block:
        """Load anew, and return what times a block. Raises RuntimeFailure."""
        self._load()
        return self._block

    @property
    def again_s(self) -> float:
        """Seconds that the runtime took to load the session."""
        return 0.0 if self._session is None else self._session.load_s

    def keep_process(self) -> None:
        """Load in the same process from now on."""
        self.process.kept = True

    def open_press(self, generation: int) -> Callable[[Window], Served]:
        """Load anew, and return what runs a window. Raises RuntimeFailure."""
        self._load()
        return self._press

    def close(self) -> None:
        """Free the session; the last to be closed ends the process, unless that is kept."""
        session, self._session = self._session, None
        self.process.leave(self)
        if session is not None and (self.process.open or self.process.kept):
            try:
                self.process.runner.close(session)
            except RuntimeFailure:
                self.process.failed()

    def _load(self) -> None:
        case, runner = self.case, self.process.runner
        self.process.enter(self)
        try:
            self._session = case.backend.load(runner, case.path, threads=case.setting.threads)
            self._held = self.process.hold(case, self.inputs)
            self._deaths = self.process.deaths
        except RuntimeFailure:
            self.process.failed()
            raise

    def _ready(self) -> Session:
        """The session, loaded again where a neighbour brought the process down."""
        if self._session is None or self._deaths != self.process.deaths:
            self._load()
        assert self._session is not None
        return self._session

    def _block(self, feed: int, runs: int, warm: int) -> NDArray[np.float64]:
        session = self._ready()
        try:
            return self.case.backend.measure(self.process.runner, session, self._held[feed], runs, warm)
        except RuntimeFailure:
            self.process.failed()
            raise

    def _press(self, window: Window) -> Served:
        session = self._ready()
        try:
            return self.process.runner.press(session, self._held, window, timeout=PRESS_LIMIT_S)
        except RuntimeFailure:
            self.process.failed()
            raise
