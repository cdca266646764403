"""Conditions that rules share. Each takes a match and answers True or the reason why the rule may not fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelc import ir
from accelc.pattern import MICROSOFT

if TYPE_CHECKING:
    from accelc.rules import Guard, Match

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
INTEGERS = frozenset(
    {
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
    }
)


def opset_at_least(version: int) -> Guard:
    """The default domain is imported at this version or newer."""

    def guard(m: Match) -> bool | str:
        return m.opset >= version or f"needs opset {version}, the model has {m.opset}"

    return guard


def dtype_in(name: str, allowed: frozenset[ir.DataType] | set[ir.DataType]) -> Guard:
    """The type of a variable is known and one of these."""

    def guard(m: Match) -> bool | str:
        dtype = m.dtype(name)
        return dtype in allowed or f"{name} is {dtype}"

    return guard


def kernel(op_type: str, domain: str = MICROSOFT, **types: str) -> Guard:
    """The target runs this operator: its provider has the kernel, and vendor operators are allowed.

    types: variable that decides each of the kernel's type parameters, such as T="x".
    """

    def guard(m: Match) -> bool | str:
        wanted = {parameter: m.dtype(name) for parameter, name in types.items()}
        return m.ctx.allows(domain, op_type, m.opset, wanted)

    return guard


def known_equal(left: tuple[ir.Dim, ...], right: tuple[ir.Dim, ...]) -> bool:
    """Whether two shapes are surely equal: same rank, each dimension the same number or the same symbol."""
    return len(left) == len(right) and all(a == b and a is not None for a, b in zip(left, right, strict=True))
