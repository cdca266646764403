"""What the rules that compute new weights share: arithmetic in float64, and no growth of the file."""

from __future__ import annotations

from typing import Any

import numpy as np

from accelc import ir
from accelc.rules import Match

Array = np.ndarray[Any, Any]

NODE_BYTES = 64
"""What a node takes in a file at least; a new weight may be that much larger than what it replaces."""


def float64(array: Array) -> Array:
    """An array in the precision in which weights are combined."""
    return np.asarray(array, np.float64)


def rounded(m: Match, array: Array, like: Array) -> Array:
    """A combined weight in its own type again. A miss where it overflows that type."""
    with np.errstate(over="ignore"):
        made: Array = array.astype(like.dtype)
    m.require(np.isfinite(made.astype(np.float32)).all(), "the combined weight is not finite")
    return made


def require_own(m: Match, name: str) -> None:
    """A miss where a weight has other consumers: changing it would store it twice."""
    m.require(ir.use_count(getattr(m, name)) == 1, f"the weight {name} is used elsewhere too")


def require_no_growth(m: Match, new: Array, *replaced: str) -> None:
    """A miss where a new weight is larger than the weights that vanish with the match, by more than a node."""
    freed = 0
    for name in replaced:
        value = m[name]
        if value is not None and ir.use_count(value) == 1 and (tensor := ir.const_tensor(value)) is not None:
            freed += tensor.nbytes
    m.require(new.nbytes <= freed + NODE_BYTES, "the combined weight would make the file larger")


def optional(m: Match, name: str) -> Array | None:
    """The array of an optional input, None where it is absent. A miss where it is not constant."""
    return None if m[name] is None else m.const(name)


def per_channel(m: Match, name: str, rank: int, axis: int) -> Array:
    """A constant as float64 vector [n] or [1], where it varies along one axis of a tensor of this rank at most.

    A miss where it varies along another axis or would widen the result.
    """
    array = m.const(name)
    m.require(array.ndim <= rank, f"{name} would widen the result")
    shape = (1,) * (rank - array.ndim) + array.shape
    others = shape[:axis] + shape[axis + 1 :]
    m.require(all(size == 1 for size in others), f"{name} {list(array.shape)} is not one value per channel")
    return float64(array).reshape(-1)


def is_inner(m: Match) -> bool | str:
    """Guard for rules with `shared=True`: what is matched before the root has no consumer outside of the match."""
    matched = set(m.nodes)
    for node in m.nodes[1:]:
        if node is m.root:
            continue
        for value in node.outputs:
            if value.is_graph_output():
                return f"{value.name} is an output of the graph"
            if any(use.node not in matched for use in value.uses()):
                return f"{value.name} has a consumer outside of the match"
    return True
