"""Calibration: what values are seen at tensors while a model runs on data, and the ranges that follow from it.

Names are loaded when they are first used: the child process needs only the observers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelc.calibration.collect import Calibration as Calibration
    from accelc.calibration.histogram import Histogram as Histogram
    from accelc.calibration.ranges import METHODS as METHODS
    from accelc.calibration.ranges import Method as Method
    from accelc.calibration.statistics import Observe as Observe
    from accelc.calibration.statistics import Statistics as Statistics

_HOME = {
    "METHODS": "ranges",
    "Calibration": "collect",
    "Histogram": "histogram",
    "Method": "ranges",
    "Observe": "statistics",
    "Statistics": "statistics",
}
__all__ = ["METHODS", "Calibration", "Histogram", "Method", "Observe", "Statistics"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'accelc.calibration' has no attribute {name!r}")
    return getattr(importlib.import_module(f"accelc.calibration.{_HOME[name]}"), name)
