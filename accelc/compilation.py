"""One `optimize`: import, rewrite, verify, gate, write, report.

An attempt runs the pipeline on a fresh graph and writes a candidate. Whatever fails a check (structure, size, numbers,
latency) is traced to a pass or a rule, that is switched off, and the next attempt starts from the original. Every
attempt has at least one name less, so this ends; in the worst case with the original itself.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelc import ir, latency, structure
from accelc.backend_base import Backend, BackendSpec
from accelc.bisect import find_guilty
from accelc.candidate import Attempt, Candidates
from accelc.catalog import all_passes, written
from accelc.context import Context, Fuel, PatchRecord, Settings
from accelc.errors import AccelcError, BackendError, PassError, UsageError, VerifyError
from accelc.gates import NumbersError, VerifyEach, grower
from accelc.instrument import Instrument
from accelc.latency import Outcome
from accelc.measure import Comparison
from accelc.options import Options
from accelc.plugins import find_backend, load_plugin
from accelc.report import Refusal, Report
from accelc.runner import Runner
from accelc.size import Size, size_of
from accelc.source import ModelLike, Source
from accelc.streamed import STREAMING_THRESHOLD
from accelc.verify import Judge, Reference, Verdict, Verifier

MAX_ATTEMPTS = 24
MEASURED_NODES = 20_000
"""Larger models are measured only when asked for: the runtime needs many seconds to load them."""


class Compilation:
    """The state of one `optimize`. Use it as a context manager: it owns child processes and a folder of candidates."""

    def __init__(self, options: Options, instruments: tuple[Instrument, ...], progress: Callable[[str], None]) -> None:
        self.options, self.instruments, self.progress = options, instruments, progress
        for plugin in options.plugins:
            load_plugin(plugin)
        spec = BackendSpec.parse(options.target)
        self.backend: Backend = find_backend(spec.name)(spec.options)
        if reason := self.backend.missing():
            raise BackendError(f"backend {spec.name} is not usable here", why=reason, hint="see accelc doctor")
        self.target = self.backend.target()
        self.pipeline = options.chosen_pipeline()
        self.off = {written(name, all_passes()) for name in options.disable}
        self.refused: list[Refusal] = []
        self.seconds: dict[str, float] = {}
        self.runner, self.judging = Runner(), Runner()
        self.output: Path | None = None
        self._stack = ExitStack()
        self._reference: Future[Reference] | None = None

    def __enter__(self) -> Compilation:
        self._stack.callback(self.runner.stop)
        self._stack.callback(self.judging.stop)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is not None:
            self._give_up()
        self._stack.close()

    def _give_up(self) -> None:
        """End the thread that runs the original, so that an error or Ctrl-C does not wait for it."""
        while self._reference is not None and not self._reference.done():
            self.judging.abandon()
            time.sleep(0.01)
        self.judging.resume()

    # --- the whole job

    def run(self, model: ModelLike) -> tuple[Attempt, Report]:
        """Compile. The attempt that was kept, its file written to `self.output`, and the report."""
        self.judging.start()
        self.progress("reading")
        with self._phase("import"), ir.paused_gc():
            self.source = Source.of(model)
            before = self.source.size()
        self.output = self.options.output or self._default_output()
        self.folder = self._make_folder()
        self.verifier = Verifier(self.source, self.judging, self.options.inputs, self.options.seed, self.options.shapes)
        if self._verifies:
            pool = ThreadPoolExecutor(1)
            self._stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            self._reference = pool.submit(lambda: self.verifier.reference)
        name = self.output.name if self.output is not None else "model.onnx"
        self.candidates = Candidates(self.source, self.folder, name)
        attempt, verdict = self._settle()
        outcome = self._gate_latency(attempt, verdict, before)
        attempt = outcome.attempt
        if self.output is not None:
            self.progress("writing")
            with self._phase("write"):
                attempt.file = self.candidates.publish(attempt, self.output)
        excess = attempt.bytes - self.source.file_bytes
        if excess > 0 and not attempt.patches:
            attempt.notes.append(f"repairs and the names of data files cost {excess} bytes")
        return attempt, self._report(attempt, outcome.verdict, outcome.comparison, outcome.note, before)

    def _gate_latency(self, attempt: Attempt, verdict: Verdict, before: Size) -> Outcome:
        measure = self.options.measure
        if not attempt.patches:
            return Outcome(attempt, verdict, None, "nothing changed, so there is nothing to measure")
        if measure is False:
            return Outcome(attempt, verdict, None, "latency was not measured")
        if measure is None and before.nodes > MEASURED_NODES:
            why = f"loading {before.nodes} nodes takes long; ask for it with --measure"
            return Outcome(attempt, verdict, None, f"latency was not measured: {why}")
        if measure is None and before.weight_bytes > STREAMING_THRESHOLD:
            why = "it would hold the weights of both models in memory; ask for it with --measure"
            return Outcome(attempt, verdict, None, f"latency was not measured: {why}")
        self.progress("measuring")
        seconds = 5.0 if any(each.lossy for each in self.pipeline) else 2.5
        with self._phase("measure"):
            return latency.gate(self, attempt, verdict, seconds)

    def _settle(self) -> tuple[Attempt, Verdict]:
        """Attempts until one passes structure, size and numbers."""
        for _ in range(MAX_ATTEMPTS):
            try:
                attempt = self.attempt()
            except PassError as error:
                self._drop_pass(error)
                continue
            if self._drop_growth(attempt):
                self.discard(attempt)
                continue
            verdict = self.judge(attempt)
            if verdict.passed:
                return attempt, verdict
            self._drop_guilty(attempt, verdict)
            self.discard(attempt)
        if self.options.custom:
            raise VerifyError(f"no result passes after {MAX_ATTEMPTS} attempts", why=str(self.refused[-1]))
        attempt = self.attempt(limit=0)
        attempt.notes.append(f"the original is kept: no result passed in {MAX_ATTEMPTS} attempts")
        return attempt, self.judge(attempt)

    # --- one attempt

    def attempt(self, limit: int | None = None, off: frozenset[str] = frozenset()) -> Attempt:
        """Run the pipeline without what is switched off, stop after `limit` changes, write a candidate.

        Raises PassError.
        """
        self.progress("optimizing")
        with self._phase("passes"), ir.paused_gc():
            model = self.source.fresh()
            fuel = Fuel(self.options.bisect_limit if limit is None else limit)
            ctx = self._context(fuel, off)
            ctx.contract = structure.contract(model)
            weights = ir.initializer_bytes(model)
            records = self.pipeline.run(model, ctx)
        with self._phase("write"):
            file = self.candidates.write(model, changed=bool(fuel.records))
        return Attempt(model, records, fuel.records, ctx.notes, file, weights)

    def _context(self, fuel: Fuel, off: frozenset[str]) -> Context:
        options = self.options
        settings = Settings(
            options.portable,
            frozenset(self.off) | off,
            options.max_drop,
            options.seed,
            options.shapes,
            options.measure is not False,
        )
        each: tuple[Instrument, ...] = ()
        if options.verify == "each":
            self.reference()
            each = (VerifyEach(self.verifier, self.folder, self.judge_of),)
        return Context(
            self.target,
            settings,
            backend=self.backend,
            fuel=fuel,
            instruments=(*self.instruments, *each),
            runner=self.runner,
            samples=lambda: self.reference().samples,
            measuring=lambda: self.reference().measuring,
            progress=self.progress,
        )

    def discard(self, attempt: Attempt) -> None:
        """Free the disk of an attempt that is not kept."""
        self.candidates.discard(attempt.file)

    # --- numbers

    @property
    def _verifies(self) -> bool:
        return self.options.verify != "off"

    def reference(self) -> Reference:
        """What the original computes; waits for the thread that found it out meanwhile."""
        if self._reference is None:
            return self.verifier.reference
        with self._phase("reference"):
            return self._reference.result()

    def judge_of(self, patches: Sequence[PatchRecord]) -> Judge:
        """What the passes that changed something allow the result to be."""
        changed = {record.pass_name for record in patches}
        ran = [each for each in self.pipeline if each.name in changed]
        if any(not each.keeps_function for each in ran):
            return Judge(changes_function=True)
        if any(each.lossy for each in ran):
            return Judge(max_drop=self.options.max_drop)
        return Judge(exact=all(each.exact for each in ran))

    def judge(self, attempt: Attempt) -> Verdict:
        """Compare a candidate's numbers with the original's."""
        if not self._verifies:
            return Verdict("skipped", "verification is off")
        self.reference()
        if not attempt.patches and not self.source.imported.repairs and self.options.inputs is None:
            return Verdict("same", "nothing changed")
        self.progress("verifying")
        with self._phase("verify"):
            return self.verifier.judge(attempt.path, self.judge_of(attempt.patches))

    # --- what is switched off, and why

    def refuse(self, kind: str, name: str, gate: str, reason: str) -> None:
        """Switch a rule or pass off and remember why."""
        self.off.add(name)
        self.refused.append(Refusal(kind, name, gate, reason))
        self.progress(str(self.refused[-1]))

    def _drop_pass(self, error: PassError) -> None:
        name = error.where.removeprefix("pass ").partition(" ")[0]
        self._reproduce(error)
        if self.options.custom or not error.where.startswith("pass ") or name in self.off:
            raise error
        self.refuse("pass", name, "numbers" if isinstance(error, NumbersError) else "structure", error.what)

    def _drop_growth(self, attempt: Attempt) -> bool:
        """Whether the file grew and the pass that made it grow was switched off."""
        excess = attempt.bytes - self.source.file_bytes
        if not attempt.patches or excess <= 0:
            return False
        name = grower(attempt.records, attempt.weights)
        if self.options.custom and name in {each.name for each in self.pipeline}:
            attempt.notes.append(
                f"the result is {excess} bytes larger than the original, by {name}, which was asked for"
            )
            return False
        self.refuse("pass", name, "size", f"the file would grow by {excess} bytes")
        return True

    def _drop_guilty(self, attempt: Attempt, verdict: Verdict) -> None:
        if not attempt.patches:
            raise VerifyError("the model changes its results by being read and written", why=verdict.reason)
        with self._phase("bisect"):
            guilty = find_guilty(len(attempt.patches), self._is_good)
        record = attempt.patches[guilty - 1]
        reason = f"{record}: {verdict.reason}"
        self._reproduce(VerifyError(verdict.reason, where=str(record)), guilty)
        if record.rule not in self.off and record.rule != record.pass_name:
            self.refuse("rule", record.rule, "numbers", reason)
        elif record.pass_name not in self.off:
            self.refuse("pass", record.pass_name, "numbers", reason)
        else:
            raise VerifyError("the result differs from the original", why=reason)

    def _is_good(self, limit: int) -> bool:
        self.progress(f"bisecting at change {limit}")
        try:
            attempt = self.attempt(limit)
        except PassError:
            return False
        passed = self.verifier.judge(attempt.path, self.judge_of(attempt.patches)).passed
        self.discard(attempt)
        return passed

    # --- the end

    def _default_output(self) -> Path | None:
        if self.source.path is None:
            return None
        return self.source.path.with_name(f"{self.source.path.stem}.{self.options.label}.{self.backend.name}.onnx")

    def _make_folder(self) -> Path:
        """Where candidates lie: beside the result, so that there is room and renaming is one step."""
        beside = None if self.output is None else self.output.parent
        if self.output is not None and self.output.is_dir():
            raise UsageError("is a folder", where=str(self.output), hint="name a file with -o")
        try:
            return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=".accelc-", dir=beside)))
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
            notes=[*attempt.notes, *(known.notes if known else ())],
            verdict=verdict,
            latency=comparison,
            latency_note=note,
            seconds=self.seconds,
            patches=len(attempt.patches),
        )

    def _versions(self) -> dict[str, str]:
        from importlib.metadata import version

        names = ("accelc", "onnx", "onnx-ir", "numpy")
        runtime = self.judging.version or self.runner.version
        return {**{name: version(name) for name in names}, "onnxruntime": runtime, "python": platform.python_version()}

    def _reproduce(self, error: AccelcError, limit: int | None = None) -> None:
        if self.options.reproducer is not None:
            from accelc.reproducer import write_reproducer

            write_reproducer(self.options.reproducer, self.source, self.pipeline, self.options, self.off, limit, error)

    # --- clocks

    @contextmanager
    def _phase(self, name: str) -> Iterator[Any]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
