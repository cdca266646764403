"""The mask of an attention block in the form that a kernel takes, with the same meaning for every row.

The forms differ in rows of which every position is masked. Scores of -inf give NaN there, and zeros behind a guard;
scores of a large negative number give the mean of v. The kernel of ai.onnx Attention gives zeros where a mask is
false, -inf or the lowest number of its type; com.microsoft MultiHeadAttention adds what it is given, whatever it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from accelc import ir
from accelc.guards import FLOATS, known_equal
from accelc.rules import Match

from .attention_block import Block, Choice

LOW = -1e37
"""Far below any score, so that masked positions weigh nothing and fully masked rows stay even; above the lowest float,
which the kernel of Attention takes for -inf."""
_NEVER = -1e4
"""A score as low as this weighs nothing beside any score of a working model."""
_DEEP = -1e37
"""Numbers below this may overflow together."""
_SEARCH = 10
_SELECTIONS = frozenset({"Gather", "GatherElements", "Slice", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand"})
_LOWEST = float(np.finfo(np.float32).min)


def attention_mask(m: Match, block: Block) -> ir.Value | None:
    """The mask for ai.onnx Attention, which gives zeros for rows that are fully masked. None without one."""
    if not block.masked:
        return None
    infinite = [choice for choice in block.choices if choice.low == -np.inf]
    if infinite and not block.guarded:
        m.fail("a fully masked row is NaN here, and zeros in Attention")
    if infinite and len(infinite) == len(block.choices) and not block.biases:
        return full(m, block, _conjunction(m, infinite))
    _require_float(m, block)
    require_no_overflow(m, block)
    terms = [_term(m, choice) for choice in block.choices]
    terms += [_harmless(m, block, bias) for bias in block.biases]
    return full(m, block, _sum(m, terms))


def added_bias(m: Match, block: Block) -> tuple[ir.Value | None, ir.Value | None]:
    """What com.microsoft MultiHeadAttention adds to the scores, and a factor for its result; each may be None.

    The factor [B, S, 1] is 0 for rows that are fully masked where these become zeros, else 1.
    """
    if not block.masked:
        return None, None
    _require_float(m, block)
    require_no_overflow(m, block)
    zeroed = [choice for choice in block.choices if choice.low == -np.inf] if block.guarded else []
    m.require(not zeroed or (len(block.choices) == 1 and not block.biases), "masks of several kinds behind a guard")
    terms = [_term(m, choice, LOW if choice in zeroed else None) for choice in block.choices]
    for bias in block.biases:
        m.require(not block.guarded or _lowest_element(bias) > -np.inf, f"{bias.name} may mask whole rows with -inf")
        terms.append(bias)
    return full(m, block, _sum(m, terms)), _alive(m, block, zeroed[0]) if zeroed else None


def _require_float(m: Match, block: Block) -> None:
    m.require(block.q.dtype == ir.DataType.FLOAT or not block.choices, "a mask that is added in half precision")


def require_no_overflow(m: Match, block: Block) -> None:
    """A miss where masks may add up to -inf, which rows that both mask then are: a single one is kept as it is."""
    lows = [choice.low for choice in block.choices if choice.low > -np.inf]
    deep = sum(low < _DEEP for low in lows) + sum(_is_deep(bias, _SEARCH) for bias in block.biases)
    m.require(deep <= 1 or len(block.choices) + len(block.biases) == 1, "masks that may add up to -inf")


def _is_deep(value: ir.Value, depth: int) -> bool:
    """Whether a mask may stand in a value: a number far below zero, or an input that may hold one.

    Products of activations count as scores, whatever they are.
    """
    if ir.is_constant(value):
        return _lowest_element(value) < _DEEP
    node = value.producer()
    if node is None or not depth:
        return True
    if node.op_type in ("MatMul", "Gemm") and not node.domain:
        return False
    sources = node.inputs[:1] if node.op_type in _SELECTIONS else node.inputs
    floats = [each for each in sources if each is not None and each.dtype in FLOATS]
    return any(_is_deep(each, depth - 1) for each in dict.fromkeys(floats))


def _low_of(m: Match, choice: Choice) -> float:
    """The number to add where a choice masks, so that the outcome is the same."""
    if choice.low == -np.inf:
        return choice.low
    if choice.added:
        return max(choice.low, LOW)
    m.require(choice.low <= _NEVER, f"scores become {choice.low:g}, which is not low enough to be added instead")
    return LOW


def _term(m: Match, choice: Choice, low: float | None = None) -> ir.Value:
    number = np.float32(_low_of(m, choice) if low is None else low)
    zero = np.float32(0)
    yes, no = (number, zero) if choice.flipped else (zero, number)
    made: ir.Value = m.op.Where(choice.allowed, np.asarray(yes), np.asarray(no))
    return made


def _conjunction(m: Match, choices: list[Choice]) -> ir.Value:
    """What all choices allow."""
    allowed: list[ir.Value] = [m.op.Not(each.allowed) if each.flipped else each.allowed for each in choices]
    total = allowed[0]
    for each in allowed[1:]:
        total = m.op.And(total, each)
    return total


def _sum(m: Match, terms: list[ir.Value]) -> ir.Value:
    total = terms[0]
    for each in terms[1:]:
        total = m.op.Add(total, each)
    return total


def _lowest_element(bias: ir.Value) -> float:
    """The smallest element of a constant; -inf where it is not constant or holds NaN."""
    array = ir.const(bias)
    if array is None or not array.size:
        return -np.inf
    lowest = float(array.min())
    return -np.inf if np.isnan(lowest) else lowest


def _harmless(m: Match, block: Block, bias: ir.Value) -> ir.Value:
    """A bias of which Attention takes nothing for a mask that was not one."""
    if _lowest_element(bias) > _LOWEST:
        return bias
    m.require(block.guarded, f"{bias.name} may mask whole rows, which are not zeros then")
    lowest, low = np.asarray(_LOWEST, np.float32), np.asarray(LOW, np.float32)
    made: ir.Value = m.op.Where(m.op.Equal(bias, lowest), low, bias)
    return made


def _alive(m: Match, block: Block, choice: Choice) -> ir.Value:
    """1 for each row [B, S, 1] with a position that is not masked, else 0."""
    allowed = m.op.Not(choice.allowed) if choice.flipped else choice.allowed
    shape = ir.dims(choice.allowed)
    m.require(shape is not None and len(shape) == 4 and shape[1] == 1, "the mask differs between heads")
    number = m.op.Cast(allowed, to=ir.DataType.FLOAT.value)
    largest = m.op.ReduceMax(number, axes=[3]) if m.opset < 18 else m.op.ReduceMax(number, [3])
    squeezed: ir.Value = m.op.Squeeze(largest, axes=[1]) if m.opset < 13 else m.op.Squeeze(largest, [1])
    return squeezed


# --- shapes ----------------------------------------------------------------------------------------------------------


def full(m: Match, block: Block, mask: ir.Value) -> ir.Value:
    """A mask with its last two dimensions written out, [.., S, T], as kernels ask for it, and of rank 4."""
    rows_, columns = (ir.dims(block.q) or ())[-2], (ir.dims(block.kt) or ())[-1]
    shape = ir.dims(mask)
    if shape is None:
        shape = _mask_shape(m, block, mask)
    wide = len(shape) >= 2 and known_equal(shape[-1:], (columns,))
    tall = len(shape) >= 2 and known_equal(shape[-2:-1], (rows_,))
    if wide and tall and len(shape) == 4:
        return mask
    parts: list[Any] = [1 if wide else length(m, columns, block.kt, -1)]
    parts.insert(0, 1 if tall else length(m, rows_, block.q, -2))
    made: ir.Value = m.op.Expand(mask, _vector(m, [1, 1, *parts]))
    return made


def _mask_shape(m: Match, block: Block, mask: ir.Value) -> tuple[ir.Dim, ...]:
    """The shape of a mask built just now: that of what it was chosen by, or as wide as all of them together."""
    shapes = [ir.dims(each) for each in (*(choice.allowed for choice in block.choices), *block.biases)]
    if len(shapes) == 1 and shapes[0] is not None:
        return shapes[0]
    return ()


def length(m: Match, dim: ir.Dim, value: ir.Value, axis: int) -> int | ir.Value:
    """A dimension: the number where it is known, else one element [1] computed when the model runs.

    It is read off an input of the graph that has the same symbol, so that all blocks compute it alike.
    """
    if isinstance(dim, int):
        return dim
    source, place = value, axis % len(ir.dims(value) or ())
    for each in m.graph.inputs:
        shape = ir.dims(each) or ()
        if dim is not None and dim in shape:
            source, place = each, shape.index(dim)
            break
    made: ir.Value = m.op.Gather(m.op.Shape(source), [place], axis=0)
    return made


def _vector(m: Match, parts: list[Any]) -> Any:
    """A shape from numbers and computed dimensions."""
    if all(isinstance(each, int) for each in parts):
        return parts
    joined: list[Any] = []
    for each in parts:
        if isinstance(each, int) and joined and isinstance(joined[-1], list):
            joined[-1].append(each)
        else:
            joined.append([each] if isinstance(each, int) else each)
    return m.op.Concat(*joined, axis=0)
