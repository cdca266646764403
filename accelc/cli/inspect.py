"""`accelc inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from accelc.cli.common import Size, console, debug_option, emit_json, json_option, model_path

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from accelc.inspection import Inspection

EPILOG = """\b
Examples:
  accelc inspect model.onnx
  accelc inspect model.onnx --size batch=8 --size sequence=512
  accelc inspect model.onnx --json | jq .cost.flops

Operations are counted for one run: a multiplication with its addition is two. Dynamic dimensions get the size that is
usual for them (batch 1, sequence 128, image 224) unless --size gives another; the report says which.
"""


@click.command(epilog=EPILOG, short_help="Show what a model holds.")
@click.argument("model")
@click.option("--size", "sizes", type=Size(), multiple=True, metavar="NAME=N", help="Size of a symbolic dimension.")
@json_option
@debug_option
def inspect(model: str, sizes: tuple[tuple[str, int], ...], as_json: bool) -> None:
    """Show what MODEL holds: operators, parameters, types, inputs and outputs, operations of one run."""
    from accelc.inspection import SCHEMA, inspect_model

    found = inspect_model(model_path(model), dict(sizes))
    if as_json:
        emit_json(SCHEMA, found)
    else:
        _print(console(), found)


def _print(out: Console, found: Inspection) -> None:
    from accelc.cli import render

    out.print()
    out.print(render.text(found.path, "bold"), soft_wrap=True)
    out.print()
    out.print(render.facts(_facts(found)))
    for title, ports in (("input", found.inputs), ("output", found.outputs)):
        made = render.table(out, title, "type", "dimensions")
        for port in ports:
            made.add_row(render.text(port.name), port.type, _dims(port.dims) + (" optional" if port.optional else ""))
        if ports:
            out.print()
            out.print(made)
    out.print()
    made = render.table(out, "operator", "nodes", "operations", "share", numbers=(1, 2, 3))
    for name, count in found.size.operators.items():
        work = found.cost.by_operator.get(name)
        share = f"{100 * work / found.cost.flops:.1f} %" if work and found.cost.flops else ""
        made.add_row(render.text(name), f"{count:,}", _amount(work) if work else "", share)
    out.print(made)
    if found.types:
        out.print()
        made = render.table(out, "weights", "tensors", "parameters", "size", numbers=(1, 2, 3))
        for name, each in found.types.items():
            made.add_row(name, f"{each.tensors:,}", f"{each.elements:,}", render.size(each.bytes))
        out.print(made)
        out.print()
        made = render.table(out, "largest weights", "type", "dimensions", "size", numbers=(3,))
        for weight in found.largest[:5]:
            made.add_row(render.text(weight.name), weight.type, _dims(weight.dims), render.size(weight.bytes))
        out.print(made)
    out.print()


def _facts(found: Inspection) -> list[tuple[str, str | Text]]:
    from accelc.cli.render import block_count, size

    rows: list[tuple[str, str | Text]] = [
        ("nodes", f"{found.size.nodes:,}"),
        ("parameters", f"{found.size.parameters:,} in {found.weights:,} tensors, {size(found.size.weight_bytes)}"),
        ("size", size(found.bytes)),
        ("opset", ", ".join(f"{name} {version}" for name, version in found.opsets.items())),
        ("IR version", str(found.ir_version)),
    ]
    if found.producer:
        rows.append(("producer", found.producer))
    if found.cost.flops or found.cost.uncounted:
        with_sizes = f" with {_pairs(found.cost.assumed)}" if found.cost.assumed else ""
        rows.append(("operations", f"{_amount(found.cost.flops)}{with_sizes}"))
    if found.cost.uncounted:
        rows.append(("not counted", f"{_pairs(found.cost.uncounted, ' x')}: their shapes are not known"))
    if found.blocks:
        rows.append(("fused", ", ".join(block_count(kind, have) for kind, have in found.blocks.items())))
    if found.made:
        rows.append(("made by accelc", _pairs(found.made, " ", limit=12)))
    rows += [("data file", f"{name}, {size(count)} used") for name, count in found.external.items()]
    rows += [("function", f"{name}, {count} nodes") for name, count in found.functions.items()]
    if found.subgraphs:
        rows.append(("subgraphs", f"{_pairs(found.subgraphs, ' in ', flip=True)}, {found.depth} deep"))
    rows += [("metadata", f"{key} = {value}"[:200]) for key, value in found.metadata.items()]
    if found.doc:
        rows.append(("about", found.doc[:200]))
    return rows + [("repaired", each) for each in found.repairs]


def _pairs(found: Mapping[str, int], sign: str = "=", *, flip: bool = False, limit: int = 6) -> str:
    parts = [f"{value}{sign}{name}" if flip else f"{name}{sign}{value}" for name, value in found.items()]
    return ", ".join(parts[:limit]) + (f", {len(parts) - limit} more" if len(parts) > limit else "")


def _dims(dims: tuple[int | str | None, ...] | None) -> str:
    return "any" if dims is None else "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"


def _amount(number: int) -> str:
    """Operations with a prefix: 16.96 M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return str(number)
