"""Metrics and the budget: what a score means, what a drop is, and when a result is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accelc.budget import Budget, Judgement
from accelc.data import Feed, Sample
from accelc.errors import UsageError, VerifyError
from accelc.metrics import Metric, Score

Array = np.ndarray[Any, Any]


def score(
    text: str,
    before: Sequence[Any],
    after: Sequence[Any],
    labels: Any = None,
    *,
    relative: bool = True,
    output: str | None = None,
) -> Score:
    """One output y (or mappings of outputs) over feed sets."""
    sides = [
        [each if isinstance(each, dict) else {"y": np.asarray(each, np.float32)} for each in side]
        for side in (before, after)
    ]
    given = None if labels is None else np.asarray(labels)
    return Metric.parse(text, output).score(sides[0], sides[1], given, relative)


def one_hot(classes: Sequence[int], width: int = 4) -> Array:
    return np.eye(width, dtype=np.float32)[list(classes)]


def judged(budget: Budget, before: Array, after: Array, labels: Array | None = None) -> Judgement:
    return budget.judge([Sample(Feed({}, "test"), {"y": before}, labels)], [{"y": after}])


@pytest.mark.parametrize(
    ("text", "shown", "k"),
    [("top1", "top1", 1), ("top5", "top5", 5), ("topk=3", "top3", 3), ("TopK", "top5", 5), ("top-1", "top1", 1),
     ("cosine", "cosine", 1), ("f1", "f1", 1)],
)  # fmt: skip
def test_metrics_are_read_from_text(text: str, shown: str, k: int) -> None:
    metric = Metric.parse(text)
    assert (str(metric), metric.k) == (shown, k)
    assert Metric.parse(str(metric)) == metric


@pytest.mark.parametrize("text", ["accuracy", "top0", "top", "", "f1=3"])
def test_unknown_metrics_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"there is no metric .*; it is one of top1, topk=5, cosine"):
        Metric.parse(text)


def test_top1_by_labels_and_by_agreement() -> None:
    before, after = [one_hot([0, 1]), one_hot([2, 3])], [one_hot([0, 1]), one_hot([2, 0])]
    found = score("top1", before, after, [0, 1, 2, 2])
    assert (found.before, found.after, found.against, found.count) == (0.75, 0.75, "labels", 4)
    found = score("top1", before, after, [0, 1, 2, 3])
    assert (found.before, found.after, found.drop, found.relative) == (1.0, 0.75, 0.25, True)
    found = score("top1", before, after)
    assert (found.before, found.after, found.drop, found.against) == (1.0, 0.75, 0.25, "original")


def test_a_relative_drop_is_a_share_of_the_originals_score() -> None:
    before, after = [one_hot([0, 1, 2, 0])], [one_hot([0, 1, 0, 0])]
    labels = [0, 1, 2, 3]
    assert score("top1", before, after, labels).drop == pytest.approx(1 / 3)
    assert score("top1", before, after, labels, relative=False).drop == pytest.approx(0.25)


def test_topk_counts_the_label_among_the_highest() -> None:
    scores = np.array([[4, 3, 2, 1], [1, 2, 3, 4], [np.nan] * 4], np.float32)
    labels = [1, 0, 0]
    assert score("topk=2", [scores], [scores], labels).after == pytest.approx(1 / 3, abs=0.34)
    assert score("topk=2", [scores[:2]], [scores[:2]], labels[:2]).after == 0.5
    assert score("topk=4", [scores[:2]], [scores[:2]], labels[:2]).after == 1.0
    assert score("topk=2", [scores[:2]], [scores[:2][:, ::-1]]).after == 0.0


def test_classes_lie_along_axis_one_of_images_and_last_of_the_rest() -> None:
    maps = np.zeros((2, 3, 4, 5), np.float32)
    maps[:, 2] = 1
    assert score("top1", [maps], [maps], np.full((2, 4, 5), 2)).after == 1.0
    tokens = np.moveaxis(maps[:, :, 0], 1, -1)
    assert score("top1", [tokens], [tokens], np.full((2, 5), 2)).after == 1.0
    assert score("top1", [{"y": np.array([1, 2])}], [{"y": np.array([1, 3])}], [1, 2]).after == 0.5


def test_f1_is_the_mean_over_classes() -> None:
    truth, predicted = [0, 0, 1, 2], [0, 1, 1, 1]
    found = score("f1", [one_hot(truth)], [one_hot(predicted)], truth)
    assert found.before == 1.0
    assert found.after == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert score("f1", [one_hot(truth)], [one_hot(predicted)]).drop == pytest.approx(1 - found.after)


def test_cosine_is_the_mean_over_samples() -> None:
    before = [np.array([[1, 0], [0, 2]], np.float32), np.zeros((1, 2), np.float32)]
    after = [np.array([[3, 0], [2, 0]], np.float32), np.zeros((1, 2), np.float32)]
    found = score("cosine", before, after)
    assert found.count == 3
    assert found.after == pytest.approx(2 / 3)
    assert found.drop == pytest.approx(1 / 3)


def test_mse_and_psnr_against_the_original() -> None:
    before = np.array([[3.0, -4.0]])
    after = before + np.array([[0.03, 0.04]])
    found = score("mse", [before], [after])
    assert found.drop == pytest.approx(1e-4, rel=1e-3)
    assert not found.higher_is_better
    share = math.sqrt(0.0025 / 2) / 4
    found = score("psnr", [before], [after])
    assert found.after == pytest.approx(-20 * math.log10(share), rel=1e-3)
    assert found.before == math.inf
    assert found.drop == pytest.approx(share, rel=1e-3)
    assert score("psnr", [before], [before]).drop == 0


def test_mse_and_psnr_against_labels() -> None:
    target, before, after = np.zeros((2, 2)), np.full((2, 2), 0.1), np.full((2, 2), 0.2)
    found = score("mse", [before], [after], target)
    assert [found.before, found.after, found.drop] == pytest.approx([0.01, 0.04, 3])
    assert score("mse", [before], [after], target, relative=False).drop == pytest.approx(0.03)
    peak = score("psnr", [before], [after], target + 1)
    assert [peak.before, peak.after] == pytest.approx([0.915, 1.938], rel=1e-2)
    assert peak.drop < 0
    with pytest.raises(UsageError, match=r"labels do not fit the output: labels are \[2\], an output \[2, 2\]"):
        score("mse", [before], [after], [1, 2])


@pytest.mark.parametrize("text", ["cosine", "mse", "psnr"])
def test_what_is_not_finite_is_outside_every_budget(text: str) -> None:
    before = np.array([[1.0, 2.0, np.nan]], np.float32)
    budget = Budget.parse("99%", text)
    assert not judged(budget, before, before).reason
    for broken in (np.nan, np.inf):
        assert judged(budget, before, np.array([[1.0, broken, np.nan]], np.float32)).reason


def test_functions_see_all_outputs(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "def worst(outputs, labels, reference):\n"
        "    return -max(abs(o['y'] - r['y']).max() + abs(labels).max() for o, r in zip(outputs, reference))\n"
        "def broken(outputs, labels, reference):\n    return outputs[0]['gone']\n"
        "def nothing(outputs, labels, reference):\n    return float('nan')\n",
        encoding="utf-8",
    )
    found = score(f"{tmp_path}/m.py:worst", [[1.0]], [[1.5]], [2.0], relative=False)
    assert (found.before, found.after, found.drop) == (-2.0, -2.5, 0.5)
    with pytest.raises(UsageError, match=r"m.py:broken: the metric fails: KeyError: 'gone'"):
        score(f"{tmp_path}/m.py:broken", [[1.0]], [[1.5]])
    with pytest.raises(UsageError, match="gives NaN for the original"):
        score(f"{tmp_path}/m.py:nothing", [[1.0]], [[1.5]])
    with pytest.raises(UsageError, match=r"the metric cannot be loaded.*has no gone"):
        Metric.parse(f"{tmp_path}/m.py:gone")


def test_the_output_is_the_first_of_floats_or_the_one_named() -> None:
    outputs = {"ids": np.array([1, 2]), "logits": one_hot([1, 2])}
    assert score("cosine", [outputs], [outputs]).output == "logits"
    assert score("top1", [outputs], [outputs], output="ids").output == "ids"
    with pytest.raises(UsageError, match="the model has no output y; its outputs are ids, logits"):
        score("top1", [outputs], [outputs], output="y")
    with pytest.raises(UsageError, match="top5 cannot be computed: the output holds class numbers"):
        score("top5", [outputs], [outputs], output="ids")
    with pytest.raises(UsageError, match=r"an output \[2\] has no axis of classes; name an output of scores"):
        score("top1", [[1.0, 2.0]], [[1.0, 2.0]])


@pytest.mark.parametrize("labels", [[0], [[0], [1]], [0, 1, 2]])
def test_labels_that_do_not_fit(labels: Any) -> None:
    with pytest.raises(UsageError, match=r"labels do not fit top1.*labels are class numbers, one per sample"):
        score("top1", [one_hot([0, 1])], [one_hot([0, 1])], labels)


# --- budget


@pytest.mark.parametrize(
    ("drop", "metric", "wanted", "shown"),
    [
        ("0.5%", None, Budget(0.005), "0.5%"),
        ("0.005", None, Budget(0.005), "0.5%"),
        (0.005, None, Budget(0.005), "0.5%"),
        ("0.5%", "top1", Budget(0.005, True, Metric("top1")), "0.5%"),
        ("0.005", "top1", Budget(0.005, False, Metric("top1")), "0.005"),
        (3, "psnr", Budget(3.0, False, Metric("psnr")), "3"),
        (0, None, Budget(0.0), "0%"),
    ],
)
def test_budgets_are_read_from_text(drop: float | str, metric: str | None, wanted: Budget, shown: str) -> None:
    assert Budget.parse(drop, metric) == wanted
    assert str(wanted) == shown


@pytest.mark.parametrize(
    ("drop", "metric"), [("100%", "top1"), ("1", None), (-1, "psnr"), ("nan", None), ("much", None), (True, "top1")]
)
def test_drops_out_of_range(drop: Any, metric: str | None) -> None:
    with pytest.raises(UsageError, match=r"max_drop .* is out of range"):
        Budget.parse(drop, metric)


def test_an_output_without_a_metric_is_refused() -> None:
    with pytest.raises(UsageError, match="no metric; name one with --metric"):
        Budget.parse("1%", None, "y")


def test_without_a_metric_outputs_must_be_close_and_labels_hit() -> None:
    before = one_hot([0, 1, 2, 3]) + 0.01 * np.arange(4, dtype=np.float32)
    labels = np.array([0, 1, 2, 3])
    same = judged(Budget(), before, before.copy(), labels)
    assert (same.reason, same.score) == ("", None)
    assert same.accuracy is not None
    assert (same.accuracy.before, same.accuracy.after, same.accuracy.count) == (1.0, 1.0, 4)
    assert "cosine similarity" in judged(Budget(), before, before[::-1]).reason
    far = judged(Budget(0.9), before, one_hot([1, 1, 2, 3]) / 2 + before / 2, labels)
    assert far.reason == ""
    worse = judged(Budget(0.2), before, before - 1.2 * one_hot([0, 4, 4, 4], 5)[:, :4], labels)
    assert worse.reason == "accuracy falls from 1.0000 to 0.7500, more than 0.2"


def test_with_a_metric_only_the_metric_counts() -> None:
    before, labels = one_hot([0, 1, 2, 3]), np.array([0, 1, 2, 3])
    scaled = judged(Budget.parse("1%", "top1"), before, 5 * before, labels)
    assert scaled.reason == ""
    assert scaled.quality is not None
    assert scaled.quality.relative_error > 1
    assert scaled.accuracy is None
    wrong = judged(Budget.parse("0.2", "top1"), before, one_hot([0, 1, 2, 2]), labels)
    assert wrong.reason == "top1 falls from 1 to 0.75: 0.25 is lost and 0.2 may be"
    assert judged(Budget.parse("0.25", "top1"), before, one_hot([0, 1, 2, 2]), labels).reason == ""
    less = judged(Budget.parse("10%", "mse"), before, 2 * before, before)
    assert "mse rises from 0 to 0.25: inf % is lost and 10 % may be" in less.reason


def test_outputs_that_do_not_belong_together() -> None:
    with pytest.raises(VerifyError, match="cannot compare"):
        judged(Budget.parse("1%", "top1"), one_hot([0]), one_hot([0, 1]))
    empty = Budget.parse("1%", "top1").judge([], [])
    assert (empty.reason, empty.score) == ("", None)


def test_what_to_say_before_anything_is_judged() -> None:
    outputs = {"a": one_hot([0, 1]), "b": one_hot([0, 1])}
    sample = Sample(Feed({}, "test"), outputs)
    assert Budget().check([sample]) == ""
    told = Budget.parse("1%", "top1").check([sample])
    assert told == "there are no labels, so top1 of output a is how far a result agrees with the original"
    labelled = Sample(Feed({}, "test"), outputs, np.array([0, 1]))
    assert "of output a, by the labels of 2 samples" in Budget.parse("1%", "top1").check([labelled])
    with pytest.raises(UsageError, match="labels do not fit"):
        Budget().check([Sample(Feed({}, "test"), outputs, np.array([0]))])


@pytest.mark.parametrize("text", ["top1", "top3", "f1", "cosine", "mse", "psnr"])
def test_outputs_without_elements(text: str) -> None:
    empty, some = np.zeros((0, 4), np.float32), one_hot([1, 2])
    with pytest.raises(UsageError, match="output y is empty on all samples"):
        score(text, [empty], [empty])
    assert score(text, [empty, some], [empty, some]).drop == 0


def test_a_perfect_original_loses_all_or_nothing() -> None:
    labels = one_hot([1, 2])
    assert score("psnr", [labels], [labels], labels).drop == 0
    assert score("psnr", [labels], [labels + 0.1], labels).drop == math.inf


@pytest.mark.parametrize(("decided", "outside"), [(frozenset({"y"}), True), (frozenset[str](), False)])
def test_rows_of_probabilities_must_decide_alike(decided: frozenset[str], outside: bool) -> None:
    before = np.tile(np.array([[0.51, 0.49]], np.float32), (10, 1))
    after = before.copy()
    after[0] = before[0, ::-1]
    sample = Sample(Feed({}, "test"), {"y": before}, decided=decided)
    reason = Budget(0.01).judge([sample], [{"y": after}]).reason
    assert ("10 % of the rows have another highest element" in reason) is outside
    assert Budget(0.1).judge([sample], [{"y": after}]).reason == ""


def test_what_is_computed_for_padding_does_not_count() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.int64)
    before = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    after = before.copy()
    after[mask == 0] += 100
    pooled = before.mean(axis=1)

    def drop(mask: Array, changed: Array) -> float:
        sample = Sample(Feed({"attention_mask": mask}, "test"), {"y": before, "z": pooled})
        quality = Budget(0.01).judge([sample], [{"y": changed, "z": pooled}]).quality
        assert quality is not None
        return 1 - quality.cosine

    assert drop(mask, after) == pytest.approx(0, abs=1e-6)
    assert drop(np.ones_like(mask), after) > 0.1
    assert drop(mask * 2, after) > 0.1
    after[0, 0] += 100
    assert drop(mask, after) > 0.1


@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_lost_is_within_the_budget_exactly_when_there_is_no_reason(labelled: bool) -> None:
    rng = np.random.default_rng(0)
    before = rng.random((50, 3)).astype(np.float32)
    labels = before.argmax(axis=1) if labelled else None
    for size in (0.0, 0.01, 0.05, 0.2, 1.0):
        after = before + size * rng.standard_normal(before.shape).astype(np.float32)
        sample = Sample(Feed({}, "test"), {"y": before}, labels, decided=frozenset({"y"}))
        for drop in (0.0, 0.001, 0.02, 0.1, 0.5):
            found = Budget(drop).judge([sample], [{"y": after}])
            assert (found.lost <= drop + 1e-9) is not bool(found.reason)
