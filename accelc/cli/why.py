"""`accelc optimize --why`: of a kind of block, a pass or a rule."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from accelc import blocks
from accelc.backend_base import BackendSpec
from accelc.block_parts import Kind
from accelc.catalog import PassInfo, all_passes, written
from accelc.cli import why_layers
from accelc.context import Context, Settings, fold
from accelc.decisions import Decisions
from accelc.errors import UsageError
from accelc.infer import infer_model
from accelc.plugins import find_backend
from accelc.report import Report
from accelc.rules import Rule
from accelc.targets import Result
from accelc.why import BlockWhy, explain, explain_block


@dataclass(frozen=True)
class Subject:
    """What is to be explained. name: as it is written. owners: the passes concerned. rule: None for more than one.

    kind: of blocks, when it is one.
    """

    name: str
    owners: tuple[PassInfo, ...]
    rule: Rule | None = None
    kind: Kind | None = None


def subject(name: str) -> Subject:
    """What a user means by a name: a kind of block first, then a rule, then a pass or another name that it reports.

    Raises UsageError for an unknown name.
    """
    passes = {each.name: each for each in all_passes()}
    for kind in blocks.KINDS:
        if fold(name) == kind:
            owners = (passes[each] for each in blocks.PASSES[kind] if each in passes)
            return Subject(kind, tuple(owners), kind=kind)
    for owner in passes.values():
        for rule in owner.rules:
            if fold(rule.name) == fold(name):
                return Subject(rule.name, (owner,), rule)
    try:
        known = written(name, list(passes.values()))
    except UsageError:
        raise UsageError(f"there is nothing named {name!r} to explain", hint=_hint(name, passes)) from None
    if known in passes:
        return Subject(known, (passes[known],))
    return Subject(known, tuple(each for each in passes.values() if _reports(each, known)))


def _hint(name: str, passes: Mapping[str, PassInfo]) -> str:
    rules = [rule.name for owner in passes.values() for rule in owner.rules]
    known = {fold(each): each for each in (*blocks.KINDS, *passes, *rules)}
    close = difflib.get_close_matches(fold(name), known, 3)
    if not close:
        return "--why takes attention, norm, activation, quantize, another pass or a rule; accelc rules lists them"
    return f"did you mean {' or '.join(known[each] for each in close)}?"


def _reports(owner: PassInfo, name: str) -> bool:
    return any(name == each or (each.endswith("*") and name.startswith(each[:-1])) for each in owner.rule_names)


def context(result: Result, options: Mapping[str, Any]) -> Context:
    """What the rules were asked in, with nothing switched off; what was decided by measuring stays decided."""
    spec = BackendSpec.parse(result.target)
    target = find_backend(spec.name)(spec.options).target()
    settings = Settings(options["portable"], seed=options["seed"], measure=False)
    return Context(target, settings, decisions=Decisions(known=result.report.decisions))


def lines(about: Subject, result: Result, ctx: Context, disabled: frozenset[str] = frozenset()) -> Iterator[str]:
    """The answer. ctx: for the target and the settings of the result, with no rule switched off.

    disabled: the names of passes and rules that the user left out.
    """
    why_off = _switched_off(result.report, disabled)
    if about.name == why_layers.PASS:
        yield from why_layers.lines(result.report)
    elif about.kind is not None:
        yield from _of_blocks(about.kind, about, result, ctx, why_off)
    elif about.rule is not None:
        yield from _of_rule(about.rule, about.owners[0], result, ctx, why_off)
    elif any(owner.rules for owner in about.owners):
        yield from _of_pass(about.owners[0], result, ctx, why_off)
    else:
        yield _of_name(about, result.report)


def _switched_off(report: Report, disabled: frozenset[str]) -> dict[str, str]:
    """Why passes and rules are switched off, by name."""
    off = {fold(name): "is switched off by --disable" for name in disabled}
    return off | {fold(each.name): f"was switched off ({each.gate}): {each.reason}" for each in report.refused}


def _obstacle(rule: Rule, owner: PassInfo, report: Report, why_off: Mapping[str, str]) -> str:
    """What keeps a rule that would fire from doing so."""
    for name, what in ((rule.name, "it"), (owner.name, f"pass {owner.name}")):
        if fold(name) in why_off:
            return f"{what} {why_off[fold(name)]}"
    if all(record.name != owner.name for record in report.passes):
        return f"the pipeline does not run pass {owner.name}"
    return "it would fire now; run it once more"


def _fired(rule: Rule, report: Report) -> tuple[int, int]:
    """How often a rule fired and was tried."""
    stats = [each for record in report.passes for each in record.rules if each.rule == rule.name]
    return sum(each.fired for each in stats), sum(each.tried for each in stats)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


# --- blocks ----------------------------------------------------------------------------------------------------------


def _of_blocks(kind: Kind, about: Subject, result: Result, ctx: Context, why_off: Mapping[str, str]) -> Iterator[str]:
    infer_model(result.model)
    found = [block for block in blocks.find_blocks(result.model) if block.kind == kind]
    have = result.report.blocks.get(kind)
    if have is None:
        yield f"{kind}: the model has no such block"
        return
    yield _summary(kind, have)
    if have.unfused:
        yield from (f"  {line}" for line in _idle_passes(about, result.report, why_off))
    owner_of = {rule.name: owner for owner in about.owners for rule in owner.rules}
    rules = [rule for owner in about.owners for rule in owner.rules]
    for block in found:
        if block.state == "unfused":
            yield f"  {_of_block(explain_block(block, rules, ctx), about, owner_of, result.report, why_off)}"


def _idle_passes(about: Subject, report: Report, why_off: Mapping[str, str]) -> Iterator[str]:
    """The passes concerned that had no chance to fuse anything."""
    run = {record.name for record in report.passes}
    for owner in about.owners:
        if fold(owner.name) in why_off:
            yield f"pass {owner.name} {why_off[fold(owner.name)]}"
        elif owner.rules and owner.name not in run:
            yield f"the pipeline does not run pass {owner.name}"


def _summary(kind: str, have: blocks.BlockCount) -> str:
    number = "the only block" if have.found == 1 else f"all {have.found} blocks"
    if have.fused == have.found:
        return f"{kind}: {number} {'is' if have.found == 1 else 'are'} fused"
    parts = [f"{have.fused} of {have.found} blocks fused"]
    if have.runtime:
        parts.append(f"{have.runtime} left to the runtime, which fuses them while loading")
    if have.gone:
        parts.append(f"{have.gone} gone: nobody used them, or they were equal to another one")
    if have.unfused:
        parts.append(f"{have.unfused} in parts:")
    return f"{kind}: {', '.join(parts)}"


def _of_block(
    why: BlockWhy, about: Subject, owner_of: Mapping[str, PassInfo], report: Report, why_off: Mapping[str, str]
) -> str:
    block, rule = why.block, why.rule
    if rule is None:
        names = " or ".join(owner.name for owner in about.owners) or about.name
        return f"{block.where}: no rule of {names} starts at {block.form} parts like these"
    if not why.reason:
        return f"{block.where}: {rule.name}: {_obstacle(rule, owner_of[rule.name], report, why_off)}"
    at = "" if f" {block.anchor.name} (" in why.where else f" at {why.where}"
    return f"{block.where}: {rule.name}{at}: {why.reason}"


# --- rules and passes ------------------------------------------------------------------------------------------------


def _of_rule(rule: Rule, owner: PassInfo, result: Result, ctx: Context, why_off: Mapping[str, str]) -> Iterator[str]:
    """How often the rule fired, then the closest partial match that is left."""
    report = result.report
    yield f"{rule.name} of pass {owner.name}, {rule.source}"
    yield f"  {rule.law}"
    if not any(record.name == owner.name for record in report.passes):
        yield f"  the pipeline does not run pass {owner.name}"
    else:
        fired, tried = _fired(rule, report)
        yield f"  fired {fired} times, tried at {tried} nodes"
    found = explain(rule, result.model, ctx)
    roots = " or ".join(dict.fromkeys(form.op_type for form in rule.before))
    if found.fires:
        more = f" and {len(found.fires) - 1} more" if len(found.fires) > 1 else ""
        yield f"  it would fire at {found.fires[0]}{more}"
        if fold(rule.name) in why_off or fold(owner.name) in why_off:
            yield f"  it does not because: {_obstacle(rule, owner, report, why_off)}"
    elif not found.roots:
        yield f"  it starts at {roots}, and the result has none"
    else:
        yield f"  the closest of {found.roots} places left ({roots}): {found.depth} nodes match at {found.where}"
        yield f"  it stops because: {found.reason}"


def _of_pass(owner: PassInfo, result: Result, ctx: Context, why_off: Mapping[str, str]) -> Iterator[str]:
    """A line for each rule of a pass that fired, or that has a place where it could start."""
    report, idle = result.report, 0
    runs = [record for record in report.passes if record.name == owner.name]
    changes = sum(record.changes for record in runs)
    done = f"{changes} changes in {len(runs)} runs" if runs else "the pipeline does not run it"
    yield f"pass {owner.name}: {owner.summary} {done}"
    for rule in owner.rules:
        found, fired = explain(rule, result.model, ctx), _fired(rule, report)[0]
        parts = [f"fired {_times(fired)}"] if fired else []
        if found.fires:
            parts.append(f"would fire at {found.fires[0]}, but {_obstacle(rule, owner, report, why_off)}")
        elif found.roots and found.reason:
            parts.append(f"comes closest at {found.where}, where it stops because: {found.reason}")
        if parts:
            yield f"  {rule.name}: {'; '.join(parts)}"
        else:
            idle += 1
    if idle:
        yield f"  {idle} more rules start at operators that the result does not have"


def _of_name(about: Subject, report: Report) -> str:
    """One line on what is not made of rules."""
    names = " and ".join(owner.name for owner in about.owners)
    runs = [record for record in report.passes if record.name in {owner.name for owner in about.owners}]
    changes = sum(record.changes for record in runs)
    what = f"pass {names}" if about.name == names else f"{about.name} is what pass {names} calls its changes; the pass"
    done = f"it made {changes} changes here" if runs else "the pipeline does not run it"
    return f"{what} is not made of rules, so there is no pattern to come close to; {done}"
