"""What an attention block computes, read off the graph around its Softmax.

    y = softmax(scale q kᵀ + masks) v          q [B, H, S, D], k [B, H, T, D], v [B, H, T, Dv]

Exporters write the scale on q, on k or on the scores, the masks as sums or choices, the heads as a dimension of their
own or merged with the batch. The reader walks from the Softmax towards the inputs and names what it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from accelc import ir
from accelc.guards import known_equal
from accelc.rules import Match

HEADS_LAST = (0, 2, 1, 3)
"""[B, S, H, D] -> [B, H, S, D] and back."""
_SWAP = {2: (1, 0), 3: (0, 2, 1), 4: (0, 1, 3, 2)}
_DEEPEST = 8
"""No exporter puts more operators between the product of q and k and the Softmax."""
_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class Choice:
    """A mask that replaces scores: where `allowed` is false (or, `flipped`, true) they become, or get added, `low`.

    added: the low value is added to the score instead of replacing it, which is the same for a score near zero.
    """

    allowed: ir.Value
    flipped: bool
    low: float
    added: bool


@dataclass
class Block:
    """One attention block: [B, H, S, D] operands, or [N, S, D] where heads and batch are one dimension.

    kt: k with its last two dimensions swapped, as the product takes it. biases: values added to the scores, in order.
    guarded: rows of nothing but NaN become rows of zeros. wide: the softmax of half precision runs in float32.
    """

    q: ir.Value
    kt: ir.Value
    v: ir.Value
    scores: ir.Value
    scale: float = 1.0
    biases: list[ir.Value] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    guarded: bool = False
    wide: bool = False

    @property
    def masked(self) -> bool:
        """Whether anything is added to the scores or put in their place."""
        return bool(self.biases or self.choices)


def read_block(m: Match) -> Block:
    """The block whose last product is the root of a match with the label softmax. A miss that says what is unusual."""
    softmax = m.node("softmax")
    scores = softmax.inputs[0]
    assert scores is not None
    rank = len(_dims(m, scores))
    axis = m.attr("axis", -1, node="softmax")
    m.require(axis in (-1, rank - 1), f"the softmax {_name(softmax)} is not over the last axis")
    block = Block(m.v, m.v, m.v, scores, guarded=m.has("guard"))
    _read_scores(m, block, scores, rank)
    block.q, on_q = _unscaled(block.q)
    block.kt, on_k = _unscaled(block.kt)
    block.scale *= on_q * on_k
    m.require(np.isfinite(block.scale) and block.scale > 0, "the scale is not positive")
    return block


def _name(node: ir.Node) -> str:
    return node.name or node.op_type


def _dims(m: Match, value: ir.Value) -> tuple[ir.Dim, ...]:
    shape = ir.dims(value)
    if shape is None:
        m.fail(f"the rank of {value.name} is unknown")
    return shape


def _read_scores(m: Match, block: Block, scores: ir.Value, rank: int) -> None:
    """Walk from the input of the softmax to the product of q and k, collecting scale and masks."""
    value = scores
    for _ in range(_DEEPEST):
        node = value.producer()
        if node is None or node.domain:
            m.fail(f"{value.name}, on the way to the product of q and k, is made by {_made_by(node)}")
        if value is not scores:
            m.require(not value.is_graph_output(), f"{value.name} is an output of the graph")
        if node.op_type == "MatMul":
            block.q, block.kt = _operands(m, node, rank)
            return
        value = _step(m, block, node)
    m.fail(f"{value.name} is too far from the softmax {_name(m.node('softmax'))}")


def _made_by(node: ir.Node | None) -> str:
    return "nothing in this graph" if node is None else f"{node.domain}.{node.op_type} {node.name}"


def _operands(m: Match, node: ir.Node, rank: int) -> tuple[ir.Value, ir.Value]:
    q, kt = node.inputs
    assert q is not None
    assert kt is not None
    for each in (q, kt):
        m.require(len(_dims(m, each)) == rank, f"{each.name} has another rank than the scores")
    return q, kt


def _step(m: Match, block: Block, node: ir.Node) -> ir.Value:
    """One operator between the product and the softmax: note what it does, return the scores before it."""
    kind = node.op_type
    if kind in ("Mul", "Div"):
        return _scaled_scores(m, block, node)
    if kind == "Add":
        return _biased_scores(m, block, node)
    if kind == "Where":
        return _chosen_scores(m, block, node)
    if kind == "Cast" and not block.wide:
        return _cast_scores(m, block, node)
    return m.fail(f"{kind} {node.name} stands between the product of q and k and the softmax")


def _scaled_scores(m: Match, block: Block, node: ir.Node) -> ir.Value:
    inner, factor = _one_factor(node)
    m.require(inner is not None, f"{_name(node)} scales the scores by something that is not one constant")
    assert inner is not None
    block.scale *= factor
    return inner


def _biased_scores(m: Match, block: Block, node: ir.Node) -> ir.Value:
    """Of the two summands, the one that leads to a product of two computed values is the scores."""
    left, right = node.inputs
    assert left is not None
    assert right is not None
    m.require(block.scale == 1, f"the scores are scaled after {_name(node)} masks them")
    ways = [(a, b) for a, b in ((left, right), (right, left)) if leads_to_product(a)]
    m.require(ways, f"neither summand of {_name(node)} is a product of q and k")
    m.require(len(ways) == 1 or not leads_to_product(ways[0][1]), f"both summands of {_name(node)} are products")
    scores, bias = ways[0]
    m.require(len(_dims(m, bias)) <= len(_dims(m, scores)), f"the mask {bias.name} has more dimensions than the scores")
    choice = added_choice(bias)
    if choice is not None and not (always_true(choice.allowed) and not choice.flipped):
        block.choices.append(choice)
    elif choice is None:
        block.biases.append(bias)
    return scores


def _chosen_scores(m: Match, block: Block, node: ir.Node) -> ir.Value:
    allowed, yes, no = node.inputs
    assert allowed is not None
    assert yes is not None
    assert no is not None
    flipped = not leads_to_product(yes)
    scores, low = (no, yes) if flipped else (yes, no)
    number = _one_number(low)
    m.require(number is not None, f"{_name(node)} puts something else than one constant in the place of scores")
    m.require(not block.masked, f"{_name(node)} replaces scores before another mask is added")
    m.require(block.scale == 1, f"the scores are scaled after {_name(node)} masks them")
    m.require(len(_dims(m, allowed)) <= len(_dims(m, scores)), f"the mask {allowed.name} has more dimensions")
    assert number is not None
    block.choices.append(Choice(allowed, flipped, number, added=False))
    return scores


def _cast_scores(m: Match, block: Block, node: ir.Node) -> ir.Value:
    """Scores of half precision whose softmax runs in float32."""
    before = node.inputs[0]
    assert before is not None
    wide = before.dtype in _HALVES and ir.attribute(node, "to") == ir.DataType.FLOAT.value
    m.require(wide and not block.masked, f"{_name(node)} casts the scores to another type")
    block.wide = True
    return before


def leads_to_product(value: ir.Value, depth: int = _DEEPEST) -> bool:
    """Whether scalings, casts and masks lead back to a MatMul of two values that are not constant."""
    while depth:
        depth -= 1
        node = value.producer()
        if node is None or node.domain:
            return False
        inputs = [each for each in node.inputs if each is not None]
        if node.op_type == "MatMul":
            return not any(map(ir.is_constant, inputs))
        if node.op_type in ("Mul", "Div", "Cast"):
            value = inputs[0] if not ir.is_constant(inputs[0]) else inputs[-1]
        elif node.op_type == "Where":
            value = inputs[1] if not ir.is_constant(inputs[1]) else inputs[2]
        elif node.op_type == "Add":
            return any(leads_to_product(each, depth) for each in dict.fromkeys(inputs))
        else:
            return False
    return False


def added_choice(bias: ir.Value) -> Choice | None:
    """A bias that is 0 or one constant: Where(allowed, 0, low), or the other way round."""
    node = bias.producer()
    if node is None or node.domain or node.op_type != "Where":
        return None
    allowed, yes, no = node.inputs
    numbers = _one_number(yes), _one_number(no)
    if allowed is None or 0.0 not in numbers or None in numbers:
        return None
    flipped = numbers[0] != 0.0
    low = numbers[0] if flipped else numbers[1]
    return Choice(allowed, flipped, float(low or 0.0), added=True) if (low or 0.0) < 0 else None


def always_true(condition: ir.Value) -> bool:
    """Whether a condition holds everywhere: the elements of a Range that starts at 0 or above are not negative."""
    node = _through(condition, ("Expand", "Unsqueeze", "Reshape")).producer()
    if node is None or node.domain or node.op_type != "GreaterOrEqual":
        return False
    limit = _one_number(node.inputs[1])
    return limit is not None and limit <= 0 and _counts_up(node.inputs[0])


def _counts_up(value: ir.Value | None) -> bool:
    """Whether a value is a Range over non-negative numbers, in any shape."""
    node = _through(value, ("Expand", "Unsqueeze", "Reshape")).producer() if value is not None else None
    if node is None or node.domain or node.op_type != "Range":
        return False
    start, step = _one_number(node.inputs[0]), _one_number(node.inputs[2])
    return start is not None and start >= 0 and step is not None and step > 0


def _through(value: ir.Value, kinds: tuple[str, ...]) -> ir.Value:
    """What a value was before operators that only change its shape."""
    while (node := value.producer()) is not None and not node.domain and node.op_type in kinds:
        source = node.inputs[0]
        if source is None:
            break
        value = source
    return value


def _one_number(value: ir.Value | None) -> float | None:
    array = ir.const(value) if value is not None else None
    return float(array.reshape(())) if array is not None and array.size == 1 and array.dtype.kind != "b" else None


def _one_factor(node: ir.Node) -> tuple[ir.Value | None, float]:
    """What a Mul or Div by one constant scales, and the factor. (None, 1) where it is something else."""
    left, right = node.inputs
    number = _one_number(right)
    if number is None and node.op_type == "Mul":
        left, number = right, _one_number(left)
    if number is None or left is None or (node.op_type == "Div" and number == 0):
        return None, 1.0
    return left, number if node.op_type == "Mul" else 1 / number


def _unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """An operand before it was scaled by constants, and the factor."""
    total = 1.0
    while (node := value.producer()) is not None and not node.domain and node.op_type in ("Mul", "Div"):
        inner, factor = _one_factor(node)
        if inner is None or ir.dims(inner) is None or len(ir.dims(inner) or ()) != len(ir.dims(value) or ()):
            break
        value, total = inner, total * factor
    return value, total


# --- layouts ---------------------------------------------------------------------------------------------------------


def transposed(value: ir.Value) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What Transposes, one after the other, turn into this value, and their joint permutation."""
    found: tuple[ir.Value, tuple[int, ...]] | None = None
    while (node := value.producer()) is not None and not node.domain and node.op_type == "Transpose":
        source = node.inputs[0]
        shape = ir.dims(source)
        if source is None or shape is None:
            break
        given = ir.attribute(node, "perm")
        perm = tuple(given) if given is not None else tuple(range(len(shape)))[::-1]
        found = source, perm if found is None else tuple(perm[axis] for axis in found[1])
        value = source
    return found


def rows(value: ir.Value, *, swapped: bool = False) -> ir.Value | None:
    """The [B, S, H, D] that Transpose makes this [B, H, S, D] of (or, swapped, this [B, H, D, S]); None without one."""
    found = transposed(value)
    if found is None:
        return None
    source, perm = found
    wanted = tuple(HEADS_LAST[axis] for axis in _SWAP[4]) if swapped else HEADS_LAST
    return source if perm == wanted else None


def unswapped(m: Match, value: ir.Value) -> ir.Value:
    """A value with its last two dimensions exchanged: the source of the Transpose that did so, else a new Transpose."""
    rank = len(_dims(m, value))
    swap = _SWAP[rank]
    found = transposed(value)
    if found is None:
        made: ir.Value = m.op.Transpose(value, perm=list(swap))
        return made
    source, perm = found
    back = [perm[axis] for axis in swap]
    if back == list(range(rank)):
        return source
    turned: ir.Value = m.op.Transpose(source, perm=back)
    return turned


def repeated(value: ir.Value) -> ir.Value | None:
    """The [B, G, T, D] whose heads were repeated, each H / G times in a row, to this [B, H, T, D]; None otherwise."""
    outer = _only_input(value, "Reshape")
    wide = _only_input(outer, "Expand")
    source = _only_input(wide, "Unsqueeze")
    before, middle, after = ir.dims(source), ir.dims(outer), ir.dims(value)
    if source is None or before is None or middle is None or after is None:
        return None
    if len(before) != 4 or len(middle) != 5 or len(after) != 4:
        return None
    fits = (
        known_equal(before[1:2], middle[1:2])
        and known_equal(before[2:], middle[3:])
        and known_equal(before[2:], after[2:])
        and all(isinstance(each, int) for each in (before[1], middle[2], after[1]))
        and before[1] * middle[2] == after[1]  # type: ignore[operator]
    )
    unsqueezed = ir.dims(wide)
    return source if fits and unsqueezed is not None and unsqueezed[2] == 1 else None


def _only_input(value: ir.Value | None, op_type: str) -> ir.Value | None:
    """The first input of the operator that makes a value, where it is this one."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and not node.domain and node.op_type == op_type else None
