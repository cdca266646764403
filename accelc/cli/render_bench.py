"""A benchmark on a terminal: latency first, then what else it costs, where it ran, and what a reader must know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from accelc.benchmark import words
from accelc.benchmark.results import BenchResult, Row, Versus
from accelc.cli import render_profile
from accelc.cli.render import QUIET, facts, narrow, text
from accelc.units import milliseconds, seconds, size

_STYLES = {"faster": "green", "slower": "red", "yes": "red", "no": "green", "undecided": "yellow"}
_FALLEN_SHOWN = 8


def result(console: Console, found: BenchResult, *, verbose: bool = False) -> None:
    """Print all of it. verbose: also spread, cosine, and where each row ran when all is as it should be."""
    console.print()
    alike = len({words.where(row) for row in found.rows}) == 1
    for shape, rows in words.groups(found).items():
        _group(console, found, shape, rows, alike, verbose)
    for row in found.rows:
        if row.profile is not None:
            render_profile.profile(console, row, row.profile, verbose=verbose)
    if found.changes:
        render_profile.changes(console, found.changes, verbose=verbose)
    said = words.verdicts(found)
    lines = [
        *(("verdict", text(each)) for each in said[: words.MOST_VERDICTS]),
        *(("under load", text(f"{_name(row)}: {each}")) for row in found.rows for each in words.under_load(row)),
        *_places(found, verbose),
        *(("failed", text(f"{who}: {why}", "red")) for who, why in words.failures(found)),
        *(("no profile", text(f"{who}: {why}", "red")) for who, why in words.profile_failures(found)),
        *(("note", text(f"{who}: {note}")) for who, note in words.notes(found)),
        *(("noise", text(each, "yellow")) for each in found.noise),
        *(("condition", text(words.condition(each), _STYLES.get(each.holds, "yellow"))) for each in found.conditions),
        *(("note", text(each)) for each in found.notes),
        *_measured(found, verbose),
    ]
    console.print(facts(lines))
    console.print()


def _group(console: Console, found: BenchResult, shape: str, rows: Sequence[Row], alike: bool, verbose: bool) -> None:
    if all(row.failure for row in rows):
        return
    where = f"on {words.where(rows[0])}" if alike else ""
    what = "dry run" if _is_dry(found) else found.scenario.replace("-", " ")
    console.print(text(", ".join(filter(None, [shape, what, where])), "bold"), soft_wrap=True)
    console.print()
    if any(row.latency is not None for row in rows):
        timed = _latency(console, found, rows, not alike, compared=True, verbose=verbose)
        if _width(console, timed) <= console.width:
            console.print(timed)
        else:
            console.print(_latency(console, found, rows, not alike, compared=False, verbose=verbose))
            if any(row.versus for row in rows):
                console.print()
                console.print(_compared(console, found, rows, not alike))
        console.print()
        if missing := words.hidden(rows):
            console.print(text(missing, QUIET))
            console.print()
    if _is_dry(found):
        console.print(_placement(console, rows, not alike))
        console.print()
    elif any(row.load_ms is not None for row in rows):
        console.print(_costs(console, rows, not alike, verbose))
        console.print()


def _is_dry(found: BenchResult) -> bool:
    return bool(found.options.get("dry_run"))


def _width(console: Console, made: Table) -> int:
    return Measurement.get(console, console.options.update(max_width=1000), made).maximum


# --- tables of a group -----------------------------------------------------------------------------------------------


def _latency(
    console: Console, found: BenchResult, rows: Sequence[Row], place: bool, *, compared: bool, verbose: bool
) -> Table:
    kinds = [kind for kind in ("model", "provider") if any(words.versus(row, kind) for row in rows)] if compared else []
    searched = any(row.load is not None and row.load.most is not None for row in rows)
    timings = [row.latency for row in rows if row.latency is not None]
    tails = [name for name in ("p90", "p99") if any(getattr(each, f"{name}_ms") is not None for each in timings)]
    names = [
        "model",
        *(["on"] if place else []),
        "p50 ms",
        "95 %",
        *tails,
        *(["spread", "least"] if verbose else []),
        "per second",
        *(["served/s", "95 %"] if searched else []),
        *(name for kind in kinds for name in (f"against {_reference(found, rows, kind)}", "")),
    ]
    first = names.index("p50 ms")
    made = narrow(
        console,
        *names,
        folded=range(1 + place),
        numbers=range(first, names.index("per second") + (3 if searched else 1)),
    )
    for row in rows:
        cells: list[str | Text] = [text(row.label), *([text(words.where(row))] if place else [])]
        timed = row.latency
        if timed is None:
            made.add_row(*cells, Text("failed" if row.failure else "-", style="red" if row.failure else QUIET))
            continue
        cells += [words.number(timed.p50_ms.value), Text(words.interval(timed.p50_ms), style=QUIET)]
        cells += [_or_none(getattr(timed, f"{name}_ms"), words.number) for name in tails]
        if verbose:
            cells += [f"{100 * timed.spread:.1f} %", words.number(timed.least_ms)]
        cells.append(words.rate(timed.throughput.value))
        if searched:
            cells += _most(row)
        for kind in kinds:
            cells += _verdict(words.versus(row, kind))
        made.add_row(*cells)
    return made


def _most(row: Row) -> tuple[str, Text]:
    """The highest rate within the bound."""
    most = row.load.most if row.load is not None else None
    if most is None:
        return "-", Text("")
    return words.rate(most.value), Text(words.between(most.low, most.high, words.rate), style=QUIET)


def _compared(console: Console, found: BenchResult, rows: Sequence[Row], place: bool) -> Table:
    made = narrow(console, "model", *(["on"] if place else []), "against", "times as fast", "", folded=range(2 + place))
    for row in rows:
        for each in row.versus:
            made.add_row(
                text(row.label),
                *([text(words.where(row))] if place else []),
                text(_other(found, each)),
                *_verdict(each),
            )
    return made


def _reference(found: BenchResult, rows: Sequence[Row], kind: str) -> str:
    """What the rows are compared with, where that is one thing; else what kind of thing it is."""
    others = {_other(found, each) for row in rows for each in row.versus if each.kind == kind}
    return others.pop() if len(others) == 1 else f"the first {kind}"


def _other(found: BenchResult, each: Versus) -> str:
    row = found.rows[each.against]
    return row.label if each.kind == "model" else words.where(row)


def _verdict(found: Versus | None) -> tuple[Text, Text]:
    """The ratio with its interval, and the word."""
    if found is None:
        return Text("-", style=QUIET), Text("")
    return Text(words.ratio(found)), Text(found.verdict, style=_STYLES.get(found.verdict, ""))


def _costs(console: Console, rows: Sequence[Row], place: bool, verbose: bool) -> Table:
    device = any(row.device_bytes is not None for row in rows)
    detail = verbose and any(row.error is not None for row in rows)
    names = [
        "model",
        *(["on"] if place else []),
        "load",
        "first run",
        "memory",
        *(["on the device"] if device else []),
        "file",
        "error",
        *(["cosine"] if detail else []),
    ]
    first = names.index("load")
    made = narrow(console, *names, folded=range(1 + place), numbers=range(first, names.index("file") + 1))
    for row in rows:
        if row.load_ms is None:
            continue
        made.add_row(
            text(row.label),
            *([text(words.where(row))] if place else []),
            milliseconds(row.load_ms),
            _or_none(row.first_run_ms, milliseconds),
            _or_none(row.peak_bytes, size),
            *([_or_none(row.device_bytes, size)] if device else []),
            size(row.bytes),
            text(words.error(row.error)),
            *([_cosine(row)] if detail else []),
        )
    return made


def _or_none(value: float | None, shown: Callable[[float], str]) -> str:
    return "-" if value is None else shown(value)


def _cosine(row: Row) -> str:
    return "-" if row.error is None or row.error.cosine is None else f"{row.error.cosine:.6f}"


def _placement(console: Console, rows: Sequence[Row], place: bool) -> Table:
    """Of a dry run."""
    names = ["model", *(["on"] if place else []), "nodes", "by choice", "fallen back", "copies"]
    made = narrow(console, *names, numbers=range(2 + place, 5 + place), folded=range(2 + place))
    for row in rows:
        cells = [text(row.label), *([text(words.where(row))] if place else [])]
        if row.placed is None:
            made.add_row(*cells, Text("failed" if row.failure else "-", style="red" if row.failure else QUIET))
            continue
        placed = row.placed
        nodes = ", ".join(f"{words.short(name)} {count:,}" for name, count in placed.nodes.items())
        copies = _or_none(placed.copies, "{:,}".format)
        made.add_row(*cells, text(nodes), f"{placed.by_choice:,}", f"{len(placed.fallen):,}", copies)
    return made


# --- what else there is to say ---------------------------------------------------------------------------------------


def _name(row: Row) -> str:
    return f"{row.label} on {row.setting}"


def _places(found: BenchResult, verbose: bool) -> Iterator[tuple[str, Text]]:
    """Where each row ran; what is said of several rows alike is said once."""
    label = "will run on" if _is_dry(found) else "ran on"
    said: dict[tuple[str, ...], list[Row]] = {}
    for row in found.rows:
        if row.placed is not None and (verbose or not words.is_plain(row.placed)):
            said.setdefault(tuple(words.truth(row.placed)), []).append(row)
    for (first, *others), rows in said.items():
        who = _name(rows[0]) + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
        placed = rows[0].placed
        yield label, text(f"{who}: {first}", "yellow" if placed and (placed.fallen or placed.copies) else "")
        yield from ((label, text(each, "yellow")) for each in others[:_FALLEN_SHOWN])
        if len(others) > _FALLEN_SHOWN:
            yield label, text(f"and {len(others) - _FALLEN_SHOWN} more", QUIET)
    plain = sum(1 for row in found.rows if row.placed is not None and words.is_plain(row.placed))
    if plain and not verbose:
        every = "every row" if plain == len(found.rows) else f"{plain} of {len(found.rows)} rows"
        yield label, text(f"{every}: all nodes on the provider asked for, nothing copied", QUIET)


def _measured(found: BenchResult, verbose: bool) -> Iterator[tuple[str, Text]]:
    if how := words.how(found):
        yield "measured", text(how, QUIET)
    if verbose:
        yield "machine", text(words.machine(found.environment), QUIET)
    yield "time", text(seconds(found.seconds), QUIET)
