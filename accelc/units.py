"""Times and sizes as people write them and read them."""

from __future__ import annotations

import math
import re

from accelc.errors import UsageError

_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def size(number: float) -> str:
    """Bytes as people read them: 1.23 MB."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000 or (unit == "MB" and number < 1e6):
            break
        number /= 1000
    else:
        unit = "MB"
    if unit == "MB" and number >= 1000:
        number, unit = number / 1000, "GB"
    return f"{int(number):,} bytes" if unit == "bytes" else f"{number:,.2f} {unit}"


def milliseconds(number: float) -> str:
    """Three digits that count."""
    return f"{number:.0f} ms" if number >= 100 else f"{number:.1f} ms" if number >= 10 else f"{number:.3f} ms"


def seconds(number: float) -> str:
    """Seconds, or milliseconds below one."""
    return f"{number:.1f} s" if number >= 1 else f"{1000 * number:.0f} ms"


def bytes_of(text: str) -> int:
    """Bytes from "300MB", "4GiB" or a number. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", text.strip().lower())
    number = float(found[1]) * _BYTES.get(found[2], math.nan) if found else math.nan
    if not 1 <= number < math.inf:
        raise UsageError(f"{text!r} is no size", hint="write 300MB or 4GiB")
    return int(number)
