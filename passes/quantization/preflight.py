"""What quantization can win, said before any work starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accelc import ir
from accelc.cost import estimate
from accelc.errors import AccelcError
from accelc.infer import stripped_proto
from accelc.int8 import Profile, profile_of
from accelc.target import Target, other_than_here

from .recognize import Recognized, form_of, recognize

_SERVED = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Conv", "FusedConv")
_WORTH = 1.05
"""An upper bound below this cannot be seen in a measurement."""


@dataclass(frozen=True)
class Preflight:
    """profile: what the processor does with integers. share: of the multiplications that int8 kernels can serve, 0..1.

    bound: how many times as fast the model can become, if all of these run in int8 and nothing else changes (Amdahl);
    None where the speed of the processor's integer kernels is not known, or the work of the model is not.
    """

    profile: Profile
    share: float | None = None
    bound: float | None = None
    by_operator: Mapping[str, float] = field(default_factory=dict)
    quantized: Recognized = field(default_factory=Recognized)
    elsewhere: str = ""

    def lines(self) -> list[str]:
        """A sentence each, the processor first."""
        found = list(self.profile.lines())
        if self.elsewhere:
            found.append(self.elsewhere)
        if self.quantized:
            found.append(str(self.quantized))
        if self.share is None:
            return [*found, "how much of the model int8 can serve is not known: shapes are missing"]
        shown = ", ".join(f"{name} {part:.0%}" for name, part in self.by_operator.items())
        detail = f" ({shown})" if shown else ""
        found.append(f"{self.share:.0%} of the arithmetic is in float products that int8 can serve{detail}")
        if self.bound is not None:
            limit = f"so the model can become at most {self.bound:.2f} times as fast by int8 alone"
            nothing = (
                "so nothing is left for int8" if self.quantized else "so int8 cannot make the model noticeably faster"
            )
            found.append(limit if self.bound >= _WORTH else nothing)
        return found

    def __str__(self) -> str:
        """One line for a report."""
        parts = [f"int8 on {self.profile.name}: {self.profile.best}"]
        if self.share is not None:
            parts.append(f"{self.share:.0%} of the arithmetic can be served")
        if self.bound is not None:
            parts.append(f"at most {self.bound:.2f} times as fast")
        return ", ".join(parts)


def preflight(model: ir.Model, target: Target, *, sizes: Mapping[str, int] | None = None) -> Preflight:
    """What int8 can win for a model on a target. sizes: of symbolic dimensions, by name; see accelc.cost."""
    profile, quantized = profile_of(target.isa), recognize(model)
    elsewhere = other_than_here(target.isa)
    weights, served = _weights(model), Counter[str]()

    def tell(node: ir.Node, work: int) -> None:
        if _weight(node) in weights:
            served[node.op_type] += work

    try:
        total = estimate(stripped_proto(model), Path(), sizes, tell).flops
    except AccelcError:
        total = 0
    if not total:
        return Preflight(profile, quantized=quantized, elsewhere=elsewhere)
    parts = {name: work / total for name, work in served.most_common()}
    return Preflight(profile, min(sum(parts.values()), 1.0), _bound(profile, parts), parts, quantized, elsewhere)


def _weights(model: ir.Model) -> frozenset[str]:
    """Names of the weights of products in float."""
    return frozenset(
        name
        for node in ir.walk(model)
        if (name := _weight(node)) and ir.is_constant(_second(node)) and not form_of(node)
    )


def _weight(node: ir.Node) -> str:
    """The name of the second factor of a product, before a Transpose of it; empty for anything else."""
    value = _second(node)
    return str(value.name) if value is not None else ""


def _second(node: ir.Node) -> ir.Value | None:
    value = node.inputs[1] if node.op_type in _SERVED and len(node.inputs) > 1 else None
    maker = value.producer() if value is not None else None
    return maker.inputs[0] if maker is not None and maker.op_type == "Transpose" else value


def _bound(profile: Profile, parts: Mapping[str, float]) -> float | None:
    """The speed-up if what can be served runs as fast as the table says."""
    if profile.products is None or profile.conv is None:
        return None
    left = max(1 - sum(parts.values()), 0.0)
    for name, part in parts.items():
        left += part / (profile.conv.u8s8 if "Conv" in name else profile.products.u8s8)
    return 1 / left
