"""One `optimize`: import, rewrite, verify, gate, write, report.

An attempt runs the pipeline on a fresh graph and writes a candidate. Whatever fails a check (structure, size, numbers,
latency) is traced to a pass or a rule, that is switched off, and the next attempt starts from the original. Every
attempt has at least one name less, so this ends; in the worst case with the original itself.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from accelc import blocks, ir, latency, placement, structure
from accelc.backend_base import Backend, BackendSpec
from accelc.candidate import Attempt, Candidates
from accelc.catalog import all_passes, written
from accelc.context import Context, Fuel, PatchRecord, Settings
from accelc.data import Dataset, open_dataset, specialized
from accelc.decisions import Decisions
from accelc.errors import BackendError, UsageError
from accelc.gates import VerifyEach
from accelc.instrument import Instrument
from accelc.latency import Outcome
from accelc.measure import Comparison
from accelc.options import Options
from accelc.original import Original
from accelc.plugins import find_backend
from accelc.report import Refusal, Report
from accelc.runner import CPU, Runner
from accelc.settling import Settling
from accelc.size import Size, size_of
from accelc.streamed import STREAMING_THRESHOLD
from accelc.target import Target
from accelc.verdict import Judge, Reference, Verdict

if TYPE_CHECKING:
    from accelc.calibration import Calibration

MEASURED_NODES = 20_000
"""Larger models are measured only when asked for: the runtime needs many seconds to load them."""


class Compilation:
    """The state of one `optimize` for one target.

    Use it as a context manager: it owns a child process and a folder of candidates. original: shared with the
    compilations for other targets.
    """

    def __init__(
        self,
        original: Original,
        options: Options,
        instruments: tuple[Instrument, ...],
        progress: Callable[[str], None],
    ) -> None:
        self.original, self.options, self.instruments, self.progress = original, options, instruments, progress
        spec = BackendSpec.parse(options.target)
        self.backend: Backend = find_backend(spec.name)(spec.options)
        self.target = _with_isa(self.backend.target(), options.isa)
        self.unusable = self._why_unusable()
        self.pipeline = options.chosen_pipeline()
        self.off = {written(name, all_passes()) for name in options.disable}
        self.refused: list[Refusal] = []
        self.seconds: dict[str, float] = {}
        self.runner, self.judging = Runner(), original.judging
        self.measures = options.measures(self.pipeline)
        self.decisions = Decisions(
            measure=self.measures,
            backend=None if self.unusable else self.backend,
            runner=lambda: self.runner,
            seed=options.seed,
            ready=original.wait,
            progress=progress,
        )
        self.output = options.output
        self.unrun: dict[str, int] = {}
        self.foreign: frozenset[str] = frozenset()
        self._blocks: blocks.Tally = {}
        self._calibration: Calibration | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Compilation:
        self._stack.callback(self.runner.stop)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._stack.close()

    def _why_unusable(self) -> str:
        """Why results cannot be run on the target here; empty when they can.

        Raises BackendError where nothing can be run at all, because the target is the processor itself.
        """
        reason = self.backend.missing()
        if self._on_processor:
            if reason:
                raise BackendError(
                    f"backend {self.backend.name} is not usable here", why=reason, hint="see accelc doctor"
                )
            return ""
        found = self.backend.probe(self.original.judging) if not reason else None
        return reason if found is None else found.reason

    @property
    def _on_processor(self) -> bool:
        return self.target.provider == CPU[0][0]

    # --- the whole job

    def run(self) -> tuple[Attempt, Report]:
        """Compile. The attempt that was kept, its file written to `self.output`, and the report."""
        self.progress("reading")
        with self.phase("import"), ir.paused_gc():
            self.source = self.original.source
            before = self.source.size()
        self.verifier = self.original.verifier
        with self.phase("data"):
            self._calibration = self._open_calibration()
        self.folder = self._make_folder()
        self.original.start()
        name = self.output.name if self.output is not None else "model.onnx"
        self.candidates = Candidates(self.source, self.folder, name)
        attempt, verdict = Settling(self).run()
        outcome = self._gate_latency(attempt, verdict, before)
        attempt = outcome.attempt
        if self.output is not None:
            self.progress("writing")
            with self.phase("write"):
                attempt.file = self.candidates.publish(attempt, self.output)
        excess = attempt.bytes - self.source.file_bytes
        if excess > 0 and not attempt.patches:
            attempt.notes.append(f"repairs and the names of data files cost {excess} bytes")
        return attempt, self._report(attempt, outcome.verdict, outcome.comparison, outcome.note, before)

    def _open_calibration(self) -> Calibration | None:
        """The user's calibration data, or ranges found earlier; all attempts share it.

        Raises UsageError for data that does not fit the model.
        """
        options = self.options
        if options.calibration is None and options.ranges is None:
            return None
        from accelc.calibration import Calibration

        data, known = None, None
        if options.calibration is not None:
            specs = specialized(self.verifier.specs, options.shapes)
            data = open_dataset(options.calibration, specs, preprocessing=options.preprocessing, finite=True)
            data.check()
        if options.ranges is not None:
            from accelc.calibration.state import State

            known = State.load(options.ranges)
        return Calibration(data, lambda: self.runner, seed=options.seed, progress=self.progress, known=known)

    def _data_notes(self) -> list[str]:
        """What to say of the calibration data."""
        calibration = self._calibration
        if calibration is None:
            return []
        notes = list(calibration.notes)
        if isinstance(calibration.data, Dataset):
            notes = [*calibration.data.notes, *notes]
        if self.options.inputs is None and self.options.calibration is not None and self.verifies:
            notes.append("numbers were checked on samples of the calibration data; --eval names others")
        if not any(each.lossy for each in self.pipeline):
            notes.append("calibration data was given, but no pass of this pipeline lowers precision; -O3 does")
        return notes

    def _gate_latency(self, attempt: Attempt, verdict: Verdict, before: Size) -> Outcome:
        measure = self.options.measure
        if not attempt.patches:
            return Outcome(attempt, verdict, None, "nothing changed, so there is nothing to measure")
        if self.unusable:
            return Outcome(attempt, verdict, None, f"latency was not measured: {self.backend.name} does not work here")
        if not self.measures:
            hint = "" if measure is False else "; --measure does"
            return Outcome(attempt, verdict, None, f"latency was not measured{hint}")
        if measure is None and before.nodes > MEASURED_NODES:
            why = f"loading {before.nodes} nodes takes long; ask for it with --measure"
            return Outcome(attempt, verdict, None, f"latency was not measured: {why}")
        if measure is None and before.weight_bytes > STREAMING_THRESHOLD:
            why = "it would hold the weights of both models in memory; ask for it with --measure"
            return Outcome(attempt, verdict, None, f"latency was not measured: {why}")
        self.progress("measuring")
        seconds = 5.0 if any(each.lossy for each in self.pipeline) else 2.5
        with self.phase("measure"):
            return latency.gate(self, attempt, verdict, seconds)

    def insisted(self, attempt: Attempt) -> frozenset[str]:
        """The passes that changed something and trade quality for speed, where the user insists on what they make."""
        if not any(each.insists for each in self.pipeline):
            return frozenset()
        changed = {record.pass_name for record in attempt.patches}
        return frozenset(each.name for each in self.pipeline if each.lossy and each.name in changed)

    # --- one attempt

    def attempt(self, limit: int | None = None, off: frozenset[str] = frozenset()) -> Attempt:
        """Run the pipeline without what is switched off, stop after `limit` changes, write a candidate.

        Raises PassError.
        """
        self.progress("optimizing")
        with self.phase("passes"), ir.paused_gc():
            model = self.source.fresh()
            fuel = Fuel(self.options.bisect_limit if limit is None else limit)
            ctx = self._context(fuel, off)
            ctx.contract = structure.contract(model)
            weights = ir.initializer_bytes(model)
            self._blocks = self._blocks or blocks.tally(blocks.find_blocks(model))
            records = self.pipeline.run(model, ctx)
        with self.phase("write"):
            file = self.candidates.write(model, changed=bool(fuel.records))
        return Attempt(model, records, fuel.records, ctx.notes, file, weights, ctx.decided)

    def _context(self, fuel: Fuel, off: frozenset[str]) -> Context:
        options = self.options
        settings = Settings(
            options.portable,
            frozenset(self.off) | off | self.foreign,
            options.budget.drop,
            options.seed,
            options.shapes,
            self.measures,
            options.budget.metric,
            options.budget.relative,
            options.search_seconds,
            options.calibration_method,
        )
        each: tuple[Instrument, ...] = ()
        if options.verify == "each":
            self.reference()
            each = (VerifyEach(self.verifier, self.folder, self.judge_of),)
        return Context(
            self.target,
            settings,
            backend=None if self.unusable else self.backend,
            fuel=fuel,
            instruments=(*self.instruments, *each),
            runner=self.runner,
            samples=lambda: self.reference().samples,
            measuring=lambda: self.reference().measuring,
            progress=self.progress,
            decisions=self.decisions,
            calibration=self._calibration,
        )

    def discard(self, attempt: Attempt) -> None:
        """Free the disk of an attempt that is not kept."""
        self.candidates.discard(attempt.file)

    # --- numbers

    @property
    def verifies(self) -> bool:
        """Whether numbers are compared at all."""
        return self.options.verify != "off"

    def reference(self) -> Reference:
        """What the original computes; waits for the thread that found it out meanwhile."""
        with self.phase("reference"):
            return self.original.reference()

    def judge_of(self, patches: Sequence[PatchRecord]) -> Judge:
        """What the passes that changed something allow the result to be."""
        changed = {record.pass_name for record in patches}
        ran = [each for each in self.pipeline if each.name in changed]
        if any(not each.keeps_function for each in ran):
            return Judge(changes_function=True)
        if any(each.lossy for each in ran):
            return Judge(lossy=True)
        return Judge(exact=all(each.exact for each in ran))

    def judge(self, attempt: Attempt) -> Verdict:
        """Compare a candidate's numbers with the original's."""
        if not self.verifies:
            return Verdict("skipped", "verification is off")
        self.reference()
        if not attempt.patches and not self.source.imported.repairs and self.options.inputs is None:
            return Verdict("same", "nothing changed")
        self.progress("verifying")
        with self.phase("verify"):
            return self.verifier.judge(attempt.path, self.judge_of(attempt.patches), self.judging_backend(attempt))

    def judging_backend(self, attempt: Attempt) -> Backend | None:
        """The target itself where the processor cannot run a result and the target can; else None."""
        if self._on_processor or self.unusable or not placement.not_on_processor(attempt.model):
            return None
        return self.backend

    def refuse(self, kind: str, name: str, gate: str, reason: str) -> None:
        """Switch a rule or pass off and remember why."""
        self.off.add(name)
        self.refused.append(Refusal(kind, name, gate, reason))
        self.progress(str(self.refused[-1]))

    # --- the end

    def _make_folder(self) -> Path:
        """Where candidates lie: beside the result, so that there is room and renaming is one step."""
        beside = None if self.output is None else self.output.parent
        if self.output is not None and self.output.is_dir():
            raise UsageError("is a folder", where=str(self.output), hint="name a file with -o")
        folder = Path(beside or tempfile.gettempdir()) / f".accelc-{uuid.uuid4().hex[:12]}"
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)  # before it is made
        try:
            folder.mkdir(mode=0o700)
            return folder
        except OSError as error:
            hint = "make the folder, or choose another output"
            why = error.strerror or str(error)
            raise UsageError("cannot write here", where=str(beside), why=why, hint=hint) from error

    def _report(
        self, attempt: Attempt, verdict: Verdict, comparison: Comparison | None, note: str, before: Size
    ) -> Report:
        known = self.verifier.known
        return Report(
            source=str(self.source.path or "a model in memory"),
            output=str(self.output or ""),
            level=None if self.options.custom else self.options.level,
            pipeline=str(self.pipeline),
            target=str(self.target),
            versions=self._versions(),
            before=before,
            after=size_of(attempt.model, attempt.bytes),
            repairs=self.source.imported.repairs,
            passes=attempt.records,
            refused=self.refused,
            notes=[*attempt.notes, *self.decisions.notes, *self._data_notes(), *(known.notes if known else ())],
            verdict=verdict,
            latency=comparison,
            latency_note=note,
            unusable=self.unusable,
            unrun=self.unrun,
            placement=None if self._on_processor else placement.place(attempt.model, self.target),
            seconds=self.seconds,
            patches=len(attempt.patches),
            decisions=attempt.decisions,
            blocks=blocks.count(self._blocks, blocks.tally(blocks.find_blocks(attempt.model))),
        )

    def _versions(self) -> dict[str, str]:
        from importlib.metadata import version

        names = ("accelc", "onnx", "onnx-ir", "numpy")
        runtime = self.judging.version or self.runner.version
        return {**{name: version(name) for name in names}, "onnxruntime": runtime, "python": platform.python_version()}

    # --- clocks

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time that the context lasts."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def _with_isa(target: Target, isa: str | None) -> Target:
    """The target with other instruction sets than this processor has. Raises UsageError for an unknown name."""
    if isa is None:
        return target
    from accelc.target import isa_of

    return replace(target, isa=isa_of(isa))
