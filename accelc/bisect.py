"""Finding the one change that breaks a result."""

from __future__ import annotations

from collections.abc import Callable


def find_guilty(total: int, passes: Callable[[int], bool]) -> int:
    """The number of the first change after which the result fails, 1..total.

    passes(n): whether the result of the first n changes is still good; it is known to fail at `total`, and a graph
    without changes is taken to be good. Asks about log2(total) times.
    """
    good, bad = 0, total
    while bad - good > 1:
        middle = (good + bad) // 2
        if passes(middle):
            good = middle
        else:
            bad = middle
    return bad
