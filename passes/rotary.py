"""Fuse rotary position embedding."""

from __future__ import annotations

from dataclasses import dataclass

from accelc.pass_base import RulePass
from accelc.rules import rules_of

RULES = rules_of(globals())


@dataclass(frozen=True)
class Rotary(RulePass):
    """Fuse rotary position embedding."""

    name = "rotary"
    exact = False
    rules = RULES
