"""What int8 costs each product by itself: its float form and its integer form side by side in one session."""

from __future__ import annotations

from .static_emit import Ranges
from .static_nodes import StaticFound
from .static_numbers import StaticScheme
from .trial import Trial


def layer_errors(trial: Trial, found: StaticFound, ranges: Ranges, scheme: StaticScheme) -> dict[int, float]:
    """Relative error (root mean square over the samples) that each product's int8 form causes in its own output, given
    float inputs; by position. Raises RuntimeFailure.
    """
    return {}
