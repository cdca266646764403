"""The report of `accelc optimize` and `accelc quantize` as a page: what became of a model, by whom, and how surely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from xml.etree.ElementTree import Element

from accelc import words
from accelc.budget import Budget
from accelc.decision_store import Decision
from accelc.measure import TOLERANCE, Comparison
from accelc.pages import pareto, passes
from accelc.pages.charts import Mark, Pair, Stack, bars, ms_tick, pairs, ratios, stacks
from accelc.pages.document import Child, became, facts, figure, items, paragraphs, section, table, tag, tiles
from accelc.pages.document import page as whole_page
from accelc.pareto import curve
from accelc.report import Report
from accelc.units import milliseconds, size
from accelc.words import Said

_MOST_OPERATORS = 12
_MOST_RATIOS = 24
_STRAYS_SHOWN = 40
_INPUTS_SHOWN = 6


def page(reports: Report | Sequence[Report], failures: Mapping[str, str] | None = None) -> str:
    """The page for one target or several. failures: target -> error, of targets that have no report."""
    found = [reports] if isinstance(reports, Report) else list(reports)
    failed = dict(failures or {})
    if len(found) == 1 and not failed:
        (one,) = found
        lead: list[Child] = [_lead(one), _tiles(one)]
        return whole_page("accelc optimize", _title(one), lead, list(_sections(one, "", 2)), _foot(found))
    parts = [section("Targets", _summary(found), items(_failed(failed)), id_="targets")]
    for index, each in enumerate(found, 1):
        inner = [_lead(each), _tiles(each), *_sections(each, f"target{index}-", 3)]
        parts.append(section(f"For {_target(each)}", inner, id_=f"target{index}"))
    name = _name(found[0]) if found else "The model"
    count = len(found) + len(failed)
    lead = [tag("p", "One model, compiled for each target by itself.", class_="quiet")]
    return whole_page("accelc optimize", f"{name} for {count} targets", lead, parts, _foot(found))


def _failed(failures: Mapping[str, str]) -> list[Said]:
    return [Said(f"{target}: {error}", "bad") for target, error in failures.items()]


def _title(found: Report) -> str:
    timed = found.latency
    if timed is not None and timed.verdict == "faster":
        return f"{_name(found)} is {timed.ratio:.2f} times as fast"
    if not found.patches:
        return f"{_name(found)} is left as it was"
    before, after = found.before, found.after
    if timed is not None and timed.verdict == "slower":
        return f"{_name(found)} is slower: {timed.ratio:.2f} times as fast"
    if after.nodes != before.nodes:
        return f"{_name(found)}: {before.nodes:,} nodes became {after.nodes:,}"
    return f"{_name(found)}: {size(before.bytes)} became {size(after.bytes)}"


def _name(found: Report) -> str:
    return PurePath(found.source).name


def _target(found: Report) -> str:
    return found.target.partition(" (")[0]


def _level(found: Report) -> str:
    return f"-O{found.level}" if found.level is not None else "chosen passes"


def _lead(found: Report) -> Element:
    said: list[Child] = [f"{_level(found)} on {_target(found)}: {found.patches:,} changes. "]
    if not found.patches:
        said = [f"{_level(found)} on {_target(found)}: {words.nothing_done(found)}. "]
    if found.unusable:
        said.append(Said(f"The target does not work here: {found.unusable}.", "caution"))
    return tag("p", said)


def _tiles(found: Report) -> Element:
    before, after, timed = found.before, found.after, found.latency
    rows = [
        ("nodes", became(f"{before.nodes:,}", f"{after.nodes:,}"), _change(before.nodes, after.nodes)),
        ("file size", became(size(before.bytes), size(after.bytes)), _change(before.bytes, after.bytes)),
    ]
    if timed is not None:
        times = became(milliseconds(timed.original_ms), milliseconds(timed.variant_ms))
        rows.append(("latency", times, f"{timed.ratio:.2f} times as fast [{timed.low:.2f}, {timed.high:.2f}]"))
    if found.verdict is not None:
        status = "not compared" if found.verdict.status == "skipped" else found.verdict.status
        rows.append(("numbers", status, "; ".join(line.text for line in words.numbers(found.verdict))))
    return tiles(rows)


def _change(before: float, after: float) -> str:
    said = words.change(before, after).text
    return "unchanged" if said == "-" else said


def _foot(found: Sequence[Report]) -> str | None:
    if not found:
        return None
    return ", ".join(f"{name} {version}" for name, version in found[0].versions.items())


def _summary(found: Sequence[Report]) -> Element:
    rows = [
        [
            _target(each),
            f"{each.after.nodes:,}",
            size(each.after.bytes),
            "not compared" if each.verdict is None or each.verdict.status == "skipped" else each.verdict.status,
            "not measured" if each.latency is None else _ratio(each.latency),
            each.output,
        ]
        for each in found
    ]
    heads = ["target", "nodes", "file size", "numbers", "times as fast", "written"]
    return table("What was made for each target.", heads, rows, numbers=(1, 2))


def _ratio(timed: Comparison) -> str:
    return f"{timed.ratio:.2f} [{timed.low:.2f}, {timed.high:.2f}]"


def _sections(found: Report, prefix: str, level: int) -> Iterator[Element]:
    parts: list[tuple[str, str, list[Child]]] = [
        ("graph", "The graph before and after", list(_graph(found, level + 1))),
        ("passes", "What the passes did", list(passes.parts(found, level + 1))),
        ("checks", "Is it the same, and is it faster?", list(_checks(found, level + 1))),
        ("decisions", "What was decided by measurement", list(_decisions(found, level + 1))),
        ("refused", "What was refused, left out and noted", list(_remarks(found))),
        ("quality", "Speed and quality", list(_curve(found, level + 1))),
        ("made", "How it was made", [_made(found)]),
    ]
    for name, title, children in parts:
        if children:
            yield section(title, *children, id_=prefix + name, level=level)


# --- the graph -------------------------------------------------------------------------------------------------------


def _graph(found: Report, level: int) -> Iterator[Child]:
    before, after = found.before, found.after
    counts = Counter(before.operators) | Counter(after.operators)
    order = sorted(counts, key=lambda name: (-counts[name], name))
    rows = [_pair(name, before.operators.get(name, 0), after.operators.get(name, 0)) for name in order]
    shown = rows[:_MOST_OPERATORS]
    if rest := rows[_MOST_OPERATORS:]:
        shown = [*shown, _pair(f"{len(rest)} others", sum(row.before for row in rest), sum(row.after for row in rest))]
    same = table(
        "Nodes by operator.",
        ["operator", "before", "after"],
        [[name, f"{before.operators.get(name, 0):,}", f"{after.operators.get(name, 0):,}"] for name in order],
        numbers=(1, 2),
    )
    drawing = pairs(shown, lambda tick: f"{tick:,.0f}")
    words_of = "How often each operator stands in the graph, subgraphs and functions included."
    sizes = [
        ("nodes", before.nodes, after.nodes, f"{before.nodes:,}", f"{after.nodes:,}"),
        ("parameters", before.parameters, after.parameters, f"{before.parameters:,}", f"{after.parameters:,}"),
        (
            "weights",
            before.weight_bytes,
            after.weight_bytes,
            size(before.weight_bytes),
            size(after.weight_bytes),
        ),
        ("files", before.bytes, after.bytes, size(before.bytes), size(after.bytes)),
    ]
    lines = [[name, old, new, _change(was, now)] for name, was, now, old, new in sizes]
    lines.append(["opset", str(before.opset), str(after.opset), _change(before.opset, after.opset)])
    yield table("The model in numbers.", ["", "before", "after", "change"], lines, numbers=(1, 2, 3))
    yield figure("Operators", words_of, drawing, same, level=level)
    if found.blocks:
        yield _blocks(found, level)


def _pair(name: str, before: float, after: float) -> Pair:
    return Pair(name, before, after, f"{before:,.0f} → {after:,.0f}")


def _blocks(found: Report, level: int) -> Element:
    forms = ("fused", "by the runtime", "in parts", "gone")
    parts = {
        kind: dict(zip(forms, (have.fused, have.runtime, have.unfused, have.gone), strict=True))
        for kind, have in found.blocks.items()
    }
    rows = [
        Stack(
            kind,
            {form: count for form, count in parts[kind].items() if count},
            words.block_count(kind, have).removeprefix(kind),
        )
        for kind, have in found.blocks.items()
    ]
    same = table(
        "Blocks of the original by what became of them.",
        ["kind", "found", *forms],
        [[kind, f"{have.found}", *map(str, parts[kind].values())] for kind, have in found.blocks.items()],
        numbers=range(1, 6),
    )
    caption = "Attention, norms and activations: one operator now, fused by the runtime while loading, or in parts."
    return figure("Blocks", caption, stacks(rows, lambda tick: f"{tick:,.0f}"), same, level=level)


# --- the checks ------------------------------------------------------------------------------------------------------


def _checks(found: Report, level: int) -> Iterator[Child]:
    rows: list[tuple[str, Child]] = []
    if found.verdict is not None:
        rows.append(("numbers", paragraphs(words.numbers(found.verdict))))
        rows += words.judged(found.verdict)
        if found.verdict.descriptions:
            rows.append(("inputs", words.listed(found.verdict.descriptions, _INPUTS_SHOWN)))
    if found.unrun:
        rows.append(("not run", words.unrun(found)))
    if found.placement is not None:
        rows.append(("placement", paragraphs(words.placement(found.placement, _STRAYS_SHOWN))))
    if found.latency is not None:
        rows.append(("latency", paragraphs(words.latency(found.latency))))
    if found.latency_note:
        rows.append(("measurement", found.latency_note.removeprefix("latency was ")))
    if rows:
        yield facts(rows)
    if found.verdict is not None and found.verdict.quality is not None and found.verdict.quality.outputs:
        yield table(
            "Outputs against those of the original.",
            ["output", "cosine", "relative error", "root mean square", "top-1"],
            [
                [
                    each.name,
                    f"{each.cosine:.7g}",
                    f"{each.relative_error:.2e}",
                    f"{each.rmse_relative:.2e}",
                    "" if each.top1 is None else f"{100 * each.top1:.2f} %",
                ]
                for each in found.verdict.quality.outputs
            ],
            numbers=(1, 2, 3, 4),
        )
    if found.latency is not None:
        yield tag("div", _times(found.latency, level), _speed(found.latency, level), class_="side")


def _times(timed: Comparison, level: int) -> Element:
    pair = (("original", timed.original_ms, timed.original_p90_ms), ("result", timed.variant_ms, timed.variant_p90_ms))
    marks = [Mark(name, median, milliseconds(median), more=f"p90 {milliseconds(p90)}") for name, median, p90 in pair]
    same = table(
        "Time of one run.",
        ["", "median", "90th percentile of rounds"],
        [[name, milliseconds(median), milliseconds(p90)] for name, median, p90 in pair],
        numbers=(1, 2),
    )
    caption = f"Medians of {timed.rounds} interleaved rounds."
    return figure("Latency", caption, bars(marks, ms_tick), same, level=level)


def _speed(timed: Comparison, level: int) -> Element:
    tone = {"faster": "good", "slower": "bad"}.get(timed.verdict, "")
    figure_of: list[Child] = [_ratio(timed), tag("span", timed.verdict, class_="quiet")]
    drawing = ratios([Mark("result", timed.ratio, figure_of, timed.low, timed.high, tone=tone)], TOLERANCE)
    same = table(
        "Ratio of the times, with its 95 % interval.",
        ["", "times as fast", "low", "high", "verdict"],
        [["result", f"{timed.ratio:.3f}", f"{timed.low:.3f}", f"{timed.high:.3f}", timed.verdict]],
        numbers=(1, 2, 3),
    )
    return figure("Times as fast as the original", _of_ratios(), drawing, same, level=level)


def _of_ratios() -> str:
    return f"Right of the line is faster. Bars: 95 % interval; shaded: no difference beyond {100 * TOLERANCE:.0f} %."


# --- decisions and remarks -------------------------------------------------------------------------------------------


def _decisions(found: Report, level: int) -> Iterator[Child]:
    if not found.decisions:
        return
    timed = [each for each in found.decisions if each.ratio is not None]
    same = table(
        "Where several equal graphs were possible: which was taken, and on what evidence.",
        ["asked by", "case", "choice", "evidence", "places"],
        [[each.rule, each.case, each.choice, each.evidence, f"{each.places:,}"] for each in found.decisions],
        numbers=(4,),
    )
    if not timed:
        yield same
        return
    more = f" The first {_MOST_RATIOS} of {len(timed)} are drawn." if len(timed) > _MOST_RATIOS else ""
    caption = f"The best alternative against the graph as it was. {_of_ratios()}{more}"
    drawing = ratios([_decision(each) for each in timed[:_MOST_RATIOS]], TOLERANCE)
    yield figure("Alternatives that were timed", caption, drawing, same, level=level)


def _decision(each: Decision) -> Mark:
    ratio, low, high = each.ratio or 1.0, each.low, each.high
    taken = each.choice == each.alternative
    bounds = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
    said: list[Child] = [
        f"{ratio:.2f}{bounds}",
        tag("span", f"{each.alternative} {'taken' if taken else 'not taken'}", class_="quiet"),
    ]
    return Mark(each.case, ratio, said, low, high, more=each.rule, tone="good" if taken else "")


def _remarks(found: Report) -> Iterator[Child]:
    refused = [[f"{each.kind} {each.name}", each.gate, each.reason] for each in found.refused]
    if refused:
        yield table("What failed a check and was undone.", ["switched off", "check", "why"], refused)
    rows: list[tuple[str, Child]] = []
    if not refused:
        rows.append(("refused", "nothing: every change passed every check"))
    for name, lines in (("repaired", found.repairs), ("left out", words.skipped(found)), ("noted", found.notes)):
        if lines:
            rows.append((name, paragraphs(lines)))
    yield facts(rows)


def _curve(found: Report, level: int) -> Iterator[Child]:
    budget = None
    if found.verdict is not None and found.verdict.limit and found.verdict.score is None:
        budget = Budget.parse(found.verdict.limit).drop
    data = curve(found, budget)
    if len(data["points"]) > 1:
        yield from pareto.drawing(data, level)


def _made(found: Report) -> Element:
    target, _, features = found.target.partition(" (")
    rows: list[tuple[str, Child]] = [("model", found.source), ("result", found.output or "not written")]
    rows.append(("target", f"{target}, {features.rstrip(')')}" if features else target))
    rows.append(("passes", tag("code", found.pipeline or "none")))
    return facts(rows)
