"""What int8 can win on a processor, known beforehand: a table by instruction set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Speeds:
    """How many times as fast as float one operator is: activations x weights, unsigned or signed."""

    u8s8: float
    u8u8: float
    s8s8: float


@dataclass(frozen=True)
class Profile:
    """What one kind of processor does with integers.

    exact: sums of u8 x s8 products are exact with weights of 8 bits. products: matrix products of 128 rows; conv: 1 x 1
    and 3 x 3; depthwise: one channel in each group. row: products of one row, with weights of 8 and of 4 bits in
    blocks; rows: the same of 128 rows with 4 bits. None: not measured.
    """

    name: str
    exact: bool
    products: Speeds | None = None
    conv: Speeds | None = None
    depthwise: float | None = None
    row: tuple[float, float] | None = None
    rows: float | None = None

    @property
    def best(self) -> str:
        """The form of activations x weights to use."""
        return "u8 x s8" if self.exact else "u8 x s8 with weights of 7 bits"

    def lines(self) -> list[str]:
        """What can win, a sentence each."""
        exactness = (
            "u8 x s8 products are exact in 8 bits"
            if self.exact
            else "u8 x s8 products saturate in pairs: weights are kept to 7 bits, or u8 x u8 is used"
        )
        found = [f"{self.name}: {exactness}"]
        if self.products is None or self.conv is None:
            return [*found, "its speed was not measured beforehand: candidates are timed where they are compiled"]
        for what, speeds in (("products", self.products), ("convolutions", self.conv)):
            found.append(
                f"{what}: u8 x s8 about {speeds.u8s8:g} times as fast as float, u8 x u8 {speeds.u8u8:g}, "
                f"s8 x s8 {speeds.s8s8:g}"
            )
        if self.depthwise is not None:
            found.append(f"depthwise convolutions: {self.depthwise:g}")
        if self.row is not None and self.rows is not None:
            eight, four = self.row
            found.append(
                f"one row, as when text is generated: weights of 4 bits {four:g}, of 8 bits {eight:g}; "
                f"with 128 rows 4 bits {self.rows:g}"
            )
        return found


# Ratios of CPU time in one thread, the operators alone, medians over several shapes: 128 x 768 x (768 | 3072) for
# products, 28 to 56 pixels and 64 to 256 channels for convolutions, blocks of 32 for weights in blocks. amx and
# avx512_vnni: the same Sapphire Rapids, with and without leave to use its tiles; avx2: Zen 3, its depthwise and its 128
# rows of 4 bits by the AVX2 kernels on Sapphire Rapids.
_MEASURED = {
    "amx_int8": Profile("amx", True, Speeds(6.7, 1.2, 0.15), Speeds(3.5, 1.0, 0.2), 1.3, (3.5, 4.5), 0.9),
    "avx512_vnni": Profile("avx512_vnni", True, Speeds(3.4, 1.1, 0.15), Speeds(3.5, 1.0, 0.2), 1.6, (3.4, 4.5), 0.9),
    "avx2": Profile("avx2", False, Speeds(1.9, 1.4, 0.3), Speeds(1.9, 1.4, 1.1), 1.4, (2.8, 3.4), 0.9),
}
_UNMEASURED = {
    "avx_vnni": Profile("avx_vnni", True),
    "avx512": Profile("avx512", False),
    "neon_i8mm": Profile("neon_i8mm", True),
    "neon_dot": Profile("neon_dot", True),
    "neon": Profile("neon", True),
}
_ORDER = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512", "avx2", "neon_i8mm", "neon_dot", "neon")
_UNKNOWN = Profile("a processor that is not known", False)


def profile_of(isa: Iterable[str]) -> Profile:
    """The profile of the best of some instruction sets."""
    have = frozenset(isa)
    name = next((each for each in _ORDER if each in have), None)
    if name is None:
        return _UNKNOWN
    return _MEASURED.get(name) or _UNMEASURED[name]
