"""The trade-off between speed and quality that quantization found, as JSON or as a page for people (`--pareto`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelc.errors import UsageError
from accelc.pages.pareto import page
from accelc.report import Report
from accelc.textfile import check_writable, write_text

SCHEMA = "accelc.pareto/1"
_PASS = "quantize"
_FORMATS = (".html", ".json")


def check_pareto(path: Path) -> None:
    """Raise UsageError when a curve cannot be written to a file of this name."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError("the curve cannot be written", where=str(path), hint="name a file in .html or .json")
    check_writable(path, "the curve")


def write_pareto(path: Path, reports: Sequence[Report], budget: float | None = None) -> None:
    """Write the curves of one or several targets. budget: what quality might cost, as the points' `drop` counts it.

    .json: {"schema": "accelc.pareto/1", "curves": [...]}, see `curve`. .html: one file that needs nothing else.
    Raises UsageError when the file cannot be written.
    """
    check_pareto(path)
    curves = [curve(report, budget) for report in reports]
    if path.suffix.lower() == ".json":
        text = json.dumps({"schema": SCHEMA, "curves": curves}, indent=2, allow_nan=False) + "\n"
    else:
        text = page(curves)
    write_text(path, text, "the curve")


def curve(report: Report, budget: float | None = None) -> dict[str, Any]:
    """One target's curve as plain data.

    source, output, target, pipeline: as in the report. budget: a share or None. points: as the pass quantize gives
    them, each with label, units, quality, drop, inside, reason, ratio, low, high, estimated, bytes, chosen and front.
    reason: why there are none, else empty.
    """
    body = report.to_dict()
    points: list[Mapping[str, Any]] = []
    for record in body["passes"]:
        if record["name"] == _PASS:
            points = record["details"].get("curve") or points
    named = {name: body[name] for name in ("source", "output", "target", "pipeline")}
    return {**named, "budget": budget, "points": points, "reason": "" if points else _why_none(report)}


def _why_none(report: Report) -> str:
    """Why a report has no curve."""
    for refusal in report.refused:
        if refusal.name == _PASS:
            return str(refusal)
    runs = [record for record in report.passes if record.name == _PASS]
    if not runs:
        return "the pipeline does not run pass quantize; -O3 does, and accelc quantize"
    skipped = next((record.skipped for record in runs if record.skipped), "")
    return skipped or "pass quantize compared no candidates"
