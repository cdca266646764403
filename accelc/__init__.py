"""accelc, the ONNX compiler you can trust: nothing wrong, nothing slower, nothing bigger, nothing silent.

    import accelc
    result = accelc.optimize("model.onnx", level=3)
    print(result.report.latency.ratio)

Names are loaded when they are first used, so that importing accelc costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelc import ir as ir
    from accelc.api import optimize as optimize
    from accelc.api import optimize_each as optimize_each
    from accelc.backend_base import Backend as Backend
    from accelc.bench_api import bench as bench
    from accelc.benchmark.results import BenchResult as BenchResult
    from accelc.context import Context as Context
    from accelc.errors import AccelcError as AccelcError
    from accelc.errors import BackendError as BackendError
    from accelc.errors import ModelError as ModelError
    from accelc.errors import PassError as PassError
    from accelc.errors import PluginError as PluginError
    from accelc.errors import RuleError as RuleError
    from accelc.errors import UsageError as UsageError
    from accelc.errors import VerifyError as VerifyError
    from accelc.instrument import Instrument as Instrument
    from accelc.pass_base import Pass as Pass
    from accelc.pass_base import PassResult as PassResult
    from accelc.pass_base import RulePass as RulePass
    from accelc.pattern import Const as Const
    from accelc.pattern import Maybe as Maybe
    from accelc.pattern import Ops as Ops
    from accelc.pattern import Scalar as Scalar
    from accelc.pattern import Var as Var
    from accelc.pipeline import Pipeline as Pipeline
    from accelc.quantize_api import quantize as quantize
    from accelc.report import Report as Report
    from accelc.rules import Law as Law
    from accelc.rules import Match as Match
    from accelc.rules import Rule as Rule
    from accelc.rules import rule as rule
    from accelc.rules import rules_of as rules_of
    from accelc.target import Target as Target
    from accelc.targets import Result as Result
    from accelc.targets import TargetsError as TargetsError

_HOMES = {
    "api": "optimize optimize_each",
    "backend_base": "Backend",
    "bench_api": "bench",
    "benchmark.results": "BenchResult",
    "context": "Context",
    "errors": "AccelcError BackendError ModelError PassError PluginError RuleError UsageError VerifyError",
    "instrument": "Instrument",
    "pass_base": "Pass PassResult RulePass",
    "pattern": "Const Maybe Ops Scalar Var",
    "pipeline": "Pipeline",
    "quantize_api": "quantize",
    "report": "Report",
    "rules": "Law Match Rule rule rules_of",
    "target": "Target",
    "targets": "Result TargetsError",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = ["__version__", "ir", *_HOME]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("accelc")
    if name == "ir":
        return importlib.import_module("accelc.ir")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'accelc' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"accelc.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
