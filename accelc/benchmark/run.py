"""The whole benchmark: what is planned is probed, compared and timed, and what fails is told in its own row."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelc import units
from accelc.backend_base import Backend
from accelc.benchmark import baseline, rounds, scenarios, statistics
from accelc.benchmark.agreement import error_of
from accelc.benchmark.fingerprint import environment
from accelc.benchmark.inputs import Inputs, feeds_for, fitting, shapes_in_words, sizes_of
from accelc.benchmark.lanes import CaseLane, Process
from accelc.benchmark.noise import Watch, sentences
from accelc.benchmark.options import BenchOptions
from accelc.benchmark.plan import Case, Refused, cases
from accelc.benchmark.probe import NodesElsewhere, probe
from accelc.benchmark.results import BenchResult, Row, Versus
from accelc.benchmark.rounds import Times
from accelc.benchmark.scenarios import Loaded
from accelc.compare import random_outputs
from accelc.data import Feed, Values
from accelc.errors import AccelcError, BackendError, ModelError, UsageError
from accelc.plain import plain
from accelc.runner import Runner, RuntimeFailure

if TYPE_CHECKING:
    from accelc.benchmark.profile import Change

RUN_LIMIT_S, DATA_RUN_LIMIT_S = 120.0, 600.0
"""Seconds for one run while inputs are found, which are small where they are generated."""
_LARGE_ERROR = 0.01
_UNFIT = re.compile(r"[^\w.=]+")  # in names of files
Tell = Callable[[str], None]


def bench(options: BenchOptions, progress: Tell | None = None) -> BenchResult:
    """Measure every model with every setting. progress: called with a few words whenever something else is done.

    Whatever goes wrong with one of them is the failure of its row. Raises UsageError, PluginError and BackendError for
    what cannot start.
    """
    started = time.monotonic()
    known = baseline.prepare(options.fail_if, options.baseline, models=len(options.models))
    if options.trace is not None:
        _make_folder(options.trace)
    with Runner(memory=options.memory_limit) as scout:
        work = _Bench(options, scout, progress or (lambda text: None))
        work.run()
        facts = environment(work.backends, scout)
    result = BenchResult(
        rows=work.rows,
        environment=facts,
        options=_recorded(options),
        scenario=options.demand.scenario if options.demand is not None else options.scenario,
        noise=work.disturbances,
        changes=tuple(work.changes),
        notes=tuple(work.notes),
    )
    result.conditions = baseline.check(options.fail_if, result, known)
    result.seconds = time.monotonic() - started
    return result


class _Bench:
    """The rows while they come to be. scout: a child that tries things out; it has ended where something is timed.

    cases: those that were planned and not refused, by row.
    """

    def __init__(self, options: BenchOptions, scout: Runner, tell: Tell) -> None:
        self.options, self.scout, self.tell = options, scout, tell
        tell("reading the models")
        planned = cases(options, scout)
        sizes = {id(source): source.size() for each in planned if (source := each.source) is not None}
        self.rows = [_row(each, sizes) for each in planned]
        self.cases = {at: each for at, each in enumerate(planned) if isinstance(each, Case)}
        self.feeds: dict[int, tuple[Feed, ...]] = {}
        self.noise: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self.changes: list[Change] = []

    @property
    def backends(self) -> list[Backend]:
        return list(dict.fromkeys(case.backend for case in self.cases.values()))

    @property
    def swept(self) -> bool:
        """Whether there are several shapes."""
        return len({case.group for case in self.cases.values()}) > 1

    @property
    def disturbances(self) -> tuple[str, ...]:
        """A sentence for each, with the shapes that it concerns where those are not all."""
        count = len({case.group for case in self.cases.values()})
        return tuple(
            text if len(whose) == count else f"{', '.join(whose)}: {text}" for text, whose in self.noise.items()
        )

    def run(self) -> None:
        groups = list(dict.fromkeys(case.group for case in self.cases.values()))
        for group in groups:
            members = [at for at, case in self.cases.items() if case.group == group]
            inputs, random = (None, frozenset[str]()) if self.options.dry_run else self._inputs(members)
            self.scout.stop()
            self._fit(members, inputs)
            self._probe(self._alive(members), random)
            if inputs is not None:
                self._measure(self._alive(members), inputs)
            if self.options.profile:
                self._profile(self._alive(members))
            self.feeds.clear()
        largest = max((row.error.relative or 0.0 for row in self.rows if row.error is not None), default=0.0)
        if self.options.inputs is None and largest > _LARGE_ERROR:
            self.notes.append("generated inputs may be unlike any real ones; --inputs tells the error on yours")

    def _alive(self, members: Sequence[int]) -> list[int]:
        return [at for at in members if not self.rows[at].failure]

    @contextmanager
    def _told(self, at: int, doing: str) -> Iterator[None]:
        """What goes wrong inside is the failure of a row."""
        self.tell(f"{doing} {self.rows[at].label} on {self.rows[at].setting}")
        try:
            yield
        except AccelcError as error:
            self._fail(at, error)
        except MemoryError:
            self._fail(at, BackendError("the memory of this machine is not enough", hint="choose a smaller shape"))

    def _fail(self, at: int, error: AccelcError) -> None:
        row = self.rows[at]
        row.failure, row.exit_code = str(error), _exit_code(error)
        if isinstance(error, NodesElsewhere):
            row.placed = error.placed

    # --- inputs --------------------------------------------------------------------------------------------------

    def _inputs(self, members: Sequence[int]) -> tuple[Inputs | None, frozenset[str]]:
        """Feeds that the first case runs on that runs at all, and its outputs that are random."""
        for at in members:
            with self._told(at, "finding inputs for"):
                return self._inputs_of(self.cases[at], [self.cases[other] for other in members])
        return None, frozenset()

    def _inputs_of(self, case: Case, others: Sequence[Case]) -> tuple[Inputs, frozenset[str]]:
        limit = RUN_LIMIT_S if self.options.inputs is None else DATA_RUN_LIMIT_S
        session = case.backend.load(self.scout, case.path, threads=case.setting.threads)
        run: Callable[[Values], Values] = partial(self.scout.run, session, timeout=limit)
        inputs = feeds_for(case, self.options, run, others)
        random = random_outputs(run, inputs.feeds[0].values)
        whose = f" for {case.group}" if self.swept else ""
        made = "generated" if self.options.inputs is None else str(self.options.inputs)
        self.notes.append(f"inputs{whose}: {made}, {shapes_in_words(inputs.feeds[0])}")
        self.notes += inputs.notes
        if random:
            self.notes.append(f"random, so not compared: {', '.join(sorted(random))}")
        return inputs, random

    def _fit(self, members: Sequence[int], inputs: Inputs | None) -> None:
        """The feeds as each case takes them. Cases of one model share them, so that a process holds them once."""
        known: dict[int, tuple[Feed, ...]] = {}
        for at in self._alive(members):
            case = self.cases[at]
            with self._told(at, "preparing"):
                if inputs is None:
                    sizes_of(case)
                    self.feeds[at] = ()
                    continue
                if id(case.source) not in known:
                    feeds, notes = fitting(inputs, case)
                    known[id(case.source)] = feeds
                    self.notes += [f"{case.label}: {note}" for note in notes]
                self.feeds[at] = known[id(case.source)]

    # --- probes and figures --------------------------------------------------------------------------------------

    def _probe(self, members: Sequence[int], random: frozenset[str]) -> None:
        reference: tuple[int, Sequence[Mapping[str, Any]]] | None = None
        for at in members:
            row = self.rows[at]
            with self._told(at, "loading and running"):
                dry, fallback = self.options.dry_run, self.options.fallback
                limit = self.options.memory_limit
                found = probe(self.cases[at], self.feeds[at], dry_run=dry, fallback=fallback, memory_limit=limit)
                row.load_ms, row.first_run_ms = found.load_ms, found.first_run_ms
                row.peak_bytes, row.device_bytes, row.placed = found.peak_bytes, found.device_bytes, found.placed
                row.notes += found.notes
                if reference is not None:
                    row.error = error_of(reference[1], found.outputs, reference[0], random)
                elif not dry:
                    reference = (at, found.outputs)

    def _measure(self, members: Sequence[int], inputs: Inputs) -> None:
        if not members:
            return
        total = units.seconds(len(members) * self.options.seconds)
        doing = f"measuring {len(members)} case{'s' if len(members) > 1 else ''}, about {total}"
        self.tell(doing)
        with Watch() as watch, ExitStack() as stack:
            processes: dict[str, Process] = {}
            lanes = []
            for at in members:
                case = self.cases[at]
                if case.setting.provider not in processes:
                    process = Process(self.options.memory_limit)
                    processes[case.setting.provider] = stack.enter_context(process)
                lanes.append(CaseLane(case, self.feeds[at], inputs.items, processes[case.setting.provider]))
            known = self._timed(members, lanes, doing)
        for at in known:
            self.rows[at].versus = tuple(self._versus(at, known))
        latencies = [found for at in known if (found := self.rows[at].latency) is not None]
        said = sentences(watch, latencies, [self.rows[at].setting.threads for at in known])
        for each in said:
            self.noise.setdefault(each, []).append(self.cases[members[0]].group)

    def _timed(self, members: Sequence[int], lanes: Sequence[CaseLane], doing: str) -> dict[int, Times]:
        """Set the latency of each row; what those that ran are compared by. doing: in words."""
        options, known = self.options, dict[int, Times]()

        def tell(text: str) -> None:
            self.tell(f"{doing}: {text}")

        found: Sequence[Times | Loaded | RuntimeFailure]
        if options.demand is None:
            found = rounds.measure(lanes, options.seconds, seed=options.seed, progress=tell)
        else:
            found = scenarios.run(lanes, options.demand, seed=options.seed, progress=tell)
        for at, lane, each in zip(members, lanes, found, strict=True):
            row = self.rows[at]
            if isinstance(each, RuntimeFailure):
                self._fail(at, each)
            elif isinstance(each, Loaded):
                row.load, row.latency, known[at] = each.load, each.latency, each.times
            else:
                row.latency, known[at] = statistics.latency(each, lane.items), each
        return known

    def _versus(self, at: int, known: Mapping[int, Times]) -> Iterator[Versus]:
        """Against the first model with this setting, and the first setting of this model, among those that ran."""
        mine = self.rows[at]
        model = next(other for other in known if self.rows[other].setting == mine.setting)
        provider = next(other for other in known if self.rows[other].label == mine.label)
        if model != at:
            yield statistics.versus(known[at], known[model], model, "model")
        if provider != at:
            yield statistics.versus(known[at], known[provider], provider, "provider")

    def _profile(self, members: Sequence[int]) -> None:
        from accelc.benchmark import profile

        if not members:
            return
        self.tell(f"profiling {len(members)} case{'s' if len(members) > 1 else ''}")
        subjects = [profile.Subject(self.cases[at], self.feeds[at][0], self._alone_ms(at)) for at in members]
        options, done = self.options, []
        traces = [] if options.trace is None else [options.trace / self._trace_name(at) for at in members]
        found = profile.profiles(subjects, traces=traces, memory=options.memory_limit, seed=options.seed)
        for at, each in zip(members, found, strict=True):
            if isinstance(each, AccelcError):  # the row keeps its figures
                self.rows[at].profile_failure, self.rows[at].exit_code = str(each), _exit_code(each)
            else:
                self.rows[at].profile = each
                done.append(at)
        for at in done:
            first = next(other for other in done if self.rows[other].setting == self.rows[at].setting)
            if first != at:
                self.changes += profile.changes(self.rows[first], self.rows[at])

    def _alone_ms(self, at: int) -> float | None:
        """Of a run, where one was timed after the other: by the ratio to the first model, which scatters least."""
        latency = self.rows[at].latency
        if latency is None or self.options.demand is not None:
            return None
        paired = next((each for each in self.rows[at].versus if each.kind == "model"), None)
        first = None if paired is None else self.rows[paired.against].latency
        return latency.p50_ms.value if paired is None or first is None else first.p50_ms.value / paired.ratio

    def _trace_name(self, at: int) -> str:
        return f"{_UNFIT.sub('-', f'{self.rows[at].label} {self.rows[at].setting}')}.json"


def _row(each: Case | Refused, sizes: Mapping[int, Any]) -> Row:
    row = Row(each.label, str(each.path), each.setting)
    if each.source is not None:
        size = sizes[id(each.source)]
        row.bytes, row.nodes = size.bytes, size.nodes
    if isinstance(each, Refused):
        row.failure, row.exit_code = str(each.error), _exit_code(each.error)
    return row


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("cannot be made", where=str(path), why=error.strerror or str(error)) from error


def _exit_code(error: AccelcError) -> int:
    """A model that does not run is like one that is refused; memory and time are what this machine lacks."""
    if isinstance(error, RuntimeFailure):
        return (BackendError if error.kind in ("memory", "timeout") else ModelError).exit_code
    return error.exit_code


def _recorded(options: BenchOptions) -> dict[str, Any]:
    """What was asked for, as plain data."""
    found: dict[str, Any] = plain(options)
    return found
