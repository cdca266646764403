"""What was done and what was not, for the report, for --why and for the model's metadata."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from accelc import ir
from accelc.context import Context
from accelc.target import Target

from .gains import Gains
from .plan import Done, Form, Parts, Plan, Unit
from .prepare import Prepared
from .search import Outcome
from .trial import ratio_text

METADATA = "accelc.quantize"
_FOR_INTEGERS = frozenset({"adaround", "bias-correct", "clip", "equalize", "gptq", "smooth"})


def details(
    ready: Prepared,
    outcome: Outcome | None = None,
    gains: Gains | None = None,
    done: Done | None = None,
    curve: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """layers: every node considered, its form and why it is not in int8. curve: see passes/quantization/curve.py."""
    parts, done = ready.parts, done or Done()
    rows = gains.rows if gains is not None else {}
    reasons = outcome.reasons if outcome is not None else {}
    told = []
    for unit in parts.units:
        for path, form, index in _members(parts, unit, done):
            layer = parts.found.layers[index] if index is not None else None
            smooth = outcome is not None and index in outcome.plan.smooth and form == "dynamic"
            told.append(
                {
                    "node": path,
                    "shape": None if layer is None else [rows.get(layer.index), layer.k, layer.n],
                    "form": form,
                    "int8": form != "float",
                    "smoothed": smooth,
                    "reason": done.refused.get(path) or reasons.get(unit.index, ""),
                }
            )
    refused = [
        {"node": node, "form": "float", "int8": False, "reason": reason} for node, reason in ready.refused.items()
    ]
    return {"layers": told + refused, "curve": list(curve)} if curve else {"layers": told + refused}


def _members(parts: Parts, unit: Unit, done: Done) -> list[tuple[str, Form | str, int | None]]:
    """(path, form, position of the layer or None) of a unit's nodes."""
    static = {parts.static.nodes[i].node: i for i in unit.products}
    found: list[tuple[str, Form | str, int | None]] = []
    for i in unit.layers:
        layer = parts.found.layers[i]
        form: Form | str = done.layers.get(i, "float")
        if static.pop(layer.node, None) in done.static:
            form = "static"
        found.append((layer.path, form, i))
    found += [(parts.static.nodes[i].path, "static" if i in done.static else "float", None) for i in static.values()]
    return found


def notes(ready: Prepared, outcome: Outcome, done: Done) -> tuple[str, ...]:
    """What the report must say: the sum of it, what was not considered, how much is left in float."""
    parts = ready.parts
    forms = Counter(form for unit in parts.units for _, form, _ in _members(parts, unit, done))
    total, floats = sum(forms.values()), forms.pop("float", 0)
    names = {form: parts.schemes.text(form) for form in parts_forms(forms)}
    if set(names) <= {"dynamic", "table"}:
        names = {"dynamic": parts.schemes.text("dynamic")}
        shown = f"{total - floats} of {total} layers in int8 ({names['dynamic']}"
    else:
        shown = f"{total - floats} of {total} layers quantized ("
        shown += ", ".join(f"{forms[form]} {text}" for form, text in names.items())
    smoothed = sum(index in outcome.plan.smooth for index, form in done.layers.items() if form == "dynamic")
    said = [f"{shown}{f', {smoothed} smoothed' if smoothed else ''})"]
    if outcome.judged is not None and outcome.judged.quality is not None:
        said.append(str(outcome.judged.quality))
    if outcome.speed is not None:
        said.append(f"{ratio_text(outcome.speed)} times as fast")
    found = ["; ".join(said), *ready.notes, *outcome.notes]
    if outcome.judged is not None and outcome.judged.reason:
        found.append(f"outside the quality budget: {outcome.judged.reason}")
    return (*found, f"{floats} layer(s) left in float, see the details") if floats else tuple(found)


def stays(ctx: Context) -> tuple[str, ...]:
    """What to say of passes that prepared for integers when there are none in the end."""
    names = dict.fromkeys(each.name for each in ctx.records if each.name in _FOR_INTEGERS and each.changes)
    return (f"what {' and '.join(names)} changed stays, as it was asked for",) if names else ()


def parts_forms(counts: Mapping[str, int]) -> list[Form]:
    order: tuple[Form, ...] = ("static", "dynamic", "weight8", "weight4", "table")
    return [form for form in order if counts.get(form)]


def record(model: ir.Model, target: Target, parts: Parts, plan: Plan, done: Done) -> None:
    """Say in the model's metadata what was done, and for which processor; an earlier entry stays."""
    key, number = METADATA, 1
    while key in model.metadata_props:
        number += 1
        key = f"{METADATA}.{number}"
    forms: dict[str, list[str]] = {}
    for unit in parts.units:
        for path, form, _ in _members(parts, unit, done):
            if form != "float":
                forms.setdefault(form, []).append(_name(path))
    layers = parts.found.layers
    entry = {
        "scheme": "; ".join(parts.schemes.text(form) for form in parts_forms(dict.fromkeys(forms, 1))),
        "bits": parts.schemes.dynamic.bits,
        "isa": sorted(target.isa),
        "layers": [name for names in forms.values() for name in names],
        "forms": forms,
        "smoothed": [
            _name(layers[i].path) for i, form in done.layers.items() if i in plan.smooth and form == "dynamic"
        ],
    }
    model.metadata_props[key] = json.dumps(entry)


def _name(path: str) -> str:
    return path.removeprefix("node ").rpartition(" (")[0]
