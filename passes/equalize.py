"""Scale channels between layers so that their weights have ranges of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.calibration import Observe
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.rewrite import remove_dead, replace_value

from .quantization.balance import balance, unevenness
from .quantization.channels import Group, clip_bounds, find_groups, reasons
from .quantization.linear import find_linear
from .quantization.numbers import Floats
from .quantization.quality import elsewhere

_LEAST = 1.1
"""How far apart a group's factors must be for it to be worth a change."""


@dataclass(frozen=True)
class Equalize(Pass):
    """Scale channels between layers so that their weights have ranges of one size.

    A channel of one layer is divided by a factor and the weights that it meets next are multiplied by it, through
    everything that a positive factor passes: ReLU and its kin, pooling, sums of branches, Flatten. So one scale for a
    whole tensor fits all of its channels. With calibration data the ranges of activations count as well.

    relu6: also through Clip(0, c), which becomes Relu and a Min with a bound per channel: one operator more.
    """

    name = "equalize"
    exact = False

    relu6: bool = False

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if elsewhere(ctx):
            return PassResult(skipped=elsewhere(ctx))
        linears, refused = find_linear(model)
        found = find_groups(linears, clips=self.relu6)
        details: dict[str, Any] = {"refused": {**refused, **reasons(found)}}
        groups = [group for group in found if not group.reason]
        if not groups:
            return PassResult(skipped="no layers between which channels could be scaled", details=details)
        divisors = balance(groups, self._activations(model, ctx, groups))
        done = []
        for group, factors in zip(groups, divisors, strict=True):
            if factors.max() < _LEAST * factors.min():
                continue
            if not ctx.spend(self.name, group.path):
                break
            before = unevenness(group)
            _apply(group, factors)
            done.append((group, factors, before))
        details["groups"] = [_described(*each) for each in done]
        if not done:
            reason = "out of fuel" if ctx.fuel.empty else "the ranges of all channels are balanced already"
            return PassResult(skipped=reason, details=details)
        notes = (f"channels scaled in {len(done)} of {len(found)} groups of layers",)
        return PassResult(len(done), notes=notes, details=details)

    def _activations(self, model: ir.Model, ctx: Context, groups: Sequence[Group]) -> list[list[Floats]]:
        """The largest magnitudes [channels] of what each group's takers take; nothing without calibration data."""
        if ctx.calibration is None:
            return [[] for _ in groups]
        taken = [{taker.a: group.values[taker.a] for taker, _ in group.takers} for group in groups]
        wanted = {str(value.name): Observe(channels=place.axis) for each in taken for value, place in each.items()}
        ctx.progress("equalize: reading the ranges of activations")
        seen = ctx.calibration.statistics(model, wanted)
        found: list[list[Floats]] = []
        for each in taken:
            found.append([])
            for value, place in each.items():
                each_seen = seen.get(str(value.name))
                if each_seen is None:
                    continue
                low, high = each_seen.channel_low, each_seen.channel_high
                assert low is not None
                assert high is not None
                largest = np.maximum(np.abs(low), np.abs(high)).reshape(-1, place.repeat).max(axis=1)
                found[-1].append(largest.astype(np.float32))
        return found


def _apply(group: Group, divisors: Floats) -> None:
    for maker in group.makers:
        maker.scale_outputs(np.float32(1) / divisors)
    for taker, repeat in group.takers:
        taker.scale_inputs(divisors.repeat(repeat))
    for clip in group.clips:
        _split_clip(clip, group, divisors)


def _split_clip(clip: ir.Node, group: Group, divisors: Floats) -> None:
    """Write Clip(0, c) as Relu and Min(c / divisors)."""
    bounds, linear = clip_bounds(clip), group.makers[0]
    assert bounds is not None
    source, out = clip.inputs[0], clip.outputs[0]
    place, rank = group.values[out], len(out.shape or ())
    shape = [1] * rank
    shape[place.axis] = -1
    limits = (np.float32(bounds[1]) / divisors).repeat(place.repeat).reshape(shape).astype(np.float32)
    limit = ir.new_constant(linear.scope, linear.names, f"{clip.name}_limits", ir.array_tensor(limits), before=clip)
    relu = ir.new_node("Relu", [source], name=linear.names.fresh(f"{clip.name}_relu"))
    relu.outputs[0].name = linear.names.fresh(f"{clip.name}_relu_out")
    relu.outputs[0].type, relu.outputs[0].shape = out.type, out.shape
    least = ir.new_node("Min", [relu.outputs[0], limit], name=linear.names.fresh(f"{clip.name}_min"))
    linear.scope.graph.insert_before(clip, [relu, least])
    name = out.name
    replace_value(out, least.outputs[0])
    remove_dead([clip])
    least.outputs[0].name = name


def _described(group: Group, divisors: Floats, before: float) -> dict[str, Any]:
    return {
        "made": [each.path for each in group.makers],
        "taken": [each.path for each, _ in group.takers],
        "factors": [round(float(divisors.min()), 6), round(float(divisors.max()), 6)],
        "unevenness": [round(before, 4), round(unevenness(group), 4)],
    }
