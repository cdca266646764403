"""What happened, for people and scripts. The JSON form is versioned: fields are added, never renamed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelc.blocks import BlockCount
from accelc.decision_store import Decision
from accelc.measure import Comparison
from accelc.pass_base import PassRecord
from accelc.placement import Placement
from accelc.plain import plain
from accelc.size import Size
from accelc.verdict import Verdict

SCHEMA = "accelc.report/1"
SEVERAL = "accelc.reports/1"
"""Reports for several targets: `reports` holds one of SCHEMA each, `failures` says why a target has none."""


@dataclass(frozen=True)
class Refusal:
    """Something that was undone or not done. kind: rule or pass. gate: numbers, size, latency, structure."""

    kind: str
    name: str
    gate: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} was switched off ({self.gate}): {self.reason}"


@dataclass
class Report:
    """The result of one `optimize`.

    seconds: wall time by phase. latency: None when it was not measured. decisions: which of several graphs rules chose.
    unusable: why the target does not work on this machine, else empty. unrun: operators of the result that could not
    be run here, with their number. placement: where the runtime will run the nodes; None on the processor. blocks:
    those found and fused, by kind.
    """

    source: str
    output: str
    level: int | None
    pipeline: str
    target: str
    versions: Mapping[str, str]
    before: Size
    after: Size
    repairs: tuple[str, ...] = ()
    passes: Sequence[PassRecord] = ()
    refused: Sequence[Refusal] = ()
    notes: Sequence[str] = ()
    verdict: Verdict | None = None
    latency: Comparison | None = None
    latency_note: str = ""
    unusable: str = ""
    unrun: Mapping[str, int] = field(default_factory=dict)
    placement: Placement | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    patches: int = 0
    decisions: Sequence[Decision] = ()
    blocks: Mapping[str, BlockCount] = field(default_factory=dict)

    def changed(self) -> dict[str, PassRecord]:
        """What each pass did in total, in order of first run; passes that changed nothing are left out."""
        found: dict[str, PassRecord] = {}
        for record in self.passes:
            if not record.changes:
                continue
            have = found.get(record.text)
            if have is None:
                found[record.text] = dataclasses.replace(record)
            else:
                have.changes += record.changes
                have.seconds += record.seconds
                have.nodes, have.bytes = record.nodes, record.bytes
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data. Numbers that are not finite become null."""
        body = {each.name: plain(getattr(self, each.name)) for each in dataclasses.fields(self)}
        if self.latency is not None:
            body["latency"]["verdict"] = self.latency.verdict
        if self.placement is not None:
            body["placement"]["text"] = str(self.placement)
        if self.verdict is not None and self.verdict.quality is not None:
            quality = self.verdict.quality
            body["verdict"]["quality"] |= {
                name: plain(getattr(quality, name)) for name in ("cosine", "relative_error", "rmse_relative", "top1")
            }
        return {"schema": SCHEMA, **body}

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def to_html(self) -> str:
        """The report as one page that needs nothing else."""
        from accelc.pages.report import page

        return page(self)


def several_to_json(reports: Sequence[Report], failures: Mapping[str, str]) -> str:
    """Reports for several targets as JSON text. failures: target -> error."""
    body = {
        "schema": SEVERAL,
        "reports": [each.to_dict() for each in reports],
        "failures": [{"target": target, "error": error} for target, error in failures.items()],
    }
    return json.dumps(body, indent=2, allow_nan=False) + "\n"


def several_to_html(reports: Sequence[Report], failures: Mapping[str, str]) -> str:
    """Reports for several targets as one page. failures: target -> error."""
    from accelc.pages.report import page

    return page(reports, failures)
