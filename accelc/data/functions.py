"""The user's own Python: `module:function` or `file.py:function`, and a function that yields feed sets."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from accelc.data.items import LABELS, Item, Source
from accelc.data.specs import InputSpec
from accelc.errors import AccelcError, UsageError
from accelc.user_module import import_file


def is_function(text: str) -> bool:
    """Whether a text names a function and no file: `module:function` or `file.py:function`."""
    home, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier() or Path(text).exists():
        return False
    return home.endswith(".py") or all(part.isidentifier() for part in home.split("."))


def load_function(text: str, what: str) -> Callable[..., Any]:
    """The function that `module:function` or `file.py:function` names. what: it is for, for messages.

    A module is also looked for in the working directory. Raises UsageError.
    """
    home, _, name = text.rpartition(":")
    if not is_function(text):
        raise UsageError(f"{what} cannot be {text!r}", hint="write module:function or file.py:function")
    try:
        module = _from_file(Path(home)) if home.endswith(".py") else _from_module(home)
    except UsageError:
        raise
    except Exception as error:  # the user's module may raise anything while it is imported
        why = f"{type(error).__name__}: {error}"
        raise UsageError(f"{what} cannot be imported", where=text, why=why) from error
    found = getattr(module, name, None)
    if not callable(found):
        why = f"{home} has no {name}" if found is None else f"{name} is no function"
        raise UsageError(f"{what} cannot be loaded", where=text, why=why)
    return found  # type: ignore[no-any-return]


def _from_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError("no such file", where=str(path))
    return import_file(path, "accelc_user")


class FunctionSource(Source):
    """Feed sets from a function without arguments, called anew for every reading.

    It returns an iterable of mappings from input name to array, that may hold `labels`, or of (mapping, label) pairs.
    Each mapping is one feed set.
    """

    batches = slow = True

    def __init__(self, text: str, specs: tuple[InputSpec, ...]) -> None:
        self.where, self.text, self.specs = text, text, specs
        self.function = load_function(text, "the data")

    def items(self, index: int = 0, of: int = 1) -> Iterator[Item]:
        names = {spec.name for spec in self.specs}
        for place, given in enumerate(self._given()):
            if place % of == index:
                yield self._item(given, place, LABELS in names)

    def _given(self) -> Iterator[Any]:
        done = 0
        try:
            found = self.function()
            if not isinstance(found, Iterable) or isinstance(found, Mapping | str | bytes):
                why = f"it returns a {type(found).__name__}"
                raise UsageError("is not a list or generator of feed sets", where=self.text, why=why)
            for given in found:
                yield given
                done += 1
        except AccelcError:
            raise
        except Exception as error:  # the user's code may raise anything
            why = f"{type(error).__name__}: {error}"
            raise UsageError(f"fails at sample {done}", where=self.text, why=why) from error

    def _item(self, given: Any, place: int, labels_are_an_input: bool) -> Item:
        where = f"{self.text}[{place}]"
        label = None
        if isinstance(given, tuple) and len(given) == 2:
            given, label = given
        if not isinstance(given, Mapping):
            why = f"it is a {type(given).__name__}"
            hint = "yield a dict from input name to array, or (dict, label)"
            raise UsageError("is no feed set", where=where, why=why, hint=hint)
        values = {str(name): value for name, value in given.items()}
        if label is None and not labels_are_an_input:
            label = values.pop(LABELS, None)
        return Item(values, where, None if label is None else np.atleast_1d(np.asarray(label)))
