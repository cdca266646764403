"""Python files of the user's own, imported by path."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any


class _Tidy(SourceFileLoader):
    """Loads a file and leaves no compiled form of it beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        pass


def import_file(path: Path, prefix: str) -> ModuleType:
    """The module that a file is, under the name prefix_FILE. Raises what its code raises while it is imported."""
    name = f"{prefix}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Tidy(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
