"""Plans put to the test: what they compute and how fast they are, each asked once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from accelc import ir
from accelc.budget import Judgement
from accelc.calibration.graph import fingerprint
from accelc.decision_store import Decision
from accelc.errors import AccelcError
from accelc.measure import Comparison, Verdict
from accelc.readback import read_back

from .curve import Curve, Point
from .plan import Parts, Plan
from .trial import Trial

WHOLE = "quantize-model"
"""Under this name the speeds of whole models are kept."""
_KEPT_ROUNDS = 6


@dataclass
class Bench:
    """Candidates of one model."""

    trial: Trial
    parts: Parts
    curve: Curve = field(default_factory=Curve)
    _judged: dict[Plan, Judgement] = field(default_factory=dict)

    def candidate(self, plan: Plan) -> ir.Model:
        """A copy of the model with a plan applied."""
        return self.trial.copy(lambda model: self.parts.apply(model, plan, lambda *_: True))

    # --- quality

    def knows(self, plan: Plan) -> bool:
        """Whether a plan was judged before."""
        return plan in self._judged

    def judge(self, plan: Plan, ratio: float | None = None) -> Judgement:
        """How good the outputs are. ratio: an estimate, for the curve."""
        if plan not in self._judged:
            model = self.candidate(plan)
            judged = self._judged[plan] = self.trial.quality(model)
            point = Point(
                self.parts.label(plan),
                self.parts.counts(plan),
                figures(judged),
                judged.lost,
                is_inside(judged),
                judged.reason,
                ratio,
                estimated=ratio is not None,
                bytes=ir.initializer_bytes(model),
            )
            if judged.quality is not None:
                self.curve.put(plan, point)
        return self._judged[plan]

    def start_curve(self) -> None:
        """Put the float model on the curve."""
        size = ir.initializer_bytes(self.parts.model)
        self.curve.put(Plan(), Point("float", self.parts.counts(Plan()), ratio=1.0, bytes=size))

    def read_back(self, plan: Plan) -> str:
        """What of a plan the runtime executes by integer kernels, and what fell back to floats."""
        data = ir.to_proto(self.candidate(plan)).SerializeToString()
        ctx = self.trial.ctx
        try:
            return str(read_back(ctx.runner, ctx.backend, data, folder=self.trial.folder))
        except AccelcError as error:
            return f"what runs by integer kernels is not known: {error}"

    # --- speed

    def time(self, plans: Sequence[Plan], seconds: float) -> list[Comparison]:
        """Plans against the model as it is, interleaved; what an earlier run measured is not measured again.

        Attempts of one compile differ in little else than what is asked here, and get the same answers.
        Raises RuntimeFailure.
        """
        signatures = [self.parts.signature(plan) for plan in plans]
        known = self.trial.ctx.decisions.once((WHOLE, "known"), dict[str, Comparison])
        for signature in signatures:
            if signature not in known and (kept := self._recall(signature)) is not None:
                known[signature] = kept
        wanted = [at for at, signature in enumerate(signatures) if signature not in known]
        if wanted:
            found = self.trial.compare([self.candidate(plans[at]) for at in wanted], seconds)
            for at, speed in zip(wanted, found, strict=True):
                known[signatures[at]] = speed
                self._keep(signatures[at], speed)
        for plan, signature in zip(plans, signatures, strict=True):
            self.curve.timed(plan, known[signature])
        return [known[signature] for signature in signatures]

    @cached_property
    def fingerprint(self) -> str:
        """Tells the model and the inputs that are timed from others."""
        state = hashlib.sha256(fingerprint(self.parts.model).encode())
        for feed in self.trial.timed:
            shapes = {name: list(getattr(value, "shape", ())) for name, value in sorted(feed.items())}
            state.update(repr(shapes).encode())
        return state.hexdigest()[:16]

    def _recall(self, signature: str) -> Comparison | None:
        kept = self.trial.ctx.decisions.recall(WHOLE, f"{self.fingerprint} {signature}")
        if kept is None or kept.ratio is None or kept.low is None or kept.high is None:
            return None
        verdict: Verdict = "faster" if kept.choice == "int8" else "slower" if kept.high < 1 else "same"
        return Comparison(kept.ratio, kept.low, kept.high, verdict, 0.0, 0.0, 0.0, 0.0, kept.rounds, 0.0)

    def _keep(self, signature: str, speed: Comparison) -> None:
        if speed.rounds < _KEPT_ROUNDS:
            return
        case = f"{self.fingerprint} {signature}"
        decision = Decision(WHOLE, case, "int8" if speed.verdict == "faster" else "float", names=("float", "int8"))
        self.trial.ctx.decisions.keep(
            replace(
                decision, alternative="int8", ratio=speed.ratio, low=speed.low, high=speed.high, rounds=speed.rounds
            )
        )


def is_inside(judged: Judgement) -> bool:
    """Whether a candidate runs and is inside the budget."""
    return not judged.reason and judged.quality is not None


def figures(judged: Judgement) -> dict[str, float | str]:
    """What the curve says of a quality."""
    quality = judged.quality
    if quality is None:
        return {}
    found: dict[str, float | str] = {
        "cosine": quality.cosine,
        "relative_error": quality.relative_error,
        "rmse_relative": quality.rmse_relative,
    }
    if quality.top1 is not None:
        found["top1"] = quality.top1
    if judged.accuracy is not None:
        found["accuracy"] = judged.accuracy.after
    if judged.score is not None:
        found |= {"metric": judged.score.metric, "score": judged.score.after}
    return found
