"""What is said of results, in sentences that are the same on a terminal and on a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Literal

from accelc.measure import TOLERANCE, Comparison

if TYPE_CHECKING:
    from accelc.blocks import BlockCount
    from accelc.metrics import Score
    from accelc.placement import Placement
    from accelc.report import Report
    from accelc.verdict import Verdict

Tone = Literal["good", "bad", "caution", "quiet", ""]


@dataclass(frozen=True)
class Said:
    """A sentence and how it is meant."""

    text: str
    tone: Tone = ""


def change(before: float, after: float) -> Said:
    """The relative change; less is good."""
    if before == after:
        return Said("-", "quiet")
    if not before:
        return Said(f"+{after:,}", "bad")
    share = 100 * (after - before) / before
    shown = f"{share:+.1f} %" if abs(share) >= 0.05 else f"{share:+.2g} %"
    return Said(shown, "good" if share < 0 else "bad")


# --- of a report -----------------------------------------------------------------------------------------------------


@dataclass
class Work:
    """What one pass did over all its runs. nodes: how many more there are after it."""

    changes: int = 0
    seconds: float = 0.0
    nodes: int = 0
    bytes: int = 0
    rules: Counter[str] = field(default_factory=Counter)


def by_pass(found: Report) -> dict[str, Work]:
    """The work of each pass, in the order of their first runs."""
    shares: dict[str, Work] = {}
    nodes, weight_bytes = found.before.nodes, found.before.weight_bytes
    for record in found.passes:
        share = shares.setdefault(record.text, Work())
        share.seconds += record.seconds
        if record.changes:
            share.changes += record.changes
            share.nodes += record.nodes - nodes
            share.bytes += record.bytes - weight_bytes
            nodes, weight_bytes = record.nodes, record.bytes
        share.rules.update({each.rule: each.fired for each in record.rules if each.fired})
    return shares


def block_count(kind: str, have: BlockCount) -> str:
    """attention 5 of 6, or with what is neither fused nor in parts: norm 5 of 6 (3 by the runtime, 1 gone)."""
    apart = [f"{have.runtime} by the runtime"] if have.runtime else []
    apart += [f"{have.gone} gone"] if have.gone else []
    return f"{kind} {have.fused + have.runtime} of {have.found}" + (f" ({', '.join(apart)})" if apart else "")


def numbers(verdict: Verdict, *, of: str = "the original") -> list[Said]:
    """What the comparison of numbers found, one line each. of: whose numbers are the reference."""
    if verdict.status == "skipped":
        return [Said(f"not compared: {verdict.reason}", "caution")]
    if verdict.status == "same" and not verdict.samples:
        return [Said("nothing changed, so there is nothing to compare", "good")]
    on = f"on {verdict.samples} set{'s' if verdict.samples != 1 else ''} of inputs"
    quality = [Said(str(verdict.quality))] if verdict.quality is not None else []
    if verdict.status == "same":
        if verdict.quality is None or verdict.quality.relative_error == 0:
            return [Said(f"equal to those of {of} {on}", "good")]
        rounding = f"({verdict.quality.relative_error:.1e})"
        return [Said(f"equal to those of {of} up to rounding {rounding} {on}", "good")]
    if verdict.status == "reported":
        return [Said(f"changed on purpose, so only reported, {on}", "caution"), *quality]
    if verdict.status == "within budget":
        return [Said(f"inside the quality budget {on}", "good"), *quality]
    return [Said(f"{verdict.status}: {verdict.reason}", "bad"), *(quality if verdict.status == "over budget" else [])]


def judged(verdict: Verdict) -> list[tuple[str, Said]]:
    """What labels and the metric say of a result, each with its name."""
    said: list[tuple[str, Said]] = []
    if verdict.accuracy is not None:
        had, has = verdict.accuracy.before, verdict.accuracy.after
        shown = f"{100 * had:.2f} % before, {100 * has:.2f} % after, on {verdict.accuracy.count:,} labels"
        said.append(("accuracy", Said(shown, "good" if has >= had else "caution")))
    if verdict.score is not None:
        said.append(("metric", metric(verdict.score, verdict.limit)))
    return said


def metric(score: Score, limit: str) -> Said:
    """What the chosen metric says of the result. limit: the drop that is allowed."""
    of = f" of {score.output}" if score.output else ""
    against = f"on {score.count:,} labels" if score.against == "labels" else "against the original's outputs"
    lost = f"{100 * score.drop:.3g} %" if score.relative else f"{score.drop:.3g}"
    shown = f"{score.metric}{of} {score.before:.5g} before, {score.after:.5g} after, {against}; lost {lost} of {limit}"
    return Said(shown, "good" if score.drop <= 0 else "caution")


def latency(timed: Comparison) -> list[Said]:
    """What the timing against the original found."""
    words = {"faster": "faster", "slower": "slower", "same": no_difference(is_near(timed.low, timed.high))}
    bounds = f", 95 % interval {timed.low:.3f} to {timed.high:.3f}" if isfinite(timed.high) else ""
    shown = f"{timed.ratio:.3f} times as fast{bounds}: {words[timed.verdict]}"
    return [
        Said(shown, "good" if timed.verdict == "faster" else ""),
        Said(f"medians of {timed.rounds} interleaved rounds", "quiet"),
    ]


def is_near(low: float, high: float) -> bool:
    """Whether the whole interval of a ratio lies within the tolerance."""
    return low >= 1 - TOLERANCE and high <= 1 + TOLERANCE


def no_difference(near: bool) -> str:
    """What the verdict same means. near: as `is_near` says."""
    return f"no difference beyond {100 * TOLERANCE:.0f} %" if near else "no difference that is certain"


def unrun(found: Report) -> Said:
    """Operators that could not be run."""
    shown = ", ".join(f"{name} {count}" for name, count in found.unrun.items())
    return Said(f"{sum(found.unrun.values())} operators could not be run here: {shown}", "caution")


def placement(found: Placement, most: int) -> list[Said]:
    """Where the nodes will run, and the first of those that will not run on the target."""
    lines = [Said(str(found), "caution" if found.strays or found.copied or found.unknown else "good")]
    lines += [Said(f"{stray.node} ({stray.operator}): {stray.reason}") for stray in found.strays[:most]]
    more = len(found.strays) - most
    return [*lines, Said(f"and {more} more", "quiet")] if more > 0 else lines


def nothing_done(found: Report) -> str:
    """Why there are no changes."""
    if found.level == 0:
        return "-O0 only reads, repairs, checks and writes"
    if found.refused:
        return "everything that was found had to be undone; the original is kept"
    name = f"-O{found.level}" if found.level is not None else "this pipeline"
    return f"{name} finds nothing to change in this model"


def skipped(found: Report) -> list[str]:
    """Passes that did not run, by reason, those that were refused aside."""
    refused = {refusal.name for refusal in found.refused}
    grouped: dict[str, list[str]] = {}
    for name, reason in {record.name: record.skipped for record in found.passes if record.skipped}.items():
        if name not in refused:
            grouped.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in grouped.items()]


def listed(names: Sequence[str], most: int) -> str:
    """The first few of a list in words, and how many more."""
    return ", ".join(names[:most]) + (f", {len(names) - most} more" if len(names) > most else "")
