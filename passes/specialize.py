"""Fix dynamic input dimensions to numbers, as `--shape input_ids=1x128` and `--shape batch=1` ask."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from accelc import ir, structure, symbolic
from accelc.context import Context
from accelc.errors import UsageError
from accelc.infer import infer_model
from accelc.pass_base import Pass, PassResult

_KEEP = "?"
_WORD = re.compile(r"[^\W\d][\w.]*")


@dataclass(frozen=True)
class Specialize(Pass):
    """Fix dynamic input dimensions to numbers; the model then takes inputs of these sizes only.

    shapes: "input_ids=1x128, batch=2" names inputs with all their dimensions, or symbols with a number; "?" keeps a
    dimension, and a symbol's own name keeps it too. What `--shape` gives is added.
    """

    name: ClassVar[str] = "specialize"
    shapes: str = ""

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        wanted = {**parse_shapes(self.shapes), **ctx.settings.shapes}
        if not wanted:
            return PassResult(skipped="no shapes were given")
        plan = _Plan(model)
        for name, dims in wanted.items():
            plan.add(name, dims)
        if not plan.sizes and not plan.unnamed:
            return PassResult(notes=("every dimension given was fixed already",))
        if not ctx.spend("specialize", f"inputs {', '.join(wanted)}"):
            return PassResult()
        plan.apply()
        infer_model(model)
        _fix_outputs(model, symbolic.walk(model))
        ctx.contract = structure.contract(model)
        shown = [f"{symbol}={size}" for symbol, size in plan.sizes.items()]
        shown += [f"{value.name}[{axis}]={size}" for (value, axis), size in plan.unnamed.items()]
        return PassResult(len(shown), notes=(f"the model now takes fixed sizes only: {', '.join(shown)}",))


def parse_shapes(text: str) -> dict[str, list[int | str]]:
    """{"input_ids": [1, 128], "batch": [2]} from "input_ids=1x128, batch=2".

    Raises UsageError for what is no such text.
    """
    found: dict[str, list[int | str]] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, equals, dims = part.rpartition("=")
        sizes = [_size(each.strip()) for each in dims.split("x")]
        if not equals or not name.strip() or "" in sizes:
            raise UsageError(f"cannot read the shape {part!r}", hint="write input=1x128 or symbol=1")
        found[name.strip()] = sizes
    return found


def _size(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


class _Plan:
    """Which symbols get which sizes, and which input dimensions without a name do. Nothing changes before `apply`."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.sizes: dict[str, int] = {}
        self.unnamed: dict[tuple[ir.Value, int], int] = {}
        self.inputs = {str(value.name): value for value in model.graph.inputs if not value.is_initializer()}
        dims = (dim for value in self.inputs.values() for dim in ir.dims(value) or ())
        self.symbols = {dim for dim in dims if isinstance(dim, str) and dim}

    def add(self, name: str, wanted: Sequence[int | str]) -> None:
        """Plan for one request. Raises UsageError when it does not fit the model or an earlier request."""
        if name in self.inputs:
            self._input(name, wanted)
        elif name in self.symbols and len(wanted) == 1:
            self._dim(f"symbol {name}", name, wanted[0], None)
        elif name in self.symbols:
            raise UsageError(f"the symbol {name} is one dimension", where=_shape_text(name, wanted))
        else:
            known = [*self.inputs, *sorted(self.symbols)]
            close = difflib.get_close_matches(name, known, 3) or known
            raise UsageError(
                f"the model has no input or symbol {name}",
                where=_shape_text(name, wanted),
                hint=f"it has {', '.join(close)}" if known else "it has no inputs",
            )

    def _input(self, name: str, wanted: Sequence[int | str]) -> None:
        value = self.inputs[name]
        dims, where = ir.dims(value), _shape_text(name, wanted)
        if dims is None:
            raise UsageError(f"input {name} has no known rank, so its shape cannot be fixed", where=where)
        if len(dims) != len(wanted):
            shown = "x".join(str(_KEEP if dim is None else dim) for dim in dims) or "no dimensions"
            raise UsageError(
                f"input {name} has {len(dims)} dimensions, not {len(wanted)}", where=where, hint=f"it is {shown}"
            )
        for axis, (dim, size) in enumerate(zip(dims, wanted, strict=True)):
            self._dim(f"dimension {axis} of input {name}", dim, size, (value, axis))

    def _dim(self, what: str, dim: ir.Dim, wanted: int | str, place: tuple[ir.Value, int] | None) -> None:
        if isinstance(wanted, str) and not wanted.isdecimal():
            if wanted != _KEEP and wanted != dim:
                raise UsageError(f"{what} cannot become {wanted!r}", hint="give a number, or ? to keep it")
            return
        size = int(wanted)
        if size < 0:
            raise UsageError(f"{what} cannot be {size}", hint="give a number, or ? to keep it")
        fixed = dim if isinstance(dim, int) and dim >= 0 else self.sizes.get(dim) if isinstance(dim, str) else None
        if fixed is not None and fixed != size:
            raise UsageError(f"{what} is {fixed}, not {size}")
        if isinstance(dim, str) and dim:
            self.sizes[dim] = size
        elif fixed is None and place is not None:
            self.unnamed[place] = size

    def apply(self) -> None:
        """Put the sizes in place of their symbols everywhere in the main graph and the graphs inside it."""
        ports = {*self.model.graph.inputs, *self.model.graph.outputs}
        for value in _values(self.model.graph):
            dims = ir.dims(value)
            if dims is None:
                continue
            inner = value.is_graph_input() and value not in ports
            new = [self._replaced(dim, forget=inner) for dim in dims]
            if new != list(dims):
                value.shape = ir.Shape(new)
        for (value, axis), size in self.unnamed.items():
            declared: list[ir.Dim] = list(ir.dims(value) or ())
            declared[axis] = size
            value.shape = ir.Shape(declared)

    def _replaced(self, dim: ir.Dim, *, forget: bool) -> ir.Dim:
        """A dimension under the sizes. Names made of a fixed symbol, such as 12*batch, are left to inference again."""
        if not isinstance(dim, str):
            return dim
        if dim in self.sizes:
            return None if forget else self.sizes[dim]
        stale = dim not in self.symbols and any(word in self.sizes for word in _WORD.findall(dim))
        return None if stale else dim


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    for inner in ir.nested(graph):
        yield from inner.inputs
        for node in inner:
            yield from node.outputs


def _fix_outputs(model: ir.Model, facts: symbolic.Facts) -> None:
    """Declare the output dimensions that are numbers now."""
    for value in model.graph.outputs:
        dims, found = ir.dims(value), facts.shape(value)
        if dims is None or found is None or len(dims) != len(found):
            continue
        pairs = zip(dims, found, strict=True)
        new = [size if isinstance(size, int) and not isinstance(dim, int) else dim for dim, size in pairs]
        if new != list(dims):
            value.shape = ir.Shape(new)


def _shape_text(name: str, wanted: Sequence[int | str]) -> str:
    return f"shape {name}={'x'.join(str(each) for each in wanted)}"
