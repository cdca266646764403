"""How much quality a result may cost, and whether it stays inside that."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc.data import Sample, top1_accuracy
from accelc.errors import UsageError
from accelc.metrics import Metric, Score
from accelc.padding import visible, without_padding
from accelc.quality import Quality, measure_quality, over_budget

DEFAULT_DROP = "1%"
_SLACK = 1e-9


@dataclass(frozen=True)
class Accuracy:
    """Share of labels hit, 0..1, over `count` labels."""

    before: float
    after: float
    count: int


@dataclass(frozen=True)
class Judgement:
    """reason: why a result is outside the budget; empty inside it.

    quality: None without samples. accuracy: by the first output's highest class, where the data has labels and no
    metric was chosen. score: by the chosen metric. lost: what the budget's `drop` bounds, in its unit; 2, as of outputs
    turned round, where nothing could be compared.
    """

    reason: str = ""
    quality: Quality | None = None
    accuracy: Accuracy | None = None
    score: Score | None = None
    lost: float = 2.0


@dataclass(frozen=True)
class Budget:
    """The drop that is allowed; `str` gives it as the user writes it.

    Without a metric `drop` is a share: the cosine similarity of every output is at least 1 - drop, the root of its
    relative error energy at most sqrt(2 drop), and the top-1 accuracy falls by at most `drop` where the data has
    labels; without labels, at most that share of rows of probabilities has another highest element. With a metric it
    is a share of the original's score where `relative`, else in the metric's unit.
    """

    drop: float = 0.01
    relative: bool = True
    metric: Metric | None = None

    @classmethod
    def parse(cls, max_drop: float | str, metric: str | None = None, output: str | None = None) -> Budget:
        """max_drop: "0.5%" is relative, 0.005 a share, or in the unit of a metric. output: the one that is scored.

        Raises UsageError.
        """
        if metric is None and output is not None:
            raise UsageError("an output to score is named, but no metric", hint="name one with --metric")
        found = None if metric is None else Metric.parse(metric, output)
        text = str(max_drop).strip()
        relative = text.endswith("%")
        try:
            if isinstance(max_drop, bool):
                raise ValueError(max_drop)
            drop = float(text[:-1]) / 100 if relative else float(text)
        except ValueError:
            drop = math.nan
        top = math.inf if found is not None and not relative else 1
        if not 0 <= drop < top:
            raise UsageError(f"max_drop {max_drop} is out of range", hint="give a share such as 0.01 or 1%")
        return cls(drop, relative or found is None, found)

    def __str__(self) -> str:
        return f"{100 * self.drop:g}%" if self.relative else f"{self.drop:g}"

    def judge(
        self, samples: Sequence[Sample], outputs: Sequence[Mapping[str, Any]], left_out: frozenset[str] = frozenset()
    ) -> Judgement:
        """A result's outputs on samples beside what the original computed there. left_out: outputs not to look at.

        Positions that an attention mask calls padding do not count.

        Raises VerifyError for outputs that cannot be set against the original's, UsageError for labels that do not
        fit the metric.
        """
        masks = [visible(sample.feed.values) for sample in samples]
        before = [without_padding(_without(s.outputs, left_out), m) for s, m in zip(samples, masks, strict=True)]
        after = [without_padding(_without(each, left_out), m) for each, m in zip(outputs, masks, strict=True)]
        quality = measure_quality(before, after, samples[0].parts if samples else None)
        if not samples:
            return Judgement(quality=quality, lost=0.0)
        labels = labels_of(samples)
        if self.metric is not None:
            score = self.metric.score(before, after, labels, self.relative)
            return Judgement(self._reason(score), quality, score=score, lost=score.drop)
        accuracy = None if labels is None else _accuracy(samples, outputs, labels)
        lost, reason = quality.lost, over_budget(quality, self.drop)
        if accuracy is not None:
            fall = accuracy.before - accuracy.after
            text = f"accuracy falls from {accuracy.before:.4f} to {accuracy.after:.4f}, more than {self.drop:g}"
            lost, reason = max(lost, fall), text if fall > self.drop + _SLACK else reason
        else:
            changed, name = _decided_otherwise(quality, samples[0].decided)
            text = f"{name}: {100 * changed:.3g} % of the rows have another highest element"
            lost, reason = max(lost, changed), reason or (text if changed > self.drop + _SLACK else "")
        return Judgement(reason, quality, accuracy, lost=lost)

    def check(self, samples: Sequence[Sample]) -> str:
        """What to say of a metric on these samples before anything is judged; empty when nothing.

        Raises UsageError for labels that do not fit, and an output that is not there.
        """
        if not samples:
            return ""
        score = self.judge(samples, [sample.outputs for sample in samples]).score
        if score is None:
            return ""
        of = f" of output {score.output}" if score.output and len(samples[0].outputs) > 1 else ""
        if score.against == "labels":
            return f"quality is {score.metric}{of}, by the labels of {score.count} samples" if of else ""
        return f"there are no labels, so {score.metric}{of} is how far a result agrees with the original"

    def _reason(self, score: Score) -> str:
        if score.drop <= self.drop + _SLACK:
            return ""
        moves = "falls" if score.higher_is_better else "rises"
        change = f"{score.metric} {moves} from {score.before:.5g} to {score.after:.5g}"
        drop = f"{100 * score.drop:.3g} %" if score.relative else f"{score.drop:.3g}"
        limit = f"{100 * self.drop:g} %" if score.relative else f"{self.drop:g}"
        return f"{change}: {drop} is lost and {limit} may be"


def _decided_otherwise(quality: Quality, names: Collection[str]) -> tuple[float, str]:
    """The largest share of an output's rows that have another highest element, and the output, among those named."""
    shares = [(1 - each.top1, each.name) for each in quality.outputs if each.name in names and each.top1 is not None]
    return max(shares, default=(0.0, ""))


def labels_of(samples: Sequence[Sample]) -> np.ndarray[Any, Any] | None:
    """The labels of all samples along the first axis; None unless each has some."""
    found = [sample.labels for sample in samples if sample.labels is not None]
    return np.concatenate(found) if found and len(found) == len(samples) else None


def _without(outputs: Mapping[str, Any], names: frozenset[str]) -> Mapping[str, Any]:
    return {name: value for name, value in outputs.items() if name not in names} if names else outputs


def _accuracy(
    samples: Sequence[Sample], outputs: Sequence[Mapping[str, Any]], labels: np.ndarray[Any, Any]
) -> Accuracy:
    name = next(iter(samples[0].outputs))
    before = top1_accuracy([sample.outputs[name] for sample in samples], labels)
    after = top1_accuracy([each[name] for each in outputs], labels)
    return Accuracy(before, after, len(labels))
