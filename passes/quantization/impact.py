"""How much the outputs suffer from what each unit loses: groups of units are quantized alone and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from accelc.budget import Judgement

GROUPS, _SPLITS = 16, 6
_SHARE = 0.15
"""A group that does so much of the damage is looked at in halves."""

Group = tuple[int, ...]


def damage_of(judged: Judgement) -> float:
    """How far outputs are off, those that are scored. Unlike hits and misses it tells small damage from none."""
    if judged.quality is None:
        return judged.lost
    named = judged.score.output if judged.score is not None else None
    return max(
        (e.lost for e in judged.quality.outputs if not named or e.name.partition(", part ")[0] == named), default=0.0
    )


def impacts(
    units: Sequence[int],
    squared: Callable[[int], float],
    damage: Callable[[Group], float],
    proceed: Callable[[], bool],
    groups: int = GROUPS,
) -> dict[int, float]:
    """Damage to the outputs for each squared relative error of a unit, by unit; {} when nothing is known.

    units: in the order of the graph, cut into `groups` pieces. squared: a unit's own squared error. damage: what
    becomes of the outputs when a group is quantized alone. Groups that do most are halved, while proceed() allows it;
    units of groups that were not tried get the mean.
    """
    known: dict[Group, float] = {}
    for group in pieces(units, groups):
        if proceed():
            known[group] = damage(group)
    for _ in range(_SPLITS):
        wide = [group for group in known if len(group) > 1]
        worst = max(wide, key=lambda group: (known[group], -group[0]), default=())
        if not worst or known[worst] < _SHARE * sum(known.values()) or not proceed():
            break
        del known[worst]
        known.update((half, damage(half)) for half in pieces(worst, 2))
    errors = {group: sum(map(squared, group)) for group in known}
    total = sum(errors.values())
    if not total or not any(known.values()):
        return {}
    mean = sum(known.values()) / total
    by_group = {group: known[group] / errors[group] if errors[group] else mean for group in known}
    found = {unit: impact for group, impact in by_group.items() for unit in group}
    return {unit: found.get(unit, mean) for unit in units}


def pieces(units: Sequence[int], count: int) -> list[Group]:
    """Units in at most `count` runs that are about as long."""
    count = min(count, len(units))
    bounds = [round(i * len(units) / count) for i in range(count + 1)] if count else []
    return [tuple(units[start:end]) for start, end in pairwise(bounds)]
