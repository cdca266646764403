"""What a result must be, what was found about it, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from accelc import compare
from accelc.budget import Accuracy
from accelc.data import EvalData, Feed, InputSpec, Sample
from accelc.metrics import Score

OVER_BUDGET = "over budget"
"""The status of a result that loses more than it may. It is kept only where the user asked for just that."""
TIMED = 3
"""Feed sets that latency is measured on."""


@dataclass(frozen=True)
class Judge:
    """What a result must be.

    exact: the same bits. lossy: quality may be lost, as much as the verifier's budget allows; else equality up to
    rounding. changes_function: anything goes that runs; quality is only reported.
    """

    exact: bool = False
    lossy: bool = False
    changes_function: bool = False


@dataclass(frozen=True)
class Verdict:
    """status: same, within budget, over budget, reported (the passes change the function on purpose), different, or
    skipped. reason: why it is different, over budget or was skipped, and which outputs are random.

    quality: figures over all samples, when there are any. accuracy, score: see Judgement. samples: how many were
    compared. limit: the drop of the budget, as it was given.
    """

    status: str
    reason: str = ""
    quality: compare.Quality | None = None
    accuracy: Accuracy | None = None
    samples: int = 0
    descriptions: tuple[str, ...] = ()
    score: Score | None = None
    limit: str = ""

    @property
    def passed(self) -> bool:
        return self.status not in ("different", OVER_BUDGET)


@dataclass(frozen=True)
class Reference:
    """What the original computes. skipped: why nothing can be compared; unstable: outputs of random operators."""

    samples: tuple[Sample, ...] = ()
    data: EvalData | None = None
    unstable: frozenset[str] = frozenset()
    skipped: str = ""
    notes: tuple[str, ...] = ()
    timed: tuple[Feed, ...] = ()

    def fitting(self, specs: Sequence[InputSpec]) -> Reference:
        """The same with only the samples whose sizes these inputs take: a result may be made for fixed sizes."""
        kept = tuple(sample for sample in self.samples if all(_fits(sample.feed, spec) for spec in specs))
        return self if len(kept) == len(self.samples) else replace(self, samples=kept)

    @property
    def measuring(self) -> list[Feed]:
        """What to measure latency on: samples of the user's data, else inputs of the usual size, else what runs."""
        return list(self.timed) or [sample.feed for sample in self.samples if not sample.feed.edge][:TIMED]


def _fits(feed: Feed, spec: InputSpec) -> bool:
    shape = getattr(feed.values.get(spec.name), "shape", None)
    if spec.shape is None or shape is None or len(shape) != len(spec.shape):
        return True
    return all(not isinstance(want, int) or want == have for want, have in zip(spec.shape, shape, strict=True))
