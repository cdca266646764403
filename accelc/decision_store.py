"""Decisions on disk: one JSON file for each environment, so that a question is measured once per machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "accelc.decisions/1"
_KEPT = ("choice", "alternative", "ratio", "low", "high", "rounds", "date", "names", "out")


@dataclass(frozen=True)
class Decision:
    """The answer to one question.

    rule: who asked. case: what the answer depends on. choice: the name of the graph to use. how: measured, cached (an
    earlier run measured it) or default (the shipped answer). alternative: the fastest of the other graphs, and ratio
    with its 95 % interval low to high its speed against the graph as it is; None where nothing was timed. rounds: of
    that timing. date: when, in UTC. names: the graphs there were, the one as it is first. out: why a graph was not
    timed. reason: why a shipped answer was not measured. places: how often the answer was needed.
    """

    rule: str
    case: str
    choice: str
    how: str = "default"
    alternative: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    date: str = ""
    names: tuple[str, ...] = ()
    out: Mapping[str, str] = field(default_factory=dict, hash=False)
    reason: str = ""
    places: int = 0

    @property
    def evidence(self) -> str:
        """What the choice rests on, in a few words."""
        if self.how == "default":
            return f"shipped default: {self.reason}" if self.reason else "shipped default"
        if self.ratio is None:
            return f"{self.how}: " + ("; ".join(f"{name}: {why}" for name, why in self.out.items()) or "no alternative")
        figures = f"{self.ratio:.2f} [{self.low or 0:.2f}, {self.high or 0:.2f}]"
        return (
            f"{self.how} {figures}" if self.choice == self.alternative else f"{self.how}, {self.alternative} {figures}"
        )


def folder() -> Path | None:
    """Where decisions are kept: under ACCELC_CACHE, else the user's folder for caches. None without a home."""
    given = os.environ.get("ACCELC_CACHE")
    if given:
        return Path(given) / "decisions"
    try:
        return _user_cache() / "accelc" / "decisions"
    except RuntimeError:
        return None


def _user_cache() -> Path:
    """Raises RuntimeError where nobody knows the user's home."""
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if xdg and Path(xdg).is_absolute():
        return Path(xdg)
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def file_of(environment: Mapping[str, Any]) -> str:
    """The name of the file for an environment."""
    text = json.dumps(environment, sort_keys=True)
    return f"{environment.get('backend', 'any')}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


class Store:
    """The decisions of one environment. It never fails: what cannot be read or written is told once through `note`."""

    def __init__(self, where: Path | None, environment: Mapping[str, Any], note: Callable[[str], None]) -> None:
        self.environment, self._note = environment, note
        self.path = None if where is None else where / file_of(environment)
        self._entries: dict[tuple[str, str], Decision] | None = None
        if where is None:
            note("decisions are not kept: this user has no home folder; set ACCELC_CACHE to a folder")

    def get(self, rule: str, case: str) -> Decision | None:
        """What was decided before, or None."""
        if self._entries is None:
            self._entries = self._load()
        return self._entries.get((rule, case))

    def put(self, decision: Decision) -> None:
        """Keep a decision; those that other processes wrote meanwhile stay."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path):
                entries = self._load() | {(decision.rule, decision.case): decision}
                write(self.path, self.environment, entries.values())
        except OSError as error:
            self._note(f"decisions cannot be kept in {self.path.parent}: {error.strerror or error}")
            self.path = None

    def _load(self) -> dict[tuple[str, str], Decision]:
        if self.path is None:
            return {}
        try:
            _, entries = read(self.path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._note(f"decisions in {self.path} cannot be read: {error.strerror or error}")
            return {}
        except ValueError as error:
            self._note(f"decisions in {self.path} are damaged ({error}) and are measured afresh")
            return {}
        return {(each.rule, each.case): each for each in entries}


def read(path: Path) -> tuple[dict[str, Any], list[Decision]]:
    """The environment of a file and its decisions. Raises OSError, and ValueError for a damaged file."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        raise ValueError(f"no file of schema {SCHEMA}")
    environment, rules = body.get("environment"), body.get("decisions")
    if not isinstance(environment, dict) or not isinstance(rules, dict):
        raise ValueError("environment or decisions are missing")
    found = []
    for rule, cases in rules.items():
        if not isinstance(cases, dict):
            raise ValueError(f"rule {rule} holds no decisions")
        found += [_decision(rule, case, kept) for case, kept in cases.items()]
    return environment, found


def _decision(rule: str, case: str, kept: object) -> Decision:
    """Raises ValueError for what `write` does not write."""
    if not isinstance(kept, dict) or set(kept) != set(_KEPT):
        raise ValueError(f"the entry {rule}: {case}")
    texts = all(isinstance(kept[name], str) for name in ("choice", "alternative", "date"))
    numbers = all(kept[name] is None or isinstance(kept[name], int | float) for name in ("ratio", "low", "high"))
    names, out = kept["names"], kept["out"]
    lists = isinstance(names, list) and isinstance(out, dict) and isinstance(kept["rounds"], int)
    if not (texts and numbers and lists and kept["choice"] in names and (kept["ratio"] is None or kept["ratio"] > 0)):
        raise ValueError(f"the entry {rule}: {case}")
    reasons = {str(name): str(reason) for name, reason in out.items()}
    return Decision(rule, case, how="cached", **{**kept, "names": tuple(map(str, names)), "out": reasons})


def write(path: Path, environment: Mapping[str, Any], decisions: Iterable[Decision]) -> None:
    """Write a file in one step, so that a reader never sees half of it. Raises OSError."""
    rules: dict[str, dict[str, Any]] = {}
    for each in sorted(decisions, key=lambda one: (one.rule, one.case)):
        kept = {name: getattr(each, name) for name in _KEPT}
        rules.setdefault(each.rule, {})[each.case] = {**kept, "names": list(each.names), "out": dict(each.out)}
    body = {"schema": SCHEMA, "environment": dict(environment), "decisions": rules}
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(body, file, indent=1, allow_nan=False)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold other processes off while a file is read, changed and replaced.

    Where the system has no such locks, two that write at once may lose a decision, which is then measured again.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with open(path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- for people ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """A file of decisions. problem: why it cannot be read, or an empty text."""

    path: Path
    environment: Mapping[str, Any]
    decisions: tuple[Decision, ...]
    problem: str = ""


def listing(where: Path) -> list[Listed]:
    """Everything that is kept. Raises OSError."""
    found = []
    for path in sorted(where.glob("*.json")) if where.is_dir() else ():
        try:
            environment, decisions = read(path)
            found.append(Listed(path, environment, tuple(decisions)))
        except ValueError as error:
            found.append(Listed(path, {}, (), f"damaged: {error}"))
    return found


def clear(where: Path, rule: str | None = None) -> int:
    """Forget all decisions or those of one rule; how many. Damaged files go when all do. Raises OSError."""
    count = 0
    for each in listing(where):
        if rule is None:
            count += len(each.decisions)
            each.path.unlink(missing_ok=True)
            each.path.with_suffix(".lock").unlink(missing_ok=True)
        elif not each.problem:
            with _locked(each.path):
                environment, decisions = read(each.path)
                kept = [decision for decision in decisions if decision.rule != rule]
                if len(kept) < len(decisions):
                    write(each.path, environment, kept)
                    count += len(decisions) - len(kept)
    return count
