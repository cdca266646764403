"""Writes docs/fusions.md from the rules and docs/fusions.toml: `python docs/fusions.py`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelc.catalog import PassInfo, all_passes
from accelc.pattern import AnyOf, Op, Term
from accelc.rules import Rule

HERE = Path(__file__).parent
PAGE, WORDS = HERE / "fusions.md", HERE / "fusions.toml"

HEAD = """# Fusions

What -O2 makes of a model beyond tidying it up: by family the law, the forms it is found in, what they become, and the
figures that justify it. `accelc rules PASS` prints the rules with the line where each is written,
`accelc optimize MODEL --why attention` the reason for each block that stayed in parts.

This page is made by `python docs/fusions.py` from the rules and from `docs/fusions.toml`.

- **may change**: bits: nothing, outputs stay bit-equal; rounding: the last digits, at most 1e-5 of the output's range
  unless said otherwise.
- **opset**: the oldest the replacement needs; the model's is raised to it where that is safe.
- **starts at**: the operators at which the form ends, and in brackets those inside it.
- **ratio**: time of the original by time of the rewritten graph; above 1 is faster. Figures: {machine}.
"""


def page(words: Mapping[str, Any], passes: Mapping[str, PassInfo]) -> str:
    """The whole page."""
    parts = [HEAD.format(machine=words["machine"]), overview(words["family"], passes)]
    parts += [section(family, passes) for family in words["family"]]
    return "\n".join(parts)


def overview(families: Sequence[Mapping[str, Any]], passes: Mapping[str, PassInfo]) -> str:
    rows = []
    for family in families:
        owners = [passes[name] for name in family["passes"]]
        names = ", ".join(f"`{owner.name}` ({levels(owner)})" for owner in owners)
        link = f"[{family['title']}](#{family['title'].lower().replace(' ', '-')})"
        rows.append((link, names, str(sum(len(owner.rule_names) for owner in owners)), family["target"]))
    return table(("family", "passes", "rules", "becomes"), rows)


def section(family: Mapping[str, Any], passes: Mapping[str, PassInfo]) -> str:
    parts = [f"## {family['title']}\n", family["text"].strip() + "\n"]
    parts.append(f"- Law: {family['law']}\n- Found in: {family['forms']}\n- Becomes: {family['target']}\n")
    for name in family["passes"]:
        owner = passes[name]
        parts.append(f"`{name}`, {levels(owner)}: {owner.summary}\n")
        if owner.rules:
            rows = [row(rule) for rule in owner.rules]
            parts.append(table(("rule", "law", "may change", "opset", "starts at", "file"), rows))
        elif owner.rule_names:
            parts.append(f"It reports {', '.join(f'`{each}`' for each in owner.rule_names)}.\n")
    figures = family.get("figure", ())
    if figures:
        parts.append(table(("measured", "ratio"), [(each["what"], each["ratio"]) for each in figures]))
    return "\n".join(parts)


def row(rule: Rule) -> tuple[str, ...]:
    law, _, remark = rule.law.partition("  ")
    said = f"`{law}`" + (f" {remark.strip()}" if remark.strip() else "")
    changes = "bits" if rule.exact else "rounding"
    file = rule.source.partition(":")[0]
    return rule.name, said, changes, str(rule.opset or ""), where(rule), f"[{Path(file).name}](../{file})"


def where(rule: Rule) -> str:
    """The operators a rule starts at, and those inside its forms."""
    roots = dict.fromkeys(str(form) for form in rule.before)
    inner = sorted({name for form in rule.before for each in form.inputs for name in operators(each)} - set(roots))
    return ", ".join(roots) + (f" ({', '.join(inner)})" if inner else "")


def operators(term: Term | None) -> Iterator[str]:
    if isinstance(term, Op):
        yield str(term)
        for each in term.inputs:
            yield from operators(each)
    elif isinstance(term, AnyOf):
        for option in term.options:
            yield from operators(option)


def levels(owner: PassInfo) -> str:
    return f"-O{min(owner.levels)}" if owner.levels else "by name"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(re.sub(r'[|]', chr(92) + '|', cell) for cell in cells)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)]) + "\n"


def current() -> str:
    """The page as it must be now."""
    words = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    return page(words, {each.name: each for each in all_passes()})


if __name__ == "__main__":
    PAGE.write_text(current(), encoding="utf-8")
