"""Peers, as their own documentation uses them: `python -m benchmarks.peers NAME IN OUT` runs one.

Without arguments it tells which there are, with their versions. It needs nothing of accelc, as peers may live in an
environment of their own.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable


def _onnxsim(source: str, target: str) -> None:
    import onnx
    import onnxsim

    model, checked = onnxsim.simplify(onnx.load(source))
    if not checked:
        raise SystemExit("onnxsim says that its result computes something else")
    onnx.save(model, target)


def _onnxslim(source: str, target: str) -> None:
    import onnxslim

    onnxslim.slim(source, target)


def _onnxscript(source: str, target: str) -> None:
    import onnx
    from onnxscript import optimizer

    onnx.save(optimizer.optimize(onnx.load(source)), target)


def _dynamic(source: str, target: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8)


PEERS: dict[str, tuple[str, Callable[[str, str], None]]] = {
    "onnxsim": ("onnxsim", _onnxsim),
    "onnxslim": ("onnxslim", _onnxslim),
    "onnxscript": ("onnxscript", _onnxscript),
    "quantize_dynamic": ("onnxruntime", _dynamic),
}
"""Name -> the module that it comes from, and what runs it."""


def version(module: str) -> str | None:
    """Of an installed module, or None."""
    for name in importlib.metadata.packages_distributions().get(module, ()):
        return importlib.metadata.version(name)
    return None


if __name__ == "__main__":
    if sys.argv[1:]:
        PEERS[sys.argv[1]][1](sys.argv[2], sys.argv[3])
    else:
        print(json.dumps({name: found for name, (module, _) in PEERS.items() if (found := version(module))}))
