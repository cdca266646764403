"""The sizes of inputs that a user asks for, checked against what a model takes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from accelc.benchmark.options import Shapes, shape_text
from accelc.data import Dim, InputSpec, Values
from accelc.data.dims import role_of
from accelc.errors import UsageError

_OPEN = "?"


@dataclass
class Sizes:
    """Sizes of dynamic dimensions: of named ones, and of those without a name by input and axis.

    Every method raises UsageError, without a place, for what the inputs do not take or what contradicts another size.
    """

    specs: tuple[InputSpec, ...]
    symbols: dict[str, int] = field(default_factory=dict)
    axes: dict[tuple[str, int], int] = field(default_factory=dict)

    def fix(self, shapes: Shapes) -> None:
        """Take the shapes of inputs and the sizes of symbols that a user names; "?" leaves a dimension open."""
        inputs = {spec.name: spec for spec in self.specs}
        symbols = {dim for spec in self.specs for dim in spec.shape or () if isinstance(dim, str)}
        for name, dims in shapes.items():
            if name in inputs:
                self._fix_input(inputs[name], dims)
            elif name in symbols and len(dims) == 1:
                self._set("", 0, name, dims[0])
            else:
                known = [*inputs, *sorted(symbols)]
                close = difflib.get_close_matches(name, known, 3) or known
                hint = f"it has {', '.join(close)}" if known else "it has no inputs"
                what = "is one dimension" if name in symbols else "is neither an input nor a symbol of the model"
                raise UsageError(f"{shape_text({name: dims}, None)}: {name} {what}", hint=hint)

    def _fix_input(self, spec: InputSpec, dims: Sequence[int | str]) -> None:
        if spec.shape is None or len(spec.shape) != len(dims):
            rank = "an unknown number of" if spec.shape is None else str(len(spec.shape))
            hint = "" if spec.shape is None else f"it is {_text(spec.shape)}"
            raise UsageError(f"input {spec.name} has {rank} dimensions, not {len(dims)}", hint=hint)
        for axis, (have, wanted) in enumerate(zip(spec.shape, dims, strict=True)):
            self._set(spec.name, axis, have, wanted)

    def fix_batch(self, batch: int) -> None:
        """Give every dimension that counts the items of a batch this size."""
        places = list(batch_places(self.specs))
        for spec, axis, dim in places:
            self._set(spec.name, axis, dim, batch)
        if places:
            return
        fixed = next((spec for spec in self.specs if spec.shape and spec.shape[0] != batch), None)
        if fixed is not None or not any(spec.shape for spec in self.specs):
            what = "the model has no batch" if fixed is None else f"input {fixed.name} is {_text(fixed.shape or ())}"
            hint = "leave the batch out, or export the model with a dynamic one"
            raise UsageError(f"{what}, a batch of {batch} is asked for", hint=hint)

    def follow(self, others: Sequence[InputSpec]) -> None:
        """Take sizes that another model fixes where this one leaves them open, so that both take the same inputs."""
        mine = {spec.name: spec.shape or () for spec in self.specs}
        for spec in others:
            have = mine.get(spec.name, ())
            if spec.shape is not None and len(have) == len(spec.shape):
                for axis, (dim, size) in enumerate(zip(have, spec.shape, strict=True)):
                    if isinstance(size, int) and not isinstance(dim, int) and self._of(spec.name, axis, dim) is None:
                        self._set(spec.name, axis, dim, size)

    def applied(self) -> tuple[InputSpec, ...]:
        """The inputs with these sizes in their shapes."""
        return tuple(
            spec
            if spec.shape is None
            else replace(spec, shape=tuple(self._final(spec.name, axis, dim) for axis, dim in enumerate(spec.shape)))
            for spec in self.specs
        )

    def _final(self, name: str, axis: int, dim: Dim) -> Dim:
        size = self._of(name, axis, dim)
        return dim if size is None else size

    def _of(self, name: str, axis: int, dim: Dim) -> int | None:
        if isinstance(dim, int):
            return dim
        return self.axes.get((name, axis)) if dim is None else self.symbols.get(dim)

    def _set(self, name: str, axis: int, dim: Dim, wanted: int | str) -> None:
        if not str(wanted).isdecimal():
            if wanted not in (_OPEN, dim):
                raise UsageError(f"a dimension of {name or dim} cannot be {wanted!r}", hint="give a number, or ?")
            return
        size, have = int(wanted), self._of(name, axis, dim)
        what = f"dimension {axis} of input {name}" if name else f"dimension {dim}"
        if have is not None and have != size:
            raise UsageError(f"{what} is {have}, {size} is asked for", hint="ask for one size that the model takes")
        if dim is None:
            self.axes[name, axis] = size
        elif isinstance(dim, str):
            self.symbols[dim] = size


def batch_places(specs: Sequence[InputSpec]) -> Iterator[tuple[InputSpec, int, Dim]]:
    """The dynamic dimensions that count the items of a batch."""
    for spec in specs:
        for axis, dim in enumerate(spec.shape or ()):
            if not isinstance(dim, int) and role_of(dim, axis, spec) == "batch":
                yield spec, axis, dim


def items_of(specs: Sequence[InputSpec], values: Values) -> int:
    """How many items a feed set holds: the size of its batch, 1 where inputs do not agree on one."""
    sizes = {np.shape(values[spec.name])[axis] for spec, axis, _ in batch_places(specs) if spec.kind == "tensor"}
    if not sizes:
        sizes = {spec.shape[0] for spec in specs if spec.shape and len(spec.shape) > 1}
    size = next(iter(sizes), None)
    return size if len(sizes) == 1 and isinstance(size, int) and size > 0 else 1


def _text(shape: Sequence[Dim]) -> str:
    return "x".join(_OPEN if dim is None else str(dim) for dim in shape) or "a scalar"
