"""Passes: frozen dataclasses whose fields are their options.

    @dataclass(frozen=True)
    class DropDoc(Pass):
        '''Remove doc strings from nodes.'''
        name = "drop-doc"
        limit: int = 0

        def run(self, model: ir.Model, ctx: Context) -> PassResult: ...

The first line of the docstring is the summary that `accelc passes` lists.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from accelc import ir, stamps, structure
from accelc.context import Context
from accelc.errors import AccelcError, PassError, UsageError
from accelc.rewrite import Driver, RuleStats
from accelc.rules import Rule


@dataclass(frozen=True)
class PassResult:
    """What a pass did. changes: how many. skipped: why it did not run. notes: what the report must say."""

    changes: int = 0
    skipped: str = ""
    notes: tuple[str, ...] = ()
    rules: tuple[RuleStats, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass:
    """Base of all passes.

    name: as in pipelines and on the command line. exact: outputs stay bit-equal. keeps_function: outputs stay equal up
    to rounding; a pass that changes the function on purpose (pruning) says False and is judged by quality instead.
    lossy: trades quality for speed within `--max-drop`. preserves: analyses that stay valid although the pass changed
    the model.
    """

    name: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    keeps_function: ClassVar[bool] = True
    lossy: ClassVar[bool] = False
    preserves: ClassVar[tuple[Callable[[ir.Model], Any], ...]] = ()

    @property
    def insists(self) -> bool:
        """Whether options ask for a form whatever it costs: a result that is slower or outside the budget is kept then,
        and the report says so.
        """
        return False

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        """Change the model in place and say what was done.

        Every change asks `ctx.spend(rule, node)` first and is left out when that is False, so that a fault can be
        bisected to it.
        """
        raise PassError("does not define run()", where=f"pass {self.name or type(self).__name__}")

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        """What `run` passes to `ctx.spend`, if not the name of the pass; `fold_*` stands for all that begin so.

        These are the names that the report gives and that `--disable` takes.
        """
        return ()

    @classmethod
    def summary(cls) -> str:
        return (inspect.getdoc(cls) or "").partition("\n")[0]

    def __str__(self) -> str:
        options = [
            f"{each.name}={_show(getattr(self, each.name))}"
            for each in dataclasses.fields(self)
            if getattr(self, each.name) != each.default
        ]
        return f"{self.name}{{{', '.join(options)}}}" if options else self.name


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass that is nothing but rules, applied to a fixpoint."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return tuple(rule.name for rule in cls.rules)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        driver = Driver(self.rules)
        changes = driver.run(model, ctx)
        return PassResult(changes, rules=tuple(driver.stats.values()))


@dataclass
class PassRecord:
    """One run of a pass, for the report. depth: how deep inside fixpoints it ran."""

    name: str
    text: str
    changes: int
    seconds: float
    nodes: int
    bytes: int
    skipped: str = ""
    notes: tuple[str, ...] = ()
    rules: tuple[RuleStats, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def run_pass(each: Pass, model: ir.Model, ctx: Context) -> PassResult:
    """Run one pass under the context's instruments and check what it leaves behind.

    Raises PassError, naming the pass, when it fails or breaks the structure of the model.
    """
    if ctx.disabled(each.name):
        return PassResult(skipped="disabled")
    if ctx.fuel.empty:
        return PassResult(skipped="out of fuel")
    if not all(instrument.should_run(each, model, ctx) for instrument in ctx.instruments):
        return PassResult(skipped="held back by an instrument")
    outer = ctx.begin(each)
    since = ctx.version
    for instrument in ctx.instruments:
        instrument.before(each, model, ctx)
    stamps.begin(model)
    try:
        result = each.run(model, ctx)
        if result.changes:
            stamps.stamp(model, each.name)
            ctx.preserve(each.preserves, since)
            structure.check(model, ctx.contract)
    except Exception as error:
        for instrument in ctx.instruments:
            instrument.failed(each, error, model, ctx)
        if isinstance(error, AccelcError) and not isinstance(error, PassError):
            raise
        if isinstance(error, PassError) and error.where.startswith("pass "):
            raise
        what = str(error) if isinstance(error, AccelcError) else f"{type(error).__name__}: {error}"
        raise PassError(what, where=f"pass {each.name}") from error
    finally:
        ctx.current = outer
    for instrument in ctx.instruments:
        instrument.after(each, result, model, ctx)
    return result


# --- options as text -------------------------------------------------------------------------------------------------


def make_pass(kind: type[Pass], options: Mapping[str, Any]) -> Pass:
    """A pass from option texts or values. Raises UsageError naming the option and what it may be."""
    fields = {each.name: each for each in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for raw, value in options.items():
        name = raw.replace("-", "_")
        if name not in fields:
            known = ", ".join(sorted(fields)) or "no options"
            raise UsageError(f"unknown option {raw!r}", where=f"pass {kind.name}", hint=f"it has {known}")
        values[name] = _convert(value, hints[name], f"pass {kind.name}: option {raw}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error), where=f"pass {kind.name}") from error


def option_table(kind: type[Pass]) -> list[tuple[str, str, str]]:
    """(name, type, default) of each option of a pass."""
    hints = typing.get_type_hints(kind)
    return [
        (each.name, _type_text(hints[each.name]), "" if each.default is dataclasses.MISSING else _show(each.default))
        for each in dataclasses.fields(kind)
    ]


_UNIONS = (types.UnionType, typing.Union)  # Literal[...] | None is the second kind


_PLAIN = re.compile(r"[\w.+%/:|\-]+")
"""What pipeline text may hold without quotes."""


def _type_text(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(str(each) for each in typing.get_args(hint))
    if typing.get_origin(hint) in _UNIONS:
        return "|".join(_type_text(each) for each in typing.get_args(hint))
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "none" if value is None else str(value)


def _convert(value: Any, hint: Any, where: str) -> Any:
    wanted = _type_text(hint)
    if typing.get_origin(hint) is typing.Literal:
        for choice in typing.get_args(hint):
            if str(choice) == str(value):
                return choice
    elif typing.get_origin(hint) in _UNIONS:
        for part in typing.get_args(hint):
            try:
                return _convert(value, part, where)
            except UsageError:
                continue
    elif hint is type(None):
        if value is None or str(value).lower() == "none":
            return None
    elif hint is bool:
        if str(value).lower() in ("true", "1", "yes", "on", "false", "0", "no", "off"):
            return str(value).lower() in ("true", "1", "yes", "on")
    elif hint in (int, float, str) and isinstance(value, str | int | float):
        try:
            return hint(str(value))
        except ValueError:
            pass
    raise UsageError(f"cannot be {value!r}", where=where, hint=f"it is {wanted}")
