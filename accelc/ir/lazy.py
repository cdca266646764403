"""Modules that a library imports and this program hardly ever uses."""

from __future__ import annotations

import sys
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import Any

_LOADING = RLock()


class _Deferred(ModuleType):
    """Stands for a module until something in it is asked for. (importlib's LazyLoader loads at the next `import`.)"""

    def __getattr__(self, attribute: str) -> Any:
        with _LOADING:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(import_module(self.__name__), attribute)


def defer(name: str) -> None:
    """Let a module be loaded when something in it is first asked for; without effect if it is loaded already."""
    if name not in sys.modules:
        sys.modules[name] = _Deferred(name)


# onnx_ir computes symbolic dimensions with sympy, which this program never asks it to: half of the time to start.
defer("onnx_ir._symbolic_shapes")
defer("sympy")
