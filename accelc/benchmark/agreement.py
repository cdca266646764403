"""The column of errors: what a case computes against what the first one computes."""

from __future__ import annotations

from collections.abc import Sequence

from accelc.benchmark.results import Error
from accelc.compare import measure_quality
from accelc.data import Values
from accelc.errors import VerifyError


def error_of(expected: Sequence[Values], actual: Sequence[Values], against: int, random: frozenset[str]) -> Error:
    """Outputs by name for each feed set, against those of row number `against`. random: outputs to leave out."""
    one, two = (
        [{name: each[name] for name in each if name not in random} for each in side] for side in (expected, actual)
    )
    if not any(one) and not any(two):
        return Error(against, text="every output is random" if any(expected) else "there is no output")
    try:
        found = measure_quality(one, two)
    except VerifyError as error:
        return Error(against, text=": ".join(filter(None, (error.where, error.why or error.what))))
    return Error(against, found.cosine, found.relative_error, found.top1)
