"""Where the time goes, operator by operator, and what made the operators."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Of one row."""


@dataclass(frozen=True)
class Change:
    """A part of two models side by side."""
