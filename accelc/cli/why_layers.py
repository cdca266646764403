"""`--why quantize`: the layers that stay in float, why, and how to get them in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accelc.report import Report

PASS = "quantize"
_SHOWN = 20
_ADVICE = (
    (
        ("too sensitive",),
        "more calibration data, another --calibration-method, --method smooth or equalize, or a larger --max-drop",
    ),
    (
        ("float is faster alone", "slower with it", "nothing beats float"),
        "float is faster here; a scheme that is named, as --scheme dynamic, takes them in all the same",
    ),
    (("no calibration data",), "give --calibration: it is quantized with ranges from data only"),
    (("kept by keep", "shares a weight with a node that is kept"), "leave out --keep"),
    (("its input has an unknown rank", "the type of its input is unknown"), "fix the shapes of inputs with --shape"),
    (("DynamicQuantizeLinear needs opset",), "export the model at a newer opset"),
    (("too small to gain",), "nothing: rounding its input would take longer than the product"),
)
"""What to do, by how a reason begins."""
_STATIC_ONLY = frozenset({"Conv", "ConvTranspose"})
"""Operators that are quantized with ranges from data only."""


def lines(report: Report) -> Iterator[str]:
    """The answer, for a report whose pipeline has the pass."""
    runs = [record for record in report.passes if record.name == PASS]
    for refusal in report.refused:
        if refusal.name == PASS:
            yield f"{PASS}: {refusal}"
    if not runs:
        yield f"{PASS}: the pipeline does not run it; -O3 does, and accelc quantize"
        return
    run = runs[-1]
    layers: Sequence[Mapping[str, Any]] = run.details.get("layers", ())
    floats = [each for each in layers if each.get("form", "float") == "float"]
    forms = Counter(str(each["form"]) for each in layers if each.get("form", "float") != "float")
    shown = ", ".join(f"{count} {form}" for form, count in forms.most_common())
    if run.skipped:
        yield f"{PASS}: skipped: {run.skipped}"
    yield from (f"{PASS}: {note}" for note in run.notes if note.startswith("no calibration data"))
    if not layers:
        return
    yield f"{PASS}: {len(layers)} layers: {shown or 'none quantized'}{', ' * bool(floats)}" + (
        f"{len(floats)} in float:" if floats else ""
    )
    yield from _groups(floats, run.skipped)
    slower = [each for each in layers if each not in floats and each.get("reason")]
    if slower:
        yield "  not in their fastest form:"
        yield from _listed(slower, "")


def _groups(floats: Sequence[Mapping[str, Any]], skipped: str) -> Iterator[str]:
    """The layers by what can be done about them."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in floats:
        groups.setdefault(_advice(each, skipped), []).append(each)
    for advice, members in groups.items():
        yield from _listed(members, skipped)
        if advice:
            yield f"    to get {'it' if len(members) == 1 else f'these {len(members)}'} in: {advice}"


def _listed(layers: Sequence[Mapping[str, Any]], skipped: str) -> Iterator[str]:
    for each in layers[:_SHOWN]:
        shape = each.get("shape")
        size = f" [{', '.join('?' if dim is None else str(dim) for dim in shape)}]" if shape else ""
        yield f"  {each['node']}{size}: {_reason(each, skipped)}"
    if len(layers) > _SHOWN:
        yield f"  and {len(layers) - _SHOWN} more; --report FILE lists all"


def _reason(layer: Mapping[str, Any], skipped: str) -> str:
    reason = layer.get("reason") or skipped
    if reason:
        return str(reason)
    return "no form was possible" if _needs_data(layer) else "left out when the forms were chosen"


def _advice(layer: Mapping[str, Any], skipped: str) -> str:
    reason = layer.get("reason") or skipped
    for starts, advice in _ADVICE:
        if reason.startswith(starts):
            return advice
    return "give --calibration: it is quantized with ranges from data only" if _needs_data(layer) else ""


def _needs_data(layer: Mapping[str, Any]) -> bool:
    operator = str(layer["node"]).rpartition("(")[2].rstrip(")")
    return operator in _STATIC_ONLY and not layer.get("reason")
