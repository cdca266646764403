"""What calibration data shows at the inputs of layers, for convolutions as the patches that the kernel sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from accelc import ir
from accelc.calibration import Calibration, Observe, Statistics

from .linear import Linear
from .numbers import Floats

MOST_COLUMNS = 2048
"""Up to so many columns the gram matrix of all rows is kept, else some rows."""
_ROWS = 1024
_AT_ONCE = 16
"""Convolutions whose patches are made in one run: they are as many times larger than the input as the kernel."""
_SETTINGS = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


@dataclass(frozen=True)
class Moments:
    """Of rows x that a layer multiplies: gram, the mean of xᵀ x, [group, K, K]; mean, [group, K]; rows, how many."""

    gram: Floats
    mean: Floats
    rows: int

    def centered(self) -> Floats:
        """The gram matrices of the rows less their mean."""
        spread: Floats = self.gram - self.mean[:, :, None] * self.mean[:, None, :]
        return spread

    def output_mean(self, columns: Floats) -> Floats:
        """The mean of what weights [K, N] make of the rows, [N]."""
        return output_mean(self.mean, columns)


def output_mean(mean: Floats, columns: Floats) -> Floats:
    """What weights [K, N] make of rows whose mean is [group, K], [N]."""
    split = columns.reshape(len(columns), len(mean), -1).transpose(1, 0, 2)
    made: Floats = np.matmul(mean[:, None, :], split).reshape(-1)
    return made


def means(calibration: Calibration, model: ir.Model, linears: Sequence[Linear]) -> dict[Linear, Floats]:
    """The mean of the rows that each layer multiplies, [group, K]; layers of which nothing was seen are left out."""
    seen = _observe(calibration, model, linears, lambda _: Observe(channels=-1))
    return {each: _mean(each, found) for each, found in seen.items()}


def moments(calibration: Calibration, model: ir.Model, linears: Sequence[Linear]) -> dict[Linear, Moments]:
    """Moments of the rows that each layer multiplies; layers of which nothing was seen are left out."""
    seen = _observe(calibration, model, linears, _wish)
    return {each: _moments(each, found) for each, found in seen.items()}


def _wish(linear: Linear) -> Observe:
    if linear.group == 1 and linear.k <= MOST_COLUMNS:
        return Observe(channels=-1, gram=True)
    return Observe(channels=-1, rows=_ROWS)


def _mean(linear: Linear, seen: Statistics) -> Floats:
    assert seen.channel_mean is not None
    return seen.channel_mean.reshape(linear.group, linear.k).astype(np.float32)


def _moments(linear: Linear, seen: Statistics) -> Moments:
    if seen.gram is not None:
        gram, count = seen.gram[None] / seen.gram_rows, seen.gram_rows
        return Moments(gram.astype(np.float32), _mean(linear, seen), count)
    assert seen.rows is not None
    rows = seen.rows.reshape(-1, linear.group, linear.k).transpose(1, 0, 2).astype(np.float32)
    count = rows.shape[1]
    # The mean of these rows, not of all: the spread around another one would be too large.
    return Moments(np.matmul(rows.transpose(0, 2, 1), rows) / np.float32(count), rows.mean(axis=1), count)


def _observe(
    calibration: Calibration, model: ir.Model, linears: Sequence[Linear], wish: Callable[[Linear], Observe]
) -> dict[Linear, Statistics]:
    products = [each for each in linears if not each.is_conv]
    convs = [each for each in linears if each.is_conv]
    found = _run(calibration, model, {each: str(each.a.name) for each in products}, wish) if products else {}
    for start in range(0, len(convs), _AT_ONCE):
        copy = model.clone()
        copy.meta.update({key: value for key, value in model.meta.items() if key != "accelc.names"})
        found |= _run(calibration, copy, _with_patches(copy, convs[start : start + _AT_ONCE]), wish)
    return found


def _run(
    calibration: Calibration, model: ir.Model, names: Mapping[Linear, str], wish: Callable[[Linear], Observe]
) -> dict[Linear, Statistics]:
    wanted: dict[str, Observe] = {}
    for linear, name in names.items():
        wanted[name] = wanted.get(name, Observe()) | wish(linear)
    seen = calibration.statistics(model, wanted)
    return {linear: seen[name] for linear, name in names.items() if name in seen}


def _with_patches(copy: ir.Model, convs: Sequence[Linear]) -> dict[Linear, str]:
    """Add to a copy of the model, for each Conv, the value [..., cin * positions] that its kernel multiplies.

    A convolution with one weight for each output does it, with the padding, strides and dilations of the original.
    """
    graph, names = copy.graph, ir.names(copy)
    scope = ir.Scope(graph, graph, graph)
    values = {str(value.name): value for node in ir.nodes(graph) for value in node.outputs}
    values |= {str(value.name): value for value in graph.inputs}
    made: dict[Linear, str] = {}
    for conv in convs:
        kernel = conv.array().shape[2:]
        positions = int(np.prod(kernel))
        pick = np.tile(np.eye(positions, dtype=np.float32), (conv.cin, 1)).reshape(-1, 1, *kernel)
        weight = ir.new_constant(scope, names, f"{conv.name}_pick", ir.array_tensor(pick))
        settings = {name: conv.node.attributes[name] for name in _SETTINGS if name in conv.node.attributes}
        source = values[str(conv.a.name)]
        patches = ir.new_node("Conv", [source, weight], {**settings, "group": conv.cin}, name=names.fresh("patches"))
        rank = len(kernel) + 2
        last = ir.new_node("Transpose", patches.outputs, {"perm": [0, *range(2, rank), 1]}, name=names.fresh("rows"))
        for node in (patches, last):
            node.outputs[0].name = names.fresh(f"{node.name}_out")
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            graph.append(node)
        made[conv] = str(last.outputs[0].name)
    return made
