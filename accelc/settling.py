"""From attempts to one that passes: whatever fails is traced to a pass or a rule, and that is switched off."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from accelc import placement, stamps
from accelc.bisect import find_guilty
from accelc.candidate import Attempt
from accelc.errors import AccelcError, PassError, VerifyError
from accelc.gates import NumbersError, grower
from accelc.verdict import OVER_BUDGET, Verdict

if TYPE_CHECKING:
    from accelc.compilation import Compilation

MAX_ATTEMPTS = 24


class Settling:
    """The attempts of one compilation until structure, size and numbers are right."""

    def __init__(self, job: Compilation) -> None:
        self.job = job

    def run(self) -> tuple[Attempt, Verdict]:
        """The attempt that passes, and what was found of its numbers.

        Raises PassError and VerifyError where nothing may be switched off any more.
        """
        for _ in range(MAX_ATTEMPTS):
            try:
                attempt = self.job.attempt()
            except PassError as error:
                self._drop_pass(error)
                continue
            if self._drop_growth(attempt):
                self.job.discard(attempt)
                continue
            if self._set_foreign_aside(attempt):
                self.job.discard(attempt)
                continue
            verdict = self.job.judge(attempt)
            if verdict.passed or self._is_asked_for(attempt, verdict):
                return (self._with_foreign(attempt), verdict) if self.job.foreign else (attempt, verdict)
            self._drop_guilty(attempt, verdict)
            self.job.discard(attempt)
        if self.job.options.custom:
            raise VerifyError(f"no result passes after {MAX_ATTEMPTS} attempts", why=str(self.job.refused[-1]))
        attempt = self.job.attempt(limit=0)
        attempt.notes.append(f"the original is kept: no result passed in {MAX_ATTEMPTS} attempts")
        return attempt, self.job.judge(attempt)

    def _is_asked_for(self, attempt: Attempt, verdict: Verdict) -> bool:
        """Whether a result is outside the budget, and only by passes that the user insists on."""
        asked = self.job.insisted(attempt)
        if verdict.status != OVER_BUDGET or not asked:
            return False
        rest = self.job.attempt(off=asked)
        try:
            return self.job.judge(rest).passed
        finally:
            self.job.discard(rest)

    # --- operators that only the target has

    def _set_foreign_aside(self, attempt: Attempt) -> bool:
        """Whether rules were found that write operators which nothing here can run.

        They are left out while the rest is checked, and come back when it is.
        """
        if not self.job.unusable or not self.job.verifies or self.job.reference().skipped:
            return False
        foreign = placement.not_on_processor(attempt.model)
        made_by = {str(node.meta.get(stamps.RULE, "")) for node in foreign} - {""}
        if not made_by or made_by <= self.job.foreign:
            return False
        self.job.foreign |= made_by
        return True

    def _with_foreign(self, checked: Attempt) -> Attempt:
        """The result with the operators that were set aside."""
        off, self.job.foreign = self.job.foreign, frozenset()
        attempt = self.job.attempt()
        if self._drop_growth(attempt):
            self.job.discard(attempt)
            return checked
        self.job.discard(checked)
        operators = Counter(node.op_type for node in placement.not_on_processor(attempt.model))
        self.job.unrun = dict(operators.most_common())
        shown = ", ".join(f"{name} {count}" for name, count in self.job.unrun.items())
        attempt.notes.append(
            f"numbers were checked without {', '.join(sorted(off))}: the processor has no kernel for {shown}"
        )
        return attempt

    # --- what is switched off, and why

    def _drop_pass(self, error: PassError) -> None:
        name = error.where.removeprefix("pass ").partition(" ")[0]
        self._reproduce(error)
        if self.job.options.custom or not error.where.startswith("pass ") or name in self.job.off:
            raise error
        self.job.refuse("pass", name, "numbers" if isinstance(error, NumbersError) else "structure", error.what)

    def _drop_growth(self, attempt: Attempt) -> bool:
        """Whether the file grew and the pass that made it grow was switched off."""
        excess = attempt.bytes - self.job.source.file_bytes
        if not attempt.patches or excess <= 0:
            return False
        name = grower(attempt.records, attempt.weights)
        if self.job.options.custom and name in {each.name for each in self.job.pipeline}:
            attempt.notes.append(
                f"the result is {excess} bytes larger than the original, by {name}, which was asked for"
            )
            return False
        self.job.refuse("pass", name, "size", f"the file would grow by {excess} bytes")
        return True

    def _drop_guilty(self, attempt: Attempt, verdict: Verdict) -> None:
        if not attempt.patches:
            raise VerifyError("the model changes its results by being read and written", why=verdict.reason)
        with self.job.phase("bisect"):
            guilty = find_guilty(len(attempt.patches), self._is_good)
        record = attempt.patches[guilty - 1]
        reason = f"{record}: {verdict.reason}"
        self._reproduce(VerifyError(verdict.reason, where=str(record)), guilty)
        if record.rule not in self.job.off and record.rule != record.pass_name:
            self.job.refuse("rule", record.rule, "numbers", reason)
        elif record.pass_name not in self.job.off:
            self.job.refuse("pass", record.pass_name, "numbers", reason)
        else:
            raise VerifyError("the result differs from the original", why=reason)

    def _is_good(self, limit: int) -> bool:
        self.job.progress(f"bisecting at change {limit}")
        try:
            attempt = self.job.attempt(limit)
        except PassError:
            return False
        on = self.job.judging_backend(attempt)
        passed = self.job.verifier.judge(attempt.path, self.job.judge_of(attempt.patches), on).passed
        self.job.discard(attempt)
        return passed

    def _reproduce(self, error: AccelcError, limit: int | None = None) -> None:
        job = self.job
        if job.options.reproducer is not None:
            from accelc.reproducer import write_reproducer

            write_reproducer(job.options.reproducer, job.source, job.pipeline, job.options, job.off, limit, error)
