"""Factors for channels between layers, so that every channel has an equal share of the range of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .channels import Group
from .linear import Linear
from .numbers import Floats

_SWEEPS = 60
_SETTLED = 1e-2
_LEAST_SHARE = np.float32(1e-3)
"""Below it an activation has no outliers to lose, but the data may have missed some."""
_MOST = 1e4
"""How much a channel may be scaled at most, for one that is as good as dead needs nothing."""


@dataclass
class _Scaled:
    """The magnitudes [group, cout / group, cin / group] of a layer's weights, and what its channels are scaled by."""

    magnitudes: Floats
    taken: Floats
    made: Floats

    @classmethod
    def of(cls, linear: Linear) -> _Scaled:
        strongest = linear.strongest()
        group, couts, cins = strongest.shape
        return cls(strongest, np.ones((group, 1, cins), np.float32), np.ones((group, couts, 1), np.float32))

    @property
    def now(self) -> Floats:
        return self.magnitudes * self.taken / self.made

    def made_shares(self) -> Floats:
        """[cout]: each output channel's range over that of the weight."""
        return _shares(self.now.max(axis=2).reshape(-1))

    def taken_shares(self, repeat: int) -> Floats:
        """[channels]: the same of each input channel, which has `repeat` rows of weights."""
        return _shares(self.now.max(axis=1).reshape(-1, repeat).max(axis=1))


def balance(groups: Sequence[Group], activations: Sequence[Sequence[Floats]]) -> list[Floats]:
    """What each group's channels are divided by, [channels]; the weights of takers are multiplied by as much.

    Of a channel with share p of the range where it is made and share q where it is taken, sqrt(p / q), until all groups
    have settled. activations: for each group the largest magnitudes [channels] of what its takers take, as far as they
    are known; they count as much as the weights of the makers. After Nagel et al. 2019, for any number of both.
    """
    layers = {each for group in groups for each in (*group.makers, *(taker for taker, _ in group.takers))}
    scaled = {each: _Scaled.of(each) for each in layers}
    divisors = [np.ones(group.channels, np.float32) for group in groups]
    for _ in range(_SWEEPS):
        largest = 0.0
        for index, group in enumerate(groups):
            made = np.max([scaled[each].made_shares() for each in group.makers], axis=0)
            if activations[index]:
                seen = np.max([_shares(each / divisors[index]) for each in activations[index]], axis=0)
                made = np.sqrt(made * np.maximum(seen, _LEAST_SHARE))
            taken = np.max([scaled[each].taken_shares(repeat) for each, repeat in group.takers], axis=0)
            step = _step(made, taken, divisors[index])
            largest = max(largest, float(np.abs(np.log(step)).max()))
            divisors[index] = divisors[index] * step
            for each in group.makers:
                scaled[each].made *= step.reshape(scaled[each].made.shape)
            for each, repeat in group.takers:
                scaled[each].taken *= step.repeat(repeat).reshape(scaled[each].taken.shape)
        if largest < _SETTLED:
            break
    return divisors


def unevenness(group: Group) -> float:
    """How many times smaller than its tensor's range the range of a group's channel is, geometric mean over channels
    of makers and takers: what a scale for the whole tensor wastes."""
    shares = [_Scaled.of(each).made_shares() for each in group.makers]
    shares += [_Scaled.of(each).taken_shares(repeat) for each, repeat in group.takers]
    some = np.concatenate(shares)
    some = some[some > 0]
    return float(np.exp(-np.log(some).mean())) if some.size else 1.0


def _step(made: Floats, taken: Floats, divisors: Floats) -> Floats:
    """The next factor; 1 for channels without weights on one side."""
    alive = (made > 0) & (taken > 0)
    logs = np.log(np.where(alive, made, 1) / np.where(alive, taken, 1)) / 2
    # A factor for all channels alike changes nothing, and would grow from sweep to sweep.
    wanted = np.exp(np.where(alive, logs - logs[alive].mean(), 0)).astype(np.float32) if alive.any() else np.float32(1)
    step: Floats = np.clip(divisors * wanted, np.float32(1 / _MOST), np.float32(_MOST)) / divisors
    return step


def _shares(ranges: Floats) -> Floats:
    most = ranges.max()
    return ranges / most if most > 0 else ranges
