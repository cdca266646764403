"""Pruning: the weights that matter least become zero. Shapes and types stay, so the file grows by the
description in its metadata only: some 100 bytes, and for each tensor its name and some 40 more.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accelc import ir
from accelc.context import Context
from accelc.guards import FLOATS
from accelc.pass_base import Pass, PassResult

METADATA = "accelc.prune"

_PLACES = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,), "ConvTranspose": (1,)}
_KEEPS_ZEROS = frozenset({"Transpose", "Identity"})
_DIGIT_BITS = 16
_HASH_DIGITS = 16

Mask = NDArray[np.bool_]
Keys = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Prune(Pass):
    """Set weights of MatMul, Gemm and Conv to zero: those of least magnitude, or random ones.

    sparsity: the share that becomes zero, 0 <= sparsity < 1, rounded down to whole weights. scope: whether each weight
    tensor gives this share, or all of them together (random: in proportion to their sizes). Biases, norms and
    embeddings stay, and so do weights that anything else uses too. Equal magnitudes go in the order of the file.

    The model's metadata tell what was done, under accelc.prune: JSON with the options and, by the name of each tensor,
    the number of its zeros and the first 16 hexadecimal digits of the SHA-256 of its mask, numpy.packbits(weight != 0).
    """

    name = "prune"
    exact = False
    keeps_function = False

    method: Literal["magnitude", "random"] = "magnitude"
    sparsity: float = 0.5
    scope: Literal["layer", "global"] = "layer"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity={self.sparsity:g} must be at least 0 and below 1")
        if self.method not in ("magnitude", "random") or self.scope not in ("layer", "global"):
            raise ValueError(f"method={self.method}, scope={self.scope}: magnitude or random, layer or global")

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        weights, refused = find_weights(model)
        details: dict[str, Any] = {"left": refused}
        if not weights:
            return PassResult(skipped="no MatMul, Gemm or Conv with constant float weights", details=details)
        groups = [weights] if self.scope == "global" else [[weight] for weight in weights]
        cuts = [cut for group in groups for cut in self._cuts(group, ctx.settings.seed)]
        pruned = []
        for weight, cut in zip(weights, cuts, strict=True):
            if cut.nothing:
                continue
            if not ctx.spend("prune", f"weight {weight.name}"):
                break
            pruned.append(_apply(weight, cut))
        if not pruned:
            return PassResult(skipped="out of fuel" if ctx.fuel.empty else "nothing to set to zero", details=details)
        _record(model, self, ctx.settings.seed, pruned)
        zeros, total = sum(each["zeros"] for each in pruned), sum(math.prod(each["shape"]) for each in pruned)
        notes = [f"{zeros} of {total} weights in {len(pruned)} tensors are zero ({zeros / total:.1%})"]
        notes += [f"{len(refused)} tensor(s) left alone, see the details"] if refused else []
        return PassResult(len(pruned), notes=tuple(notes), details={**details, "weights": pruned})

    def _cuts(self, group: Sequence[ir.Value], seed: int) -> Iterator[Cut]:
        """What goes in each tensor of a group that is pruned together."""
        sizes = [_size(weight) for weight in group]
        count = int(Decimal(repr(self.sparsity)) * sum(sizes))
        if self.method == "random":
            for weight, share in zip(group, _proportional(count, sizes), strict=True):
                yield Cut(share, name=str(weight.name), seed=seed)
        else:
            yield from _smallest(group, count)


@dataclass(frozen=True)
class Cut:
    """Which elements of one tensor go: `count` random ones, or those with a key below `threshold` and the first `count`
    of those that equal it. wide: keys have 64 bits.
    """

    count: int
    threshold: int | None = None
    below: int = 0
    wide: bool = False
    name: str = ""
    seed: int = 0

    @property
    def nothing(self) -> bool:
        return self.count + self.below == 0

    def mask(self, array: NDArray[Any]) -> Mask:
        """True where an element of the flat array goes."""
        if self.threshold is None:
            digest = hashlib.sha256(self.name.encode()).digest()
            rng = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "little")])
            gone = np.zeros(array.size, bool)
            gone[rng.choice(array.size, self.count, replace=False, shuffle=False)] = True
            return gone
        keys = _keys(array, self.wide)
        gone = keys < self.threshold
        gone[np.flatnonzero(keys == self.threshold)[: self.count]] = True
        return gone


def find_weights(model: ir.Model) -> tuple[list[ir.Value], dict[str, str]]:
    """The weights that may be pruned, in the order of the graph, and why others are left alone, by name."""
    found: dict[ir.Value, None] = {}
    for node in ir.walk(model):
        for place in _PLACES.get(node.op_type, ()) if not node.domain else ():
            weight = _origin(node.inputs[place]) if place < len(node.inputs) else None
            if weight is not None:
                found[weight] = None
    refused: dict[str, str] = {}
    for weight in list(found):
        other = next(_other_users(weight), None)
        if other is not None or weight.is_graph_output():
            del found[weight]
            refused[str(weight.name)] = f"also used by {ir.node_path(other)}" if other else "an output of the model"
    return list(found), refused


def _origin(value: ir.Value | None) -> ir.Value | None:
    """The constant float tensor of rank 2 or more that a value is, or is a transposition of."""
    while value is not None:
        tensor = ir.const_tensor(value)
        if tensor is not None:
            return value if tensor.dtype in FLOATS and len(tensor.shape) >= 2 and tensor.size else None
        node = value.producer()
        value = node.inputs[0] if node is not None and not node.domain and node.op_type in _KEEPS_ZEROS else None
    return None


def _other_users(value: ir.Value) -> Iterator[ir.Node]:
    """Consumers of a weight that use it for anything but a product or convolution."""
    for use in value.uses():
        node = use.node
        if not node.domain and node.op_type in _KEEPS_ZEROS and not node.outputs[0].is_graph_output():
            yield from _other_users(node.outputs[0])
        elif node.domain or use.idx not in _PLACES.get(node.op_type, ()):
            yield node


def _tensor(weight: ir.Value) -> ir.TensorProtocol:
    tensor = ir.const_tensor(weight)
    assert tensor is not None
    return tensor


def _size(weight: ir.Value) -> int:
    return int(_tensor(weight).size)


def _keys(array: NDArray[Any], wide: bool) -> Keys:
    """Unsigned integers in the order of the magnitudes, flat; NaN comes last."""
    magnitudes = np.abs(array.reshape(-1).astype(np.float64 if wide else np.float32))
    keys: Keys = magnitudes.view(np.uint64 if wide else np.uint32)
    return keys


def _smallest(group: Sequence[ir.Value], count: int) -> Iterator[Cut]:
    """The `count` smallest magnitudes over all tensors of a group, exactly.

    Their largest key is found digit by digit from histograms, so one tensor at a time is in memory.
    """
    wide = any(_tensor(weight).dtype == ir.DataType.DOUBLE for weight in group)
    threshold, left = 0, count
    for shift in range((64 if wide else 32) - _DIGIT_BITS, -1, -_DIGIT_BITS):
        histogram = np.zeros(1 << _DIGIT_BITS, np.int64)
        for weight in group:
            keys = _keys(_tensor(weight).numpy(), wide)
            prefix = shift + _DIGIT_BITS
            if prefix < (64 if wide else 32):
                keys = keys[keys >> prefix == threshold]
            digits = (keys >> shift) & ((1 << _DIGIT_BITS) - 1)
            histogram += np.bincount(digits.astype(np.int64), minlength=histogram.size)
        digit = int(np.searchsorted(np.cumsum(histogram), left, side="left")) if left else 0
        left -= int(histogram[:digit].sum())
        threshold = (threshold << _DIGIT_BITS) | digit
    for weight in group:
        keys = _keys(_tensor(weight).numpy(), wide)
        equal = min(left, int(np.count_nonzero(keys == threshold)))
        left -= equal
        yield Cut(equal, threshold, int(np.count_nonzero(keys < threshold)), wide)


def _proportional(count: int, sizes: Sequence[int]) -> list[int]:
    """count split in proportion to sizes; what rounding leaves goes to the largest remainders, then the first."""
    total = sum(sizes)
    shares = [count * size // total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda index: (-(count * sizes[index] % total), index))
    for index in order[: count - sum(shares)]:
        shares[index] += 1
    return shares


def _apply(weight: ir.Value, cut: Cut) -> dict[str, Any]:
    """Set the elements of a cut to zero in the model; what to say about it."""
    old = _tensor(weight)
    array = np.array(old.numpy(), order="C")
    array.reshape(-1)[cut.mask(array)] = 0
    new = ir.array_tensor(array, old.dtype, old.name)
    if weight.is_initializer():
        weight.const_value = new
    else:
        node = weight.producer()
        assert node is not None
        node.attributes["value"] = ir.make_attr("value", new)
    kept = array != 0
    zeros = int(array.size - np.count_nonzero(kept))
    return {
        "name": weight.name,
        "shape": list(array.shape),
        "zeros": zeros,
        "sparsity": round(zeros / array.size, 6),
        "mask": hashlib.sha256(np.packbits(kept).tobytes()).hexdigest()[:_HASH_DIGITS],
    }


def _record(model: ir.Model, prune: Prune, seed: int, pruned: list[dict[str, Any]]) -> None:
    """Describe the masks in the model's metadata; an earlier entry stays."""
    key, number = METADATA, 1
    while key in model.metadata_props:
        number += 1
        key = f"{METADATA}.{number}"
    options = {"method": prune.method, "sparsity": prune.sparsity, "scope": prune.scope, "seed": seed}
    weights = {each["name"]: [each["zeros"], each["mask"]] for each in pruned}
    model.metadata_props[key] = json.dumps({**options, "weights": weights}, separators=(",", ":"))
