"""Running a model on calibration data and keeping what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from accelc.calibration.statistics import Observe, Statistics

if TYPE_CHECKING:
    from accelc import ir


class Calibration:
    """The user's calibration data, and what models make of it.

    Statistics are kept: asking again for the same tensors of the same graph costs nothing.
    """

    def statistics(self, model: ir.Model, wanted: Mapping[str, Observe]) -> dict[str, Statistics]:
        """What was seen at values of the main graph, by name; the model runs once over all of the data.

        Raises UsageError for data on which the model does not run.
        """
        raise KeyError(next(iter(wanted)))
