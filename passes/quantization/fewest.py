"""How many changes it takes to bring a plan inside the budget, found with few tries."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

_GUESSES = 5
"""So many tries follow the expected errors, the others halve."""
_AIM, _NEAR = 0.92, 0.85
"""Share of the budget that is aimed at, and that is near enough to stop."""
_LATE_AIM = 0.4
"""What is aimed at when only one try is left."""

Tried = tuple[float, bool]
"""What is lost, and whether that is inside the budget."""


def fewest(
    most: int,
    attempt: Callable[[int], Tried],
    left: Sequence[float],
    allowed: float,
    proceed: Callable[[], bool],
    tries: int,
) -> int | None:
    """A small count in 1..most that is inside the budget; None where none was found.

    attempt: what a count of changes gives; that of 0 is known and outside. left: the expected loss after 0, 1, ...,
    most changes, up to a factor; it does not grow. proceed: whether there is time for another try; one is made in any
    case. tries: the most.
    """
    known = {0: attempt(0)[0]}
    low, high, missed = 0, most + 1, 0  # `low` is too few, `high` is enough or was not tried
    for tried in range(tries):
        late = not proceed()
        if high - low <= 1 or (late and tried):
            break
        aim = (_LATE_AIM if late else _AIM * 0.8**missed) * allowed
        count = _guess(left, known, low, high, aim) if tried < _GUESSES else (low + high) // 2
        lost, inside = attempt(count)
        known[count] = lost
        if inside:
            high, missed = count, 0
            if lost >= _NEAR * allowed:
                break
        else:
            low, missed = count, missed + 1
    return high if high <= most else None


def _guess(left: Sequence[float], known: dict[int, float], low: int, high: int, aim: float) -> int:
    """The count at which the loss should be what is aimed at, between the two counts."""
    if left[low] <= 0 or known[low] <= 0:
        return (low + high) // 2
    wanted = left[low] * aim / known[low]
    if high in known and left[low] > left[high] and known[low] > known[high]:
        share = (known[low] - aim) / (known[low] - known[high])
        wanted = left[low] - share * (left[low] - left[high])
    count = bisect_left(range(low, len(left)), True, key=lambda n: left[n] <= wanted) + low
    return min(max(count, low + 1), high - 1)
