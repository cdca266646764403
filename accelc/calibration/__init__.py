"""Calibration: what values are seen at tensors while a model runs on data, and the ranges that follow from it."""

from accelc.calibration.collect import Calibration
from accelc.calibration.histogram import Histogram
from accelc.calibration.ranges import METHODS, Method
from accelc.calibration.statistics import Observe, Statistics

__all__ = ["METHODS", "Calibration", "Histogram", "Method", "Observe", "Statistics"]
