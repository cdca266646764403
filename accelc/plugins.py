"""Finding passes and backends: the built-in ones and third-party ones come through the same entry points.

A name is claimed once. `load_plugin` adds what a module or a file defines for this process only.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from accelc.backend_base import Backend
from accelc.context import fold
from accelc.errors import PluginError, UsageError
from accelc.pass_base import Pass
from accelc.user_module import import_file

GROUPS = {"pass": "accelc.passes", "backend": "accelc.backends"}


@dataclass(frozen=True)
class Entry:
    """A named pass or backend: who brings it, and how to load its class."""

    name: str
    origin: str
    load: Callable[[], Any]


_loaded: dict[str, dict[str, Entry]] = {"pass": {}, "backend": {}}
_sources: dict[str, list[str]] = {}


def entries(kind: str) -> dict[str, Entry]:
    """Every known pass or backend by folded name, nothing loaded yet. Raises PluginError when two claim one name."""
    found: dict[str, Entry] = {}
    origins: dict[int, str] = {}  # reading a package's name parses all of its metadata
    for point in importlib.metadata.entry_points(group=GROUPS[kind]):
        dist = point.dist
        if dist is not None and id(dist) not in origins:
            origins[id(dist)] = f"{dist.name} {dist.version}"
        origin = origins[id(dist)] if dist is not None else point.value
        _claim(found, Entry(fold(point.name), origin, _entry_loader(kind, point, origin)), kind)
    for entry in _loaded[kind].values():
        _claim(found, entry, kind)
    return dict(sorted(found.items()))


def _claim(found: dict[str, Entry], entry: Entry, kind: str) -> None:
    other = found.get(entry.name)
    if other is not None and other.origin != entry.origin:
        raise PluginError(
            f"both {other.origin} and {entry.origin} bring a {kind} named {entry.name}",
            hint="rename one of them or uninstall its package",
        )
    found[entry.name] = entry


def _entry_loader(kind: str, point: importlib.metadata.EntryPoint, origin: str) -> Callable[[], Any]:
    def load() -> Any:
        try:
            found = point.load()
        except Exception as error:  # a third party's module may raise anything while it is imported
            raise PluginError(f"cannot load the {kind} {point.name}", where=origin, why=f"{error}") from error
        return _checked(found, kind, point.name, origin)

    return load


def _checked(found: Any, kind: str, name: str, origin: str) -> Any:
    base = Pass if kind == "pass" else Backend
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise PluginError(
            f"{name} is not a {base.__name__}", where=origin, hint=f"derive it from accelc.{base.__name__}"
        )
    if fold(found.name) != fold(name):
        raise PluginError(f"{name} names itself {found.name!r}", where=origin, hint="give it one name")
    return found


def _find(kind: str, name: str, known: Mapping[str, Entry]) -> Any:
    entry = known.get(fold(name))
    if entry is None:
        cutoff = 0.6 if kind == "pass" else 0.7  # between gpu and cpu there are 0.67
        close = difflib.get_close_matches(fold(name), known, 1, cutoff)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        raise UsageError(f"there is no {kind} named {name!r}", hint=hint)
    return entry.load()


def find_pass(name: str) -> type[Pass]:
    """The pass class of a name. Raises UsageError (unknown) or PluginError (cannot be loaded)."""
    return pass_finder()(name)


def pass_finder() -> Callable[[str], type[Pass]]:
    """`find_pass` for many names: what is installed is looked up once."""
    known = entries("pass")
    return lambda name: _find("pass", name, known)


def find_backend(name: str) -> type[Backend]:
    """The backend class of a name. Raises UsageError (unknown) or PluginError (cannot be loaded)."""
    return _find("backend", name, entries("backend"))  # type: ignore[no-any-return]


def load_plugin(source: str) -> list[str]:
    """Import a module, or a Python file, and make the passes and backends it defines known. Returns their names.

    Loading the same source again does nothing. Raises PluginError.
    """
    if source in _sources:
        return _sources[source]
    module = _import(source)
    added = []
    for kind, base in (("pass", Pass), ("backend", Backend)):
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__:
                name = fold(getattr(value, "name", "") or "")
                if not name:
                    continue
                entry = Entry(name, source, partial(_itself, value))
                known = entries(kind)
                _claim(known, entry, kind)
                _loaded[kind][name] = entry
                added.append(name)
    if not added:
        raise PluginError(
            "defines no pass and no backend", where=source, hint="derive a class from accelc.Pass and give it a name"
        )
    _sources[source] = added
    return added


def _itself(found: Any) -> Any:
    return found


def _import(source: str) -> ModuleType:
    path = Path(source)
    try:
        if path.suffix == ".py":
            if not path.is_file():
                raise PluginError("there is no such file", where=source)
            return import_file(path, "accelc_plugin")
        return importlib.import_module(source)
    except PluginError:
        raise
    except Exception as error:  # a third party's module may raise anything while it is imported
        raise PluginError("cannot be imported", where=source, why=f"{type(error).__name__}: {error}") from error
