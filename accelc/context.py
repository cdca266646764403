"""What a pass may know besides the model: the target, the options, the fuel, the data, and who is watching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from accelc import ir, opsets

if TYPE_CHECKING:
    from accelc.backend_base import Backend
    from accelc.budget import Budget
    from accelc.calibration import Calibration
    from accelc.data import Feed, Sample
    from accelc.decision_store import Decision
    from accelc.decisions import Build, Decisions
    from accelc.instrument import Instrument
    from accelc.metrics import Metric
    from accelc.pass_base import Pass, PassRecord
    from accelc.runner import Runner
    from accelc.structure import Contract
    from accelc.target import Target


@cache
def fold(name: str) -> str:
    """Names of passes, rules and backends differ neither by case nor by `-` and `_`."""
    return name.strip().lower().replace("_", "-")


@dataclass(frozen=True)
class PatchRecord:
    """One change to the graph: which pass and rule made it, and at which node."""

    index: int
    pass_name: str
    rule: str
    node: str

    def __str__(self) -> str:
        return f"patch {self.index}: {self.pass_name} >> {self.rule} at {self.node}"


@dataclass
class Fuel:
    """Counts changes and stops after `limit` of them; bisection turns this knob. None is unlimited."""

    limit: int | None = None
    records: list[PatchRecord] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return self.limit is not None and len(self.records) >= self.limit

    def spend(self, pass_name: str, rule: str, node: str) -> PatchRecord | None:
        """Account for one change; None when there is no fuel left and the change must not be made."""
        if self.empty:
            return None
        record = PatchRecord(len(self.records) + 1, pass_name, rule, node)
        self.records.append(record)
        return record


@dataclass(frozen=True)
class Settings:
    """The user's choices that passes read.

    portable: only operators of ai.onnx. disabled: names of passes and rules that must not run. max_drop: how much
    quality -O3 may cost, and metric, relative_drop: by what; see `budget`. seed: for everything random. shapes:
    dimensions fixed by `--shape`. measure: whether passes may time alternatives to decide between them. search_time:
    seconds that a search may take, None for its own default. calibration_method: how ranges follow from calibration
    data, as Method.parse reads it.
    """

    portable: bool = False
    disabled: frozenset[str] = frozenset()
    max_drop: float = 0.01
    seed: int = 0
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    measure: bool = False
    metric: Metric | None = None
    relative_drop: bool = True
    search_time: float | None = None
    calibration_method: str = "minmax"

    @property
    def budget(self) -> Budget:
        """What a result may lose; judges samples with their outputs."""
        from accelc.budget import Budget

        return Budget(self.max_drop, self.relative_drop, self.metric)


class Context:
    """Handed to every pass. calibration: the user's calibration data; None without any."""

    def __init__(
        self,
        target: Target,
        settings: Settings | None = None,
        *,
        backend: Backend | None = None,
        fuel: Fuel | None = None,
        instruments: Sequence[Instrument] = (),
        runner: Runner | None = None,
        samples: Callable[[], Sequence[Sample]] | None = None,
        measuring: Callable[[], Sequence[Feed]] | None = None,
        progress: Callable[[str], None] | None = None,
        decisions: Decisions | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.target, self.backend = target, backend
        self.settings = settings or Settings()
        self._off = frozenset(map(fold, self.settings.disabled))
        self.fuel = fuel or Fuel()
        self.instruments = tuple(instruments)
        self._samples, self._measuring = samples, measuring
        self.calibration = calibration
        self.contract: Contract | None = None
        self.current: Pass | None = None
        self.repeats = False  # a fixpoint runs the pass again, so one sweep at a time is enough
        self.quiet: dict[str, int] = {}  # passes that changed nothing, with the version of the model they saw
        self.records: list[PassRecord] = []
        self.notes: list[str] = []
        self._runner = runner
        self._progress = progress
        self._cache: dict[Any, tuple[int, Any]] = {}
        self._version = 0
        self._blocked: dict[int, str] = {}
        self._decisions = decisions
        self._places: dict[tuple[str, str], int] = {}
        self._asked: dict[tuple[str, str], int] = {}

    # --- the runtime

    @property
    def runner(self) -> Runner:
        """The child process that executes models. Started when first asked for."""
        if self._runner is None:
            from accelc.runner import Runner

            self._runner = Runner()
        return self._runner

    def close(self) -> None:
        """Stop the child process, if this context started one."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)
            self._runner = None

    @property
    def samples(self) -> Sequence[Sample]:
        """Verification inputs with what the original computes on them; empty when nothing runs or none are wanted."""
        return self._samples() if self._samples is not None else ()

    @property
    def measuring(self) -> Sequence[Feed]:
        """Inputs of the sizes models are used with, to measure latency on; else the samples' own."""
        if self._measuring is not None:
            return self._measuring()
        return [sample.feed for sample in self.samples if not sample.feed.edge]

    # --- changes

    def disabled(self, name: str) -> bool:
        """Whether a pass or rule is switched off."""
        return bool(self._off) and fold(name) in self._off

    def spend(self, rule: str, node: str) -> bool:
        """Account for one change by the running pass. False: it must not be made, for its rule is switched off or the
        fuel is spent.
        """
        if self.disabled(rule):
            return False
        owner = self.current.name if self.current else ""
        record = self.fuel.spend(owner, rule, node)
        if record is None:
            return False
        self._version += 1
        for instrument in self.instruments:
            instrument.on_patch(record)
        return True

    def note(self, text: str) -> None:
        """Say something the report must show."""
        if text not in self.notes:
            self.notes.append(text)

    def progress(self, text: str) -> None:
        """Tell whoever waits what is being done."""
        if self._progress is not None:
            self._progress(text)

    # --- what the target can do

    def allows(self, domain: str, op_type: str, opset: int, types: Mapping[str, ir.DataType]) -> bool | str:
        """True when the target runs an operator on these types and vendor operators may be used, else why not."""
        if domain and self.settings.portable:
            return f"{domain}.{op_type} is a vendor operator and --portable is on"
        if self.target.kernels is None:
            return f"it is not known whether {self.target.name} runs {op_type}"
        version = opset if not domain else 1
        names = {parameter: f"tensor({_type_name(dtype)})" for parameter, dtype in types.items()}
        if self.target.has_kernel(domain, op_type, version, names):
            return True
        shown = ", ".join(f"{k}={v}" for k, v in names.items()) or f"opset {version}"
        return f"{self.target.name} has no kernel for {op_type} with {shown}"

    def opset_blocker(self, graph: ir.Graph, to: int) -> str:
        """Why the opset of the main graph cannot be raised to `to`; empty when it can. A no holds while a pass runs."""
        if to not in self._blocked:
            reason = opsets.blocker(graph, to, self.target)
            if not reason:
                return ""
            self._blocked[to] = reason
        return self._blocked[to]

    def begin(self, each: Pass) -> Pass | None:
        """Let a pass be the current one. Returns the one that was."""
        outer, self.current = self.current, each
        self._blocked.clear()
        self._asked.clear()
        return outer

    # --- which of several graphs

    @property
    def decisions(self) -> Decisions:
        """Answers questions of rules, those of a whole compile alike."""
        if self._decisions is None:
            from accelc.decisions import Decisions

            self._decisions = Decisions(
                measure=self.settings.measure,
                backend=self.backend,
                runner=lambda: self.runner,
                seed=self.settings.seed,
                progress=self.progress,
            )
        return self._decisions

    def decide(self, rule: str, case: str, default: str, build: Build) -> str:
        """Which of several equal graphs to use, by name.

        rule: who asks. case: what the answer depends on, as text (shapes and types). default: the shipped answer,
        taken where nothing is measured. build: small models by name that read the same inputs and compute the same,
        the graph as it is first; called only when they are timed.
        """
        return self.decision(rule, case, default, build).choice

    def decision(self, rule: str, case: str, default: str, build: Build, *, places: int = 1, **more: Any) -> Decision:
        """The same with its evidence. places: how many the question is asked for. more: see Decisions.decide."""
        key = (rule, case)
        self._asked[key] = self._asked.get(key, 0) + places
        self._places[key] = max(self._places.get(key, 0), self._asked[key])
        return self.decisions.decide(rule, case, default, build, **more)

    @property
    def decided(self) -> list[Decision]:
        """Every decision that passes asked for, in that order, with the most places that one run of a pass asked at."""
        return [replace(self.decisions.answer(*key), places=places) for key, places in self._places.items()]

    # --- analyses

    def analysis(self, compute: Callable[[ir.Model], Any], model: ir.Model) -> Any:
        """The result of an analysis, computed again only after the model changed."""
        found = self._cache.get(compute)
        if found is not None and found[0] == self._version:
            return found[1]
        result = compute(model)
        self._cache[compute] = (self._version, result)
        return result

    def preserve(self, computes: Sequence[Callable[[ir.Model], Any]], since: int) -> None:
        """Declare that analyses valid at version `since` still hold now."""
        for compute in computes:
            found = self._cache.get(compute)
            if found is not None and found[0] == since:
                self._cache[compute] = (self._version, found[1])

    @property
    def version(self) -> int:
        """Counts the changes made so far."""
        return self._version


def _type_name(dtype: ir.DataType) -> str:
    return {"FLOAT": "float", "DOUBLE": "double"}.get(dtype.name, dtype.name.lower())
