"""Reports to draw, made up, with everything that a report can hold."""

from __future__ import annotations

from typing import Any

from page_results import HOSTILE

from accelc.blocks import BlockCount
from accelc.compare import OutputQuality, Quality
from accelc.decision_store import Decision
from accelc.measure import Comparison
from accelc.pass_base import PassRecord
from accelc.placement import Placement, Stray
from accelc.report import Refusal, Report
from accelc.rewrite import RuleStats
from accelc.size import Size
from accelc.verdict import Verdict


def point(label: str, drop: float, ratio: float | None, **more: Any) -> dict[str, Any]:
    """A point of a curve."""
    known = {
        "label": label,
        "units": {"float": 1, "static": 4},
        "quality": {"cosine": 1 - min(drop, 1.0)},
        "drop": drop,
        "inside": drop <= 0.01,
        "reason": "" if drop <= 0.01 else "cosine is low",
        "ratio": ratio,
        "low": None if ratio is None else ratio - 0.1,
        "high": None if ratio is None else ratio + 0.1,
        "estimated": False,
        "bytes": 1_000_000,
        "chosen": False,
        "front": False,
    }
    return known | more


def curve(name: str) -> list[dict[str, Any]]:
    """Points of every kind. name: of the fastest."""
    return [
        point("float", 0.0, 1.0, front=True, low=None, high=None),
        point("dynamic", 0.004, 1.6, front=True, chosen=True),
        point(name, 0.05, 2.2, front=True),
        point("worse", 0.02, 1.2, estimated=True, low=None, high=None),
        point("not timed", 0.03, None),
        point("broken", float("inf"), 1.3),
    ]


CURVE = curve(f"static {HOSTILE}")


def compiled(**changes: Any) -> Report:
    """A report of -O3 with fused blocks, refusals, decisions and a curve."""
    before = Size(348, 422_282, 1_689_720, 1_736_468, {"Constant": 98, "MatMul": 24, "Add": 31, HOSTILE: 3}, 17)
    after = Size(52, 422_193, 1_689_056, 1_698_740, {"MatMul": 9, "Add": 7, "com.microsoft.Attention": 3}, 17)
    rules = (RuleStats("attention_of_projections", "attention.py:10", 9, 3, 0.01),)
    passes = [
        PassRecord("inline", "inline", 0, 0.0001, -1, -1, skipped="no functions"),
        PassRecord("constants", "constants", 98, 0.016, 250, 1_689_720),
        PassRecord("fold", "fold", 43, 0.62, 206, 1_689_676),
        PassRecord("attention", "attention", 3, 0.09, 89, 1_689_264, rules=rules),
        PassRecord("gelu", "gelu", 0, 0.3, -1, -1),
        PassRecord("quantize", "quantize{scheme=auto}", 37, 0.2, 52, 1_689_056, details={"curve": CURVE}),
    ]
    decision = Decision(
        "attention", f"H=4 {HOSTILE}", "Attention", "measured", "Attention", 1.68, 1.21, 1.89, 13, places=6
    )
    report = Report(
        source=f"models/{HOSTILE}.onnx",
        output="out.onnx",
        level=3,
        pipeline="inline, constants, fold, attention, quantize",
        target="cpu (avx2, avx512)",
        versions={"accelc": "0.1.0", "onnx": "1.20.0"},
        before=before,
        after=after,
        repairs=("an unused input was named twice",),
        passes=passes,
        refused=[Refusal("rule", "gelu_erf", "numbers", f"output {HOSTILE} differs by 3.1")],
        notes=["quantize: no calibration data"],
        verdict=Verdict(
            "within budget",
            quality=Quality((OutputQuality("logits", 0.99998, 1e-3, 2e-4, 0.99),)),
            samples=6,
            descriptions=tuple(f"batch={size} normal" for size in range(1, 9)),
            limit="1%",
        ),
        latency=Comparison(1.41, 1.2, 1.51, "faster", 2.052, 1.396, 2.4, 1.6, 24, 0.43),
        latency_note="a busy machine: single timings scatter by 43 %",
        unrun={"Fancy": 2},
        placement=Placement("cuda", 52, 3, (Stray("/unique", "Unique", "no kernel"),), ("x",)),
        seconds={"import": 0.002, "passes": 1.04, "verify": 0.02, "measure": 2.58},
        patches=199,
        decisions=[decision, Decision("resize", "any", "plain", places=2)],
        blocks={"attention": BlockCount(3, 2, 0, 1), "norm": BlockCount(7, 5, 1, 0, 1)},
    )
    for name, value in changes.items():
        setattr(report, name, value)
    return report
