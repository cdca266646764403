"""Every installed pass and rule, described: for `accelc passes`, `accelc rules` and `--why`."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelc.context import fold
from accelc.errors import PluginError, UsageError
from accelc.pass_base import Pass, option_table
from accelc.pipeline import LEVELS
from accelc.plugins import Entry, entries
from accelc.rules import Rule


@dataclass(frozen=True)
class OptionInfo:
    """An option of a pass. default: as pipelines write it; empty when the option must be given."""

    name: str
    type: str
    default: str


@dataclass(frozen=True)
class PassInfo:
    """A pass. levels: the -O levels that run it. changes: bits, rounding, quality or function: the most it may touch.

    rule_names: what its changes are reported under, see Pass.rule_names.
    error: why it cannot be loaded; nothing but name and origin is known then.
    """

    name: str
    origin: str
    levels: tuple[int, ...] = ()
    summary: str = ""
    doc: str = ""
    changes: str = ""
    options: tuple[OptionInfo, ...] = ()
    rules: tuple[Rule, ...] = ()
    rule_names: tuple[str, ...] = ()
    error: str = ""


def all_passes() -> list[PassInfo]:
    """Every known pass by name. One that cannot be loaded says why instead of failing the others."""
    return [_describe(entry) for entry in entries("pass").values()]


def one_pass(name: str) -> PassInfo:
    """One pass. Raises UsageError when there is none of that name, PluginError when it cannot be loaded."""
    known = entries("pass")
    entry = known.get(fold(name))
    if entry is None:
        raise UsageError(
            f"there is no pass named {name!r}", hint=suggest(fold(name), known, "accelc passes lists them")
        )
    entry.load()
    return _describe(entry)


def one_rule(name: str) -> tuple[Rule, PassInfo]:
    """A rule and the pass it belongs to. Raises UsageError when there is none of that name."""
    found = {fold(rule.name): (rule, owner) for owner in all_passes() for rule in owner.rules}
    if fold(name) not in found:
        names = {key: rule.name for key, (rule, _) in found.items()}
        close = difflib.get_close_matches(fold(name), names, 3)
        hint = (
            "did you mean " + " or ".join(names[each] for each in close) + "?" if close else "accelc rules lists them"
        )
        raise UsageError(f"there is no rule named {name!r}", hint=hint)
    return found[fold(name)]


def written(name: str, passes: Sequence[PassInfo]) -> str:
    """The name of a pass or rule as it is written, from what a user typed. Raises UsageError for an unknown one."""
    known = {fold(each.name): each.name for each in passes}
    known |= {fold(rule): rule for each in passes for rule in each.rule_names if not rule.endswith("*")}
    wanted = fold(name)
    if wanted in known:
        return known[wanted]
    for prefix in (rule[:-1] for each in passes for rule in each.rule_names if rule.endswith("*")):
        if re.fullmatch(re.escape(fold(prefix)) + r"[\w.-]+", wanted):
            return prefix + name.strip()[len(prefix) :]
    hint = suggest(wanted, known, "accelc passes and accelc rules list them")
    raise UsageError(f"there is no pass or rule named {name!r}", hint=hint)


def suggest(name: str, known: Mapping[str, object], otherwise: str) -> str:
    """A hint that names what is spelled most like `name`. known: the name as written, or anything, by folded name."""
    close = difflib.get_close_matches(name, known, 1)
    if not close:
        return otherwise
    written = known[close[0]]
    return f"did you mean {written if isinstance(written, str) else close[0]}?"


def level_names(level: int) -> frozenset[str]:
    """The passes that a level runs."""
    return frozenset(re.findall(r"[\w-]+", re.sub(r"\{[^}]*\}", "", LEVELS[level]))) - {"fixpoint"}


def _describe(entry: Entry) -> PassInfo:
    levels = tuple(level for level in LEVELS if entry.name in level_names(level))
    try:
        kind: type[Pass] = entry.load()
    except PluginError as error:
        return PassInfo(entry.name, entry.origin, levels, error=str(error))
    return PassInfo(
        entry.name,
        entry.origin,
        levels,
        kind.summary(),
        inspect.getdoc(kind) or "",
        _changes(kind),
        tuple(OptionInfo(*row) for row in option_table(kind)),
        _rules(getattr(kind, "rules", ())),
        kind.rule_names(),
    )


def _rules(found: Any) -> tuple[Rule, ...]:
    """The rules of a pass; what a third party calls `rules` may be anything."""
    return tuple(each for each in found if isinstance(each, Rule)) if isinstance(found, tuple | list) else ()


def _changes(kind: type[Pass]) -> str:
    if not kind.keeps_function:
        return "function"
    return "quality" if kind.lossy else "bits" if kind.exact else "rounding"
