"""Offline and server scenarios: throughput under concurrency, latency under Poisson arrivals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What a scenario found for one row; see the module."""

    scenario: str
    concurrency: int
